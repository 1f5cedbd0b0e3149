# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The former name of the reports in :mod:`anomalib_transfusion.benchmark`, kept for code that has it."""

import sys
from importlib import import_module

from anomalib_transfusion.benchmark.report import report

__all__ = ["report"]

for _old, _new in {"plots": "plots", "report": "report", "results": "load", "tables": "tables"}.items():
    sys.modules[f"{__name__}.{_old}"] = import_module(f"anomalib_transfusion.benchmark.{_new}")
    # As before, ``report`` is the function here.
    globals().setdefault(_old, sys.modules[f"{__name__}.{_old}"])
