# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The pictures of this plugin."""

from .film_strip import visualize_reverse_process
from .result_sheet import ResultSheet
from .training_grid import TrainingGrid

__all__ = ["ResultSheet", "TrainingGrid", "visualize_reverse_process"]
