# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Synthetic anomalies for batches of images, computed on the images' device without a loop over images."""

from anomalib_transfusion.moved import former_names
from anomalib_transfusion.synthesis.augmentation import augment
from anomalib_transfusion.synthesis.foreground import ForegroundMasks, estimate_foreground
from anomalib_transfusion.synthesis.generator import AnomalyGenerator, SyntheticAnomaly, check_synthesis, rotate_some
from anomalib_transfusion.synthesis.masks import anomaly_mask, draw_noise
from anomalib_transfusion.synthesis.perlin import perlin_noise
from anomalib_transfusion.synthesis.sources import TextureBank, structure_source

__all__ = [
    "AnomalyGenerator",
    "ForegroundMasks",
    "SyntheticAnomaly",
    "TextureBank",
    "anomaly_mask",
    "augment",
    "check_synthesis",
    "draw_noise",
    "estimate_foreground",
    "perlin_noise",
    "previous_mask",
    "rotate_some",
    "structure_source",
]

__getattr__ = former_names(__name__)
