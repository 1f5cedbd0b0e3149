# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Perlin noise with its own grid and rotation for each image, as two matrix products for the whole batch."""

import math

import torch
from torch import Tensor

from anomalib_transfusion.synthesis.geometry import rotate


def _corner_weights(cells: Tensor, length: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Return weight and weighted signed distance of each lattice node along one axis for each pixel.

    The quintic fade is symmetric, fade(1 - t) = 1 - fade(t), so a node's weight is the fade of one minus its
    distance, and nodes at a distance of one cell or more have weight zero. No floor and no gather is needed.

    Args:
        cells: Cells along the axis, shape ``(B,)``.
        length: Pixels along the axis.
        nodes: Lattice nodes to weigh, at least one more than the largest of ``cells``.

    Returns:
        Weights and weighted distances (in cells), both of shape ``(B, length, nodes)``.
    """
    pixels = torch.arange(length, device=cells.device, dtype=torch.float32)
    # Multiplied before divided: whole positions stay whole.
    positions = cells.float().view(-1, 1, 1) * pixels.view(1, -1, 1) / length
    distance = positions - torch.arange(nodes, device=cells.device, dtype=torch.float32)
    t = (1 - distance.abs()).clamp(min=0)
    weight = t * t * t * (t * (6 * t - 15) + 10)
    return weight, weight * distance


def perlin_noise(
    cells: Tensor,
    size: tuple[int, int],
    angle: Tensor | None = None,
    *,
    max_cells: int | None = None,
    directions: Tensor | None = None,
) -> Tensor:
    """Draw gradient noise with random unit gradients and the quintic fade (Perlin 2002), times the square root of two.

    Noise on an axis-parallel lattice is a sum over the nodes of a row factor times a column factor, so two batched
    matrix products evaluate it. The raster is rotated bilinearly, as in the published implementation: interpolation
    slightly lowers the peaks of fine grids, which affects the statistics of the masks.

    Args:
        cells: Rows and columns of cells over the image, integers of shape ``(B, 2)``. They need not divide the
            image's sides. The noise is made on their device.
        size: Height and width of the image in pixels.
        angle: Angles in degrees of shape ``(B,)`` by which each image is rotated about its center. Pixels from
            outside of the image are zero. ``None`` rotates nothing.
        max_cells: An upper bound of ``cells``. ``None`` reads it from ``cells``, for which the host waits for an
            accelerator.
        directions: The gradients' directions in radians, from the row axis towards the column axis, of shape
            ``(B, R, C)`` with at least one node more than there are cells. Drawn uniformly where ``None``.

    Returns:
        The noise, shape ``(B, 1, H, W)``, about in [-1, 1].
    """
    if directions is None:
        nodes = (int(cells.max()) if max_cells is None else max_cells) + 1
        directions = 2 * math.pi * torch.rand(len(cells), nodes, nodes, device=cells.device)
    # Masks threshold this noise, so autocast must not round the products to 16 bits.
    with torch.autocast(cells.device.type, enabled=False):
        row_weight, row_offset = _corner_weights(cells[:, 0], size[0], directions.shape[1])
        column_weight, column_offset = _corner_weights(cells[:, 1], size[1], directions.shape[2])
        along_rows = torch.bmm(directions.cos(), column_weight.mT)
        along_columns = torch.bmm(directions.sin(), column_offset.mT)
        noise = torch.bmm(
            torch.cat((row_offset, row_weight), dim=2),
            torch.cat((along_rows, along_columns), dim=1),
        )
        noise = math.sqrt(2) * noise.unsqueeze(1)
        return noise if angle is None else rotate(noise, angle)
