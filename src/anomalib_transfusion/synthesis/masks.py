# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Anomaly masks and simulated previous masks from Perlin noise (section 3.3 of the paper)."""

import torch
from torch import Tensor

from anomalib_transfusion.synthesis.perlin import perlin_noise

MAX_EXPONENT = 5
ROTATION_DEGREES = 90.0
THRESHOLD = 0.5

# The four kinds of simulated previous mask.
DROPPED, SHRUNK, SAME, GROWN = range(4)


def draw_noise(
    batch: int,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    min_exponent: int = 0,
) -> Tensor:
    """Draw noise maps with 2^0 to 2^5 cells an axis, drawn independently, rotated by up to 90 degrees either way.

    Args:
        batch: Number of maps ``B``.
        size: Height and width in pixels.
        device: Where the maps are drawn and stay.
        min_exponent: The smallest power of two that is drawn, 0 to 5: more cells, smaller anomalies.

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


def previous_mask(noise: Tensor, kind: Tensor | int | None = None) -> Tensor:
    """Simulate the mask that the step before in the reverse process would have found.

    The threshold on the magnitude of the noise is, a quarter each: the map's own (signed) maximum, which drops the
    anomaly or nearly all of it; uniform in (0.5, 1), which shrinks it; 0.5, which keeps it; uniform in (0, 0.5),
    which lets it grow.

    Args:
        noise: Noise of shape ``(B, 1, H, W)`` from which the anomaly mask was taken.
        kind: ``DROPPED``, ``SHRUNK``, ``SAME`` or ``GROWN`` for all maps, or integers of shape ``(B,)`` for each.
            Drawn uniformly where ``None``.

    Returns:
        The mask, 0 or 1, shape ``(B, 1, H, W)``, in the type of ``noise``.
    """
    batch = len(noise)
    if kind is None:
        kind = torch.randint(0, 4, (batch,), device=noise.device)
    elif isinstance(kind, int):
        kind = torch.full((batch,), kind, device=noise.device)
    uniform = torch.rand(batch, device=noise.device, dtype=noise.dtype)
    thresholds = torch.stack((
        noise.flatten(1).amax(dim=1),
        THRESHOLD + (1 - THRESHOLD) * uniform,
        torch.full_like(uniform, THRESHOLD),
        THRESHOLD - THRESHOLD * uniform,
    ))
    threshold = thresholds.gather(0, kind.view(1, -1)).view(-1, 1, 1, 1)
    return (noise.abs() > threshold).to(noise.dtype)
