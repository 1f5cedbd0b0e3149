# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Test-time conditionings against loops over pixels (R5)."""

import math

import numpy as np
import pytest
import torch

from anomalib_transfusion.models.drdc.conditioning import condition
from anomalib_transfusion.models.drdc.inpainting import lattice_sets

from .test_filters import around


@pytest.fixture
def drawn():
    torch.manual_seed(0)
    images, prediction = torch.rand(2, 2, 3, 16, 24, dtype=torch.float64) * 2 - 1
    mask = lattice_sets(16, 24, 4, 4)[1:2].expand(2, -1, -1, -1)
    return prediction, images, mask


def test_known_pixels_leave_the_prediction(drawn):
    assert torch.equal(condition("known_pixels", *drawn, 5), drawn[0])


@pytest.mark.parametrize("size", [3, 9])
def test_drift(drawn, size):
    prediction, images, mask = (x.numpy() for x in drawn)
    expected = prediction.copy()
    alone = 0
    for row, column in np.ndindex(16, 24):
        known = 1 - around(mask, row, column, size // 2)
        if not known.any():
            alone += 1
            continue
        residual = around(images - prediction, row, column, size // 2) * known
        expected[:, :, row, column] += residual.sum(axis=(2, 3)) / known.sum(axis=(2, 3))
    np.testing.assert_allclose(condition("drift", *drawn, size).numpy(), expected, atol=1e-12)
    # With a filter narrower than a cell nothing is known around the pixels in the middle of a hidden cell.
    assert (alone > 0) == (size < 4)


def test_drift_is_a_shift_of_brightness_and_takes_it_away(drawn):
    _, images, mask = drawn
    torch.testing.assert_close(condition("drift", images - 0.4, images, mask, 9), images)


def test_drift_sees_nothing_of_hidden_pixels(drawn):
    prediction, images, mask = drawn
    others = torch.where(mask > 0.5, torch.rand_like(images), images)
    first, second = (condition("drift", prediction, x, mask, 9) for x in (images, others))
    assert torch.equal(first, second)


@pytest.mark.parametrize("size", [3, 9])
def test_low_frequency(drawn, size):
    prediction, images = (x.numpy() for x in drawn[:2])
    expected = prediction.copy()
    for row, column in np.ndindex(16, 24):
        expected[:, :, row, column] += around(images - prediction, row, column, size // 2).mean(axis=(2, 3))
    np.testing.assert_allclose(condition("low_frequency", *drawn, size).numpy(), expected, atol=1e-12)


def test_guidance_at_known_pixels_would_change_nothing_that_is_used(drawn):
    """DDAD's formula as it stands, which is why it is no conditioning here."""
    prediction, images, mask = drawn
    level, weight = 0.6, 3.0
    x_t = math.sqrt(level) * images + math.sqrt(1 - level) * torch.randn_like(images)
    noise = (x_t - math.sqrt(level) * prediction) / math.sqrt(1 - level)
    target = math.sqrt(level) * images + math.sqrt(1 - level) * noise
    noise = noise - weight * math.sqrt(1 - level) * (target - x_t) * (1 - mask)
    guided = (x_t - math.sqrt(1 - level) * noise) / math.sqrt(level)
    expected = prediction + weight * (1 - level) * (1 - mask) * (images - prediction)
    torch.testing.assert_close(guided, expected)
    torch.testing.assert_close(guided * mask, prediction * mask)
