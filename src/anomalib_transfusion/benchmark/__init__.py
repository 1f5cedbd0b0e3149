# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Benchmarks: a config is expanded to rows, each row is run as a job and written to a file, and a report sums them up.

The names are resolved on first use: a report needs neither anomalib nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .draem import draem_with_photographs
    from .pipeline import Benchmark

__all__ = ["Benchmark", "draem_with_photographs"]

_MODULES = {"Benchmark": "pipeline", "draem_with_photographs": "draem"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name when it is first asked for."""
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}. Check the spelling."
        raise AttributeError(msg)
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
