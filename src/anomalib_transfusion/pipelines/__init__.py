# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The former name of :mod:`anomalib_transfusion.benchmark`, kept for configs and code that have it."""

import sys
from importlib import import_module

from anomalib_transfusion.benchmark import Benchmark, draem_with_photographs

__all__ = ["Benchmark", "draem_with_photographs"]

_MOVED = {"benchmark": "pipeline", **{name: name for name in ("draem", "job", "measure", "results", "rows")}}
for _old, _new in _MOVED.items():
    _module = import_module(f"anomalib_transfusion.benchmark.{_new}")
    globals()[_old] = sys.modules[f"{__name__}.{_old}"] = _module
