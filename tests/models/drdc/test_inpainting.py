# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Disjoint sets of cells and the fill of hidden pixels, against loops over cells and pixels."""

import re

import numpy as np
import pytest
import torch

from anomalib_transfusion.models.drdc.inpainting import assemble, fill, lattice_sets, random_sets

from .test_filters import around


def numbers_of(sets: torch.Tensor, cell: int) -> np.ndarray:
    """Return the number of each cell, of which each pixel must have the same."""
    of_pixels = sets[:, 0].argmax(dim=0).numpy()
    cells = of_pixels[::cell, ::cell]
    np.testing.assert_array_equal(of_pixels, np.kron(cells, np.ones((cell, cell), dtype=int)))
    return cells


@pytest.mark.parametrize("num_sets", [2, 3, 4, 5, 8])
def test_lattice_is_disjoint_and_covers_the_image(num_sets):
    sets = lattice_sets(24, 40, 4, num_sets)
    assert sets.shape == (num_sets, 1, 24, 40)
    assert set(sets.unique().tolist()) == {0.0, 1.0}
    assert (sets.sum(dim=0) == 1).all()
    assert (sets.sum(dim=(1, 2, 3)) > 0).all()
    for row, column in np.ndindex(6, 10):
        number = 2 * (row % 2) + column % 2 if num_sets == 4 else (row + column) % num_sets
        assert numbers_of(sets, 4)[row, column] == number


def test_four_sets_leave_all_eight_neighbors_known():
    numbers = numbers_of(lattice_sets(32, 48, 8, 4), 8)
    for row, column in np.ndindex(numbers.shape):
        assert (around(numbers, row, column, 1) == numbers[row, column]).sum() == 1


@pytest.mark.parametrize("num_sets", [2, 3, 4, 7])
def test_random_sets_are_balanced(num_sets):
    torch.manual_seed(0)
    masks = random_sets(200, 20, 28, 4, num_sets)
    assert masks.shape == (200, 1, 20, 28)
    cells = masks[:, 0, ::4, ::4]
    np.testing.assert_array_equal(masks[:, 0].numpy(), np.kron(cells.numpy(), np.ones((1, 4, 4))))
    hidden = cells.sum(dim=(1, 2))
    # 35 cells: each image hides a share of them that is rounded, down in some and up in others.
    assert set(hidden.tolist()) == {float(35 // num_sets), float(-(-35 // num_sets))}
    assert hidden.mean().item() == pytest.approx(35 / num_sets, abs=0.1)


def test_random_sets_differ_and_favor_no_cell():
    torch.manual_seed(0)
    cells = random_sets(4000, 16, 16, 4, 4)[:, 0, ::4, ::4]
    assert len(cells.flatten(1).unique(dim=0)) > 1000
    # Four deviations of a mean of 4000 draws with probability 1/4.
    assert (cells.mean(dim=0) - 0.25).abs().max() < 4 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize("draw", [lattice_sets, lambda *sizes: random_sets(2, *sizes)])
@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ((30, 32, 8, 4), "cells of 8 pixels do not divide an image of 30x32 pixels"),
        ((32, 30, 8, 4), "cells of 8 pixels do not divide an image of 32x30 pixels"),
        ((8, 32, 8, 4), "num_sets=4 is impossible with 1x4 cells"),
        ((32, 32, 8, 8), "num_sets=8 is impossible with 4x4 cells"),
        ((8, 8, 8, 2), "num_sets=2 is impossible with 1x1 cells"),
    ],
)
def test_impossible_cells_are_refused(draw, sizes, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        draw(*sizes)


def test_as_many_sets_as_there_are_diagonals_are_possible():
    assert (lattice_sets(32, 32, 8, 7).sum(dim=(1, 2, 3)) > 0).all()


def filled_by_loops(images: np.ndarray, mask: np.ndarray, cell: int) -> np.ndarray:
    """Replace each hidden pixel by the mean of the known ones in the smallest square that has any."""
    filled = images.copy()
    for number, row, column in zip(*np.nonzero(mask[:, 0]), strict=True):
        radius = cell
        while not (known := around(1 - mask[number], row, column, radius)).any():
            radius *= 2
        total = (around(images[number], row, column, radius) * known).sum(axis=(1, 2))
        filled[number, :, row, column] = total / known.sum()
    return filled


@pytest.mark.parametrize("num_sets", [2, 4])
def test_fill_is_the_mean_of_known_pixels(num_sets):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 24, 40, dtype=torch.float64)
    mask = random_sets(2, 24, 40, 4, num_sets)
    expected = filled_by_loops(images.numpy(), mask.numpy(), 4)
    filled = fill(images, mask, 4)
    np.testing.assert_allclose(filled.numpy(), expected, atol=1e-12)
    assert torch.equal(filled.masked_fill(mask > 0.5, 0), images.masked_fill(mask > 0.5, 0))


def test_fill_doubles_its_radius_where_nothing_is_known():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 20, 33, dtype=torch.float64)
    mask = torch.ones(1, 1, 20, 33)
    mask[..., :2] = 0
    filled = fill(images, mask, 2).numpy()
    np.testing.assert_allclose(filled, filled_by_loops(images.numpy(), mask.numpy(), 2), atol=1e-12)
    # 31 columns to the nearest known pixel: 2, 4, 8 and 16 do not reach it, 32 reaches all.
    np.testing.assert_allclose(filled[0, :, 5, 32], images[0, :, :, :2].mean(dim=(1, 2)).numpy(), atol=1e-12)


def test_fill_where_all_is_hidden_is_gray():
    assert (fill(torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8), 4) == 0).all()


@pytest.mark.parametrize("hidden", [5.0, -1.0, torch.inf, torch.nan])
def test_fill_holds_nothing_of_hidden_pixels(hidden):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    for mask in lattice_sets(32, 32, 8, 4):
        changed = images.masked_fill(mask > 0.5, hidden)
        assert torch.equal(fill(changed, mask[None], 8), fill(images, mask[None], 8))


@pytest.mark.parametrize(
    ("sizes", "num_sets"),
    [((32, 48), 4), ((16, 16), 4), ((8, 16), 2), ((16, 8), 2), ((32, 32), 7), ((24, 40), 3)],
)
def test_in_a_lattice_one_square_is_enough(sizes, num_sets):
    images = torch.rand(1, 3, *sizes)
    for mask in lattice_sets(*sizes, 8, num_sets):
        assert torch.equal(fill(images, mask[None], 8, lattice=True), fill(images, mask[None], 8))


def test_one_mask_for_a_batch_and_masks_of_flags():
    images = torch.rand(3, 3, 16, 16)
    mask = lattice_sets(16, 16, 4, 4)[:1]
    expected = torch.cat([fill(image[None], mask, 4) for image in images])
    assert torch.equal(fill(images, mask, 4), expected)
    assert torch.equal(fill(images, mask.bool(), 4), expected)


def test_assembled_image_has_each_pixel_from_its_set():
    masks = lattice_sets(16, 24, 4, 4)
    painted = torch.randn(4, 2, 3, 16, 24)
    image = assemble(painted, masks)
    for row, column in np.ndindex(16, 24):
        number = 2 * (row // 4 % 2) + column // 4 % 2
        assert torch.equal(image[:, :, row, column], painted[number, :, :, row, column])
