# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DiffusionAD: norm-guided one-step denoising diffusion for anomaly detection (Zhang et al., TPAMI 2025)."""

from .lightning_model import DiffusionAD
from .torch_model import DiffusionADModel

__all__ = ["DiffusionAD", "DiffusionADModel"]
