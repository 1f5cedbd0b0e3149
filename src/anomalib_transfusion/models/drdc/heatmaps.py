# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Heat maps of the refinement, and their fusion with the base model's.

Zhan et al. (2024) fuse a low-resolution heat map with high-resolution ones of several timesteps and scales, with a
mean filter of size m and a weight gamma; the formulas are ours.
"""

from typing import Literal

import torch
from kornia.metrics import ssim
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .filters import box_mean

__all__ = [
    "Difference",
    "Fusion",
    "bound",
    "box_mean",
    "difference",
    "fuse",
    "per_pixel",
    "refinement_map",
    "standardized",
]

Difference = Literal["absolute", "high_pass", "gradient", "structural"]
Fusion = Literal["sum", "product"]

# Of images in [-1, 1].
DYNAMIC_RANGE = 2.0
STRUCTURAL_SIZE = 11
HIGH_PASS_SIZE = 9
GRADIENT_LEVELS = 3
GRADIENT_OFFSET = 0.01
# Far below the deviation of any map: of constant ones, nothing is divided by 0.
SMALLEST_DEVIATION = 1e-6


def difference(kind: Difference, images: Tensor, painted: Tensor) -> Tensor:
    """Compare images with what was painted (R7).

    Args:
        kind: ``absolute`` difference, mean over the channels; ``high_pass``, the same of what a mean filter of 9 pixels
            takes away; dissimilarity of the ``gradient`` magnitude at three resolutions (as RIAD has it, Zavrtanik
            et al. 2021), for sides of at least 4 pixels; or ``structural`` dissimilarity, 1 - SSIM in windows of 11
            pixels (Wang et al. 2004), halved.
        images: Images in [-1, 1], ``(B, C, H, W)``.
        painted: What was painted, likewise.

    Returns:
        The maps, at least 0, ``(B, 1, H, W)``.
    """
    if kind == "gradient":
        return _gradient_difference(images, painted)
    if kind == "structural":
        similarity = ssim(images, painted, STRUCTURAL_SIZE, max_val=DYNAMIC_RANGE)
        return (1 - similarity).mean(dim=1, keepdim=True) / 2
    residual = images - painted
    if kind == "high_pass":
        residual = residual - box_mean(residual, HIGH_PASS_SIZE)
    return residual.abs().mean(dim=1, keepdim=True)


def refinement_map(kind: Difference, images: Tensor, painted: Tensor) -> Tensor:
    """Average the differences over timesteps and cell sizes (R8).

    Args:
        kind: As of :func:`difference`.
        images: Images in [-1, 1], ``(B, C, H, W)``.
        painted: What was painted at each timestep with each cell size, ``(N, B, C, H, W)``.

    Returns:
        The maps H_diff, ``(B, 1, H, W)``.
    """
    maps = difference(kind, images.expand_as(painted).flatten(0, 1), painted.flatten(0, 1))
    return maps.unflatten(0, painted.shape[:2]).mean(dim=0)


def fuse(
    base_map: Tensor,
    refinement: Tensor | None,
    statistics: Tensor,
    gamma: float,
    filter_size: int,
    fusion: Fusion = "sum",
) -> Tensor:
    """Fuse the maps of base model and refinement, each in deviations from that of normal images (R9).

    Args:
        base_map: Maps of the base model, ``(B, 1, H, W)``.
        refinement: Maps H_diff of the refinement, likewise; ``None`` for the base model alone.
        statistics: Mean and deviation of the first, then of the second over the pixels of normal images of the
            category, of each pixel or of all, ``(B, 4, H, W)`` or ``(B, 4, 1, 1)``.
        gamma: Weight of the refinement.
        filter_size: Side of the mean filter in pixels, odd.
        fusion: ``sum`` of the first and gamma times the second; or ``product`` of the first and 1 plus gamma times the
            second, both cut off below 0.

    Returns:
        The maps, about 0 for normal images, ``(B, 1, H, W)``.
    """
    fused = standardized(base_map, statistics[:, :2])
    if refinement is not None:
        weighted = gamma * standardized(refinement, statistics[:, 2:])
        fused = fused + weighted if fusion == "sum" else fused.clamp(min=0) * (1 + weighted.clamp(min=0))
    return box_mean(fused, filter_size)


def standardized(values: Tensor, statistics: Tensor) -> Tensor:
    """Return values in deviations from the mean of normal images.

    Args:
        values: Maps ``(B, 1, H, W)``, or scores ``(B, 1)``.
        statistics: Mean and deviation for each image, ``(B, 2, H, W)``, ``(B, 2, 1, 1)`` or ``(B, 2)``.
    """
    mean, deviation = statistics.chunk(2, dim=1)
    return (values - mean) / deviation.clamp(min=SMALLEST_DEVIATION)


def per_pixel(table: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate the statistics of a grid's cells bilinearly, for each pixel one; a single cell's are for all.

    Args:
        table: Statistics of the cells, ``(B, N, g, g)``.
        size: Height and width of the maps.

    Returns:
        The statistics, ``(B, N, H, W)``, or ``(B, N, 1, 1)`` of a single cell.
    """
    if table.shape[-1] == 1:
        return table
    return F.interpolate(table, size=size, mode="bilinear", align_corners=False)


def bound(maps: Tensor) -> Tensor:
    """Map numbers onto (0, 1), larger ones onto larger ones: anomalib's AUROC cannot tell large scores apart.

    Args:
        maps: Maps or scores, of any shape; 0 becomes 0.5.
    """
    return (1 + maps / (1 + maps.abs())) / 2


def _gradient_difference(images: Tensor, painted: Tensor) -> Tensor:
    """Return the dissimilarity of gradient magnitudes, the mean over resolutions, ``(B, 1, H, W)`` (R7c)."""
    size = images.shape[-2:]
    pair = [x.mean(dim=1, keepdim=True) for x in (images, painted)]
    maps = []
    for level in range(GRADIENT_LEVELS):
        if level:
            pair = [F.avg_pool2d(x, 2) for x in pair]
        first, second = (_gradient_magnitude(x) for x in pair)
        similarity = (2 * first * second + GRADIENT_OFFSET) / (first**2 + second**2 + GRADIENT_OFFSET)
        maps.append(F.interpolate(1 - similarity, size=size, mode="bilinear", align_corners=False))
    return torch.stack(maps).mean(dim=0)


def _gradient_magnitude(x: Tensor) -> Tensor:
    """Return the magnitude of Prewitt's gradient of ``(B, 1, H, W)``, border pixels repeated beyond the border."""
    slope = torch.tensor([-1.0, 0.0, 1.0], dtype=x.dtype, device=x.device).expand(3, 3) / 3
    filters = torch.stack((slope, slope.T)).unsqueeze(1)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), filters).square().sum(dim=1, keepdim=True).sqrt()
