# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The pictures of this plugin."""

# First, so that the post-import hook of the plugin has run before our own modules are half imported.
import anomalib.models  # noqa: F401  # isort: skip

from importlib import import_module
from typing import Any

from .panels import TrainingPanels
from .result_sheet import ResultSheet
from .training_grid import TrainingGrid

__all__ = ["ResultSheet", "TrainingGrid", "TrainingPanels", "visualize_reverse_process"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Find what was here before it moved to its model, which imports this package."""
    if name != "visualize_reverse_process":
        msg = f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}. Check the spelling."
        raise AttributeError(msg)
    return getattr(import_module("anomalib_transfusion.models.transfusion.film_strip"), name)
