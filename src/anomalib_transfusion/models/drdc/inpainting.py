# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Which pixels are hidden, and what takes their place before the first pass of the denoiser.

An image is divided into square cells, each of which has a number; the pixels of the cells with one number are a set.
The sets of an image are disjoint and cover it (Zhan et al. 2024 speak of disjoint sets; the cells are those of RIAD,
Zavrtanik et al. 2021). Masks are 1 where a pixel is hidden and 0 where it is known.
"""

import torch
from torch import Tensor

from .filters import box_sum

__all__ = ["assemble", "check_cells", "fill", "lattice_sets", "random_sets"]


def lattice_sets(height: int, width: int, cell_size: int, num_sets: int, device: torch.device | None = None) -> Tensor:
    """Number the cells by a fixed lattice, so that maps depend on neither seed nor batch.

    Args:
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        cell_size: Side of a cell in pixels; it divides both.
        num_sets: Number n_s of sets. With four the lattice is that of 2 by 2 cells, and all eight neighbors of a hidden
            cell are known; otherwise a cell's number is row plus column, modulo n_s.
        device: Where the masks are wanted.

    Returns:
        The mask of each set, float32, ``(n_s, 1, H, W)``; their sum is 1.

    Raises:
        ValueError: If the cells do not divide the image, or a set would be empty.
    """
    rows, columns = check_cells(height, width, cell_size, num_sets)
    row, column = torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)[None, :]
    numbers = 2 * (row % 2) + column % 2 if num_sets == 4 else (row + column) % num_sets
    sets = torch.arange(num_sets, device=device).view(-1, 1, 1, 1)
    return _enlarge((numbers == sets).float(), cell_size)


def random_sets(
    batch: int,
    height: int,
    width: int,
    cell_size: int,
    num_sets: int,
    device: torch.device | None = None,
) -> Tensor:
    """Number the cells of each image at random, each number as often as the others, and return one set of each image.

    Args:
        batch: Number of images B.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        cell_size: Side of a cell in pixels; it divides both.
        num_sets: Number n_s of sets.
        device: Where the masks are drawn.

    Returns:
        The masks, float32, ``(B, 1, H, W)``: in each, of g cells g / n_s are hidden, rounded down or up.

    Raises:
        ValueError: If the cells do not divide the image, or there are fewer than sets.
    """
    rows, columns = check_cells(height, width, cell_size, num_sets)
    numbers = torch.rand(batch, rows * columns, device=device).argsort(dim=1).argsort(dim=1) % num_sets
    chosen = torch.randint(num_sets, (batch, 1), device=device)
    return _enlarge((numbers == chosen).float().view(batch, 1, rows, columns), cell_size)


def fill(images: Tensor, mask: Tensor, cell_size: int, *, lattice: bool = False) -> Tensor:
    """Replace hidden pixels by the mean of the known ones around them: a guess that holds nothing of what is hidden.

    The mean is over a square that reaches ``cell_size`` pixels to each side; where nothing is known in it, over one
    that reaches twice as far, and so on.

    Args:
        images: Images, ``(B, C, H, W)``.
        mask: 1 where a pixel is hidden, ``(B, 1, H, W)``, or ``(1, 1, H, W)`` for the same pixels of all images.
        cell_size: Side of a cell in pixels.
        lattice: Whether the masks are those of :func:`lattice_sets` with cells of this size. One square is then enough,
            for each hidden cell has a known neighbor.

    Returns:
        The images with hidden pixels filled, ``(B, C, H, W)``; 0 where no pixel of the image is known.
    """
    hidden = mask > 0.5
    known = (~hidden).to(images.dtype)
    # Not a product: infinity times 0 is not 0.
    visible = images.masked_fill(hidden, 0)
    filled, found = visible, ~hidden
    radius = cell_size
    while True:
        count = box_sum(known, radius)
        mean = box_sum(visible, radius) / count.clamp(min=1)
        filled = torch.where(found, filled, mean)
        found = found | (count > 0.5)
        if lattice or radius >= max(images.shape[-2:]) - 1:
            return filled
        radius *= 2


def assemble(painted: Tensor, masks: Tensor) -> Tensor:
    """Put an image together of what was painted in each set while it was hidden (R6).

    Args:
        painted: What was painted with each set hidden, ``(n_s, B, C, H, W)``.
        masks: The mask of each set, ``(n_s, 1, H, W)``.

    Returns:
        The images, ``(B, C, H, W)``, of which no pixel was seen.
    """
    return (masks.unsqueeze(1).to(painted.dtype) * painted).sum(dim=0)


def check_cells(height: int, width: int, cell_size: int, num_sets: int) -> tuple[int, int]:
    """Raise ValueError, naming the value, if an image cannot be divided into these cells and sets.

    Returns:
        Rows and columns of cells.
    """
    if height % cell_size or width % cell_size:
        msg = (
            f"cell_sizes: cells of {cell_size} pixels do not divide an image of {height}x{width} pixels (height x "
            "width); expected a divisor of both sides. Choose another cell size, or another image size with the Resize "
            "of the pre-processor."
        )
        raise ValueError(msg)
    rows, columns = height // cell_size, width // cell_size
    enough = min(rows, columns) >= 2 if num_sets == 4 else rows + columns > num_sets
    if not enough:
        least = "2x2" if num_sets == 4 else f"{num_sets + 1} rows and columns together"
        msg = (
            f"num_sets={num_sets} is impossible with {rows}x{columns} cells (of {cell_size} pixels in an image of "
            f"{height}x{width}); expected at least {least}, so that each set has a cell. Use smaller cells or fewer "
            "sets."
        )
        raise ValueError(msg)
    return rows, columns


def _enlarge(cells: Tensor, cell_size: int) -> Tensor:
    """Repeat each value of ``(B, 1, rows, columns)`` over the pixels of its cell."""
    return cells.repeat_interleave(cell_size, dim=2).repeat_interleave(cell_size, dim=3)
