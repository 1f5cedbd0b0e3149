# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The models of this plugin."""

# First, so that the post-import hook of the plugin has run before our own modules are partially imported.
import anomalib.models  # noqa: F401  # isort: skip

from .diffusion_ad import DiffusionAD, DiffusionADModel
from .drdc import Drdc, DrdcModel
from .transfusion import TransFusion, TransFusionModel

__all__ = ["DiffusionAD", "DiffusionADModel", "Drdc", "DrdcModel", "TransFusion", "TransFusionModel"]
