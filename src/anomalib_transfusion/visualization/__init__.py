# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The pictures of this plugin."""

# First, so that the post-import hook of the plugin has run before our own modules are partially imported.
import anomalib.models  # noqa: F401  # isort: skip

from .film_strip import visualize_reverse_process
from .panels import TrainingPanels
from .result_sheet import ResultSheet
from .training_grid import TrainingGrid

__all__ = ["ResultSheet", "TrainingGrid", "TrainingPanels", "visualize_reverse_process"]
