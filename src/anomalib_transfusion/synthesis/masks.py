# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Anomaly masks from Perlin noise (TransFusion paper, Section 3.3)."""

import torch
from torch import Tensor

from anomalib_transfusion.moved import former_names
from anomalib_transfusion.synthesis.perlin import perlin_noise

__all__ = ["anomaly_mask", "draw_noise", "previous_mask"]

MAX_EXPONENT = 5
ROTATION_DEGREES = 90.0
THRESHOLD = 0.5

__getattr__ = former_names(__name__)


def draw_noise(
    batch: int,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    min_exponent: int = 0,
) -> Tensor:
    """Draw Perlin noise with 2^0 to 2^5 cells along each axis, rotated by up to 90 degrees in either direction.

    Args:
        batch: Number of maps ``B``.
        size: Height and width in pixels.
        device: Device of the maps.
        min_exponent: Exponent of the smallest number of cells, 0 to 5; more cells give smaller anomalies.

    Returns:
        The noise, shape ``(B, 1, H, W)``, about in [-1, 1].
    """
    cells = 2 ** torch.randint(min_exponent, MAX_EXPONENT + 1, (batch, 2), device=device)
    angle = (2 * torch.rand(batch, device=device) - 1) * ROTATION_DEGREES
    return perlin_noise(cells, size, angle, max_cells=2**MAX_EXPONENT)


def anomaly_mask(noise: Tensor) -> Tensor:
    """Mark the pixels whose noise exceeds one half in magnitude.

    Args:
        noise: Noise of shape ``(B, 1, H, W)``.

    Returns:
        The mask, 0 or 1, shape ``(B, 1, H, W)``, in the type of ``noise``.
    """
    return (noise.abs() > THRESHOLD).to(noise.dtype)
