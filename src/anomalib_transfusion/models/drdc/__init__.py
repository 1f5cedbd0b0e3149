# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DRDC: diffusion refinement with dual conditioning (after Zhan et al. 2024), one model for all categories."""

from .lightning_model import Drdc
from .torch_model import DrdcModel

__all__ = ["Drdc", "DrdcModel"]
