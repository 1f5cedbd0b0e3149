# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Maps of the refinement and their fusion against loops over pixels (R7, R8, R9)."""

import numpy as np
import pytest
import torch

from anomalib_transfusion.models.drdc.heatmaps import bound, difference, fuse, refinement_map

from .test_filters import around


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.rand(2, 2, 3, 16, 24, dtype=torch.float64) * 2 - 1


def test_absolute_difference(pair):
    images, painted = pair
    expected = np.abs(images.numpy() - painted.numpy()).sum(axis=1, keepdims=True) / 3
    np.testing.assert_allclose(difference("absolute", images, painted).numpy(), expected, atol=1e-12)


def test_high_pass_difference(pair):
    images, painted = pair
    residual = (images - painted).numpy()
    expected = np.empty((2, 1, 16, 24))
    for row, column in np.ndindex(16, 24):
        low = around(residual, row, column, 4).mean(axis=(2, 3))
        expected[:, 0, row, column] = np.abs(residual[:, :, row, column] - low).mean(axis=1)
    np.testing.assert_allclose(difference("high_pass", images, painted).numpy(), expected, atol=1e-12)


def test_high_pass_sees_no_shift_of_brightness(pair):
    images = pair[0]
    assert difference("high_pass", images, images + 0.3).max() < 1e-9
    assert difference("absolute", images, images + 0.3).mean().item() == pytest.approx(0.3)


def magnitude(gray: np.ndarray) -> np.ndarray:
    """Return the magnitude of Prewitt's gradient of an image, border pixels repeated."""
    padded = np.pad(gray, 1, mode="edge")
    result = np.empty_like(gray)
    for row, column in np.ndindex(gray.shape):
        window = padded[row : row + 3, column : column + 3]
        across = (window[:, 2].sum() - window[:, 0].sum()) / 3
        down = (window[2].sum() - window[0].sum()) / 3
        result[row, column] = np.hypot(across, down)
    return result


def doubled(small: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge an image linearly, pixel centers in place."""
    for axis in (0, 1):
        size = small.shape[axis]
        at = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
        lower = np.minimum(np.floor(at).astype(int), size - 1)
        upper = np.minimum(lower + 1, size - 1)
        share = (at - lower).reshape((-1, 1) if axis == 0 else (1, -1))
        small = small.take(lower, axis) * (1 - share) + small.take(upper, axis) * share
    return small


def test_gradient_difference(pair):
    images, painted = (x.numpy().mean(axis=1) for x in pair)
    expected = np.zeros((2, 1, 16, 24))
    for number in range(2):
        first, second = images[number], painted[number]
        for level in range(3):
            g, h = magnitude(first), magnitude(second)
            dissimilarity = 1 - (2 * g * h + 0.01) / (g**2 + h**2 + 0.01)
            expected[number, 0] += doubled(dissimilarity, 2**level) / 3
            first, second = (x.reshape(len(x) // 2, 2, -1, 2).mean(axis=(1, 3)) for x in (first, second))
    np.testing.assert_allclose(difference("gradient", *pair).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "rounding"),
    # kornia adds 1e-12 to the product of variances and means.
    [("absolute", 1e-12), ("high_pass", 1e-12), ("gradient", 1e-12), ("structural", 1e-8)],
)
def test_equal_images_do_not_differ(pair, kind, rounding):
    assert difference(kind, pair[0], pair[0]).abs().max() < rounding


def test_gradient_of_sides_that_no_two_divides():
    maps = difference("gradient", torch.rand(1, 3, 13, 18), torch.rand(1, 3, 13, 18))
    assert maps.shape == (1, 1, 13, 18)
    assert maps.isfinite().all()


@pytest.mark.parametrize("kind", ["absolute", "high_pass", "gradient", "structural"])
def test_refinement_map_is_the_mean_over_timesteps_and_cell_sizes(pair, kind):
    painted = torch.rand(6, 2, 3, 16, 24, dtype=torch.float64) * 2 - 1
    expected = sum(difference(kind, pair[0], one) for one in painted) / 6
    torch.testing.assert_close(refinement_map(kind, pair[0], painted), expected)


def test_structural_difference(pair):
    """SSIM in a Gaussian window of 11 pixels and deviation 1.5, where the window is inside of the image."""
    images, painted = (x.numpy() for x in pair)
    window = np.outer(*[np.exp(-np.square(np.arange(-5, 6)) / 4.5)] * 2)
    window /= window.sum()
    found = difference("structural", *pair).numpy()
    for number, row, column in np.ndindex(2, 16, 24):
        if not (5 <= row < 11 and 5 <= column < 19):
            continue
        similarity = []
        for channel in range(3):
            x, y = (p[number, channel, row - 5 : row + 6, column - 5 : column + 6] for p in (images, painted))
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            variances = (window * (x - mean_x) ** 2).sum() + (window * (y - mean_y) ** 2).sum()
            covariance = (window * (x - mean_x) * (y - mean_y)).sum()
            luminance = (2 * mean_x * mean_y + 0.02**2) / (mean_x**2 + mean_y**2 + 0.02**2)
            similarity.append(luminance * (2 * covariance + 0.06**2) / (variances + 0.06**2))
        assert found[number, 0, row, column] == pytest.approx((1 - np.mean(similarity)) / 2, abs=1e-6)


@pytest.mark.parametrize("fusion", ["sum", "product"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_fusion(gamma, fusion):
    torch.manual_seed(0)
    base, refinement = torch.rand(2, 2, 1, 9, 12, dtype=torch.float64)
    statistics = torch.tensor([[0.3, 0.1, 0.5, 0.2], [20.0, 4.0, 0.01, 0.003]], dtype=torch.float64)
    fused = fuse(base, refinement, statistics[..., None, None], gamma, 5, fusion).numpy()
    for number, row, column in np.ndindex(2, 9, 12):
        of_base, of_refinement = (around(x[number, 0].numpy(), row, column, 2) for x in (base, refinement))
        base_mean, base_deviation, mean, deviation = statistics[number].tolist()
        z_base, z_refinement = (of_base - base_mean) / base_deviation, (of_refinement - mean) / deviation
        values = z_base + gamma * z_refinement
        if fusion == "product":
            values = np.maximum(z_base, 0) * (1 + gamma * np.maximum(z_refinement, 0))
        assert fused[number, 0, row, column] == pytest.approx(values.mean(), abs=1e-9)


def test_without_refinement_the_map_is_the_base_models():
    base, refinement = torch.rand(2, 2, 1, 9, 12)
    statistics = torch.tensor([0.3, 0.1, 0.5, 0.2]).view(1, 4, 1, 1)
    assert torch.equal(fuse(base, None, statistics, 1.0, 5), fuse(base, refinement, statistics, 0.0, 5))


def test_constant_maps_of_normal_images_divide_nothing_by_zero():
    fused = fuse(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8), torch.zeros(1, 4, 1, 1), 1.0, 3)
    assert fused.isfinite().all()


def test_bounded_scores_keep_their_order():
    scores = torch.tensor([-1e4, -20.0, -1.0, 0.0, 0.5, 40.0, 50.0, 1e4])
    bounded = bound(scores)
    assert (bounded.diff() > 0).all()
    assert bounded.min() > 0
    assert bounded.max() < 1
    assert bounded[3] == 0.5
    assert bounded[4].item() == pytest.approx(2 / 3)
