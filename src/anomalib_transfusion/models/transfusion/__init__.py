# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""TransFusion: a transparency-based diffusion model for anomaly detection (Fučka et al., ECCV 2024)."""

from .lightning_model import TransFusion
from .torch_model import TransFusionModel

__all__ = ["TransFusion", "TransFusionModel"]
