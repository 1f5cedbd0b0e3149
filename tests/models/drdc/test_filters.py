# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Sums and means over squares, against loops over pixels."""

import numpy as np
import pytest
import torch

from anomalib_transfusion.models.drdc.filters import box_mean, box_sum


def around(array: np.ndarray, row: int, column: int, radius: int) -> np.ndarray:
    """Cut the square around a pixel out of ``(..., H, W)``, as far as it is inside."""
    return array[..., max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1]


@pytest.mark.parametrize("radius", [0, 1, 3, 20])
def test_box_sum(radius):
    x = torch.randn(2, 3, 7, 11, dtype=torch.float64)
    expected = np.empty(x.shape)
    for row, column in np.ndindex(7, 11):
        expected[:, :, row, column] = around(x.numpy(), row, column, radius).sum(axis=(2, 3))
    np.testing.assert_allclose(box_sum(x, radius).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 7, 31])
def test_box_mean_at_borders_is_over_what_is_inside(size):
    x = torch.randn(2, 3, 7, 11, dtype=torch.float64)
    expected = np.empty(x.shape)
    for row, column in np.ndindex(7, 11):
        expected[:, :, row, column] = around(x.numpy(), row, column, size // 2).mean(axis=(2, 3))
    np.testing.assert_allclose(box_mean(x, size).numpy(), expected, atol=1e-12)


def test_box_mean_of_a_constant_is_the_constant():
    """Zeros beyond the border would make it less there."""
    np.testing.assert_allclose(box_mean(torch.full((1, 1, 9, 9), 3.0), 7).numpy(), 3, rtol=1e-6)


def test_sums_of_a_large_image_keep_their_digits():
    """Running sums over the whole image, not over rows and columns, would be off by some thousandths."""
    torch.manual_seed(0)
    x = torch.rand(1, 1, 512, 512)
    exact = box_sum(x.double(), 8)
    assert (box_sum(x, 8) - exact).abs().max() < 1e-3
