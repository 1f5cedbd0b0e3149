# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The ranges that strengths are drawn from, read back from changed pixels.

The authors of TransFusion and DiffusionAD call augmenters of imgaug 0.4.0. The ranges here are their arguments, and
where they give none, the defaults in imgaug's own source; none is taken from the code under test.
"""

import colorsys

import numpy as np
import pytest
import torch

from anomalib_transfusion.synthesis import augmentation as changes

DRAWS = 2000


def drawn(change, image):
    """Change many copies of an image ``(3, H, W)``."""
    torch.manual_seed(0)
    return change(image.expand(DRAWS, -1, -1, -1)).double()


def assert_uniform(values, low, high, tolerance=1e-3):
    """Assert that values fill a range evenly: its ends are come near and never passed, and its quarters are even."""
    values, width = np.asarray(values, dtype=float), high - low
    assert low - tolerance * width <= values.min() < low + 0.01 * width
    assert high - 0.01 * width < values.max() <= high + tolerance * width
    quarters, _ = np.histogram((values - low) / width, bins=4, range=(-tolerance, 1 + tolerance))
    # Five standard deviations of a binomial share of a quarter.
    np.testing.assert_allclose(quarters / len(values), 0.25, atol=5 * np.sqrt(0.25 * 0.75 / len(values)))


def flat(*channels):
    return torch.tensor(channels).view(3, 1, 1).expand(3, 4, 4)


def test_gamma_contrast():
    # Authors: GammaContrast((0.5, 2.0), per_channel=True).
    exponents = drawn(changes._random_gamma, flat(0.5, 0.5, 0.5))[:, :, 0, 0].log() / np.log(0.5)
    for channel in exponents.unbind(1):
        assert_uniform(channel, 0.5, 2.0)
    assert abs(np.corrcoef(exponents.T)[0, 1]) < 0.1


def test_brightness():
    # Authors: MultiplyAndAddToBrightness(mul=(0.8, 1.2), add=(-30, 30)).
    image = torch.tensor([0.4, 0.6]).view(1, 1, 2).expand(3, 1, 2)
    dark, bright = drawn(changes._random_brightness, image)[:, 0, 0].unbind(1)
    multiply = (bright - dark) / 0.2
    assert_uniform(multiply, 0.8, 1.2)
    assert_uniform((dark - 0.4 * multiply) * 255, -30, 30)


def test_sharpness():
    # pillike.EnhanceSharpness(), whose factor is (0.0, 2.0); the smoothed pixel is (8 neighbors + 5 itself) / 13.
    image = torch.full((3, 3, 3), 0.4)
    image[:, 1, 1] = 0.6
    smooth = (8 * 0.4 + 5 * 0.6) / 13
    factor = (drawn(changes._random_sharpness, image)[:, 0, 1, 1] - smooth) / (0.6 - smooth)
    assert_uniform(factor, 0.0, 2.0)


def test_hue_and_saturation():
    # AddToHueAndSaturation((-50, 50), per_channel=True): both in 255ths, of the circle and of the range.
    color = (0.3, 0.6, 0.6)
    hue, saturation, _ = colorsys.rgb_to_hsv(*color)
    result = drawn(changes._random_hue_and_saturation, flat(*color))[:, :, 0, 0].tolist()
    turned = np.array([colorsys.rgb_to_hsv(*pixel)[:2] for pixel in result])
    assert_uniform((turned[:, 0] - hue) * 255, -50, 50)
    assert_uniform((turned[:, 1] - saturation) * 255, -50, 50)


def test_solarize():
    # Solarize(0.5, threshold=(32, 128)): half of the images, all values above the threshold.
    ramp = torch.linspace(0, 1, 4096).view(1, 1, -1).expand(3, 1, -1)
    inverted = (drawn(changes._random_solarize, ramp)[:, 0, 0] - ramp[0, 0]).abs() > 1e-4
    solarized = inverted[inverted.any(dim=1)]
    assert len(solarized) / DRAWS == pytest.approx(0.5, abs=0.056)
    assert_uniform(ramp[0, 0][solarized.int().argmax(dim=1)] * 255, 32, 128, tolerance=0.01)


def test_posterize():
    # Posterize(), whose nb_bits is (1, 8), whole numbers.
    ramp = (torch.arange(256) / 255).view(1, 1, -1).expand(3, 1, -1)
    levels = [len(row.unique()) for row in drawn(changes._random_posterize, ramp)[:, 0, 0]]
    found, counts = np.unique(levels, return_counts=True)
    assert found.tolist() == [2, 4, 8, 16, 32, 64, 128, 256]
    np.testing.assert_allclose(counts / DRAWS, 1 / 8, atol=5 * np.sqrt(7 / 64 / DRAWS))


def test_autocontrast():
    # pillike.Autocontrast(), whose cutoff is (0, 20), whole percents; of 100 levels, one is one percent.
    ramp = (torch.arange(100) / 255).view(1, 1, -1).expand(3, 1, -1)
    cut = (drawn(changes._random_autocontrast, ramp)[:, 0, 0] < 0.5 / 255).sum(dim=1) - 1
    found, counts = np.unique(cut, return_counts=True)
    assert found.tolist() == list(range(21))
    np.testing.assert_allclose(counts / DRAWS, 1 / 21, atol=5 * np.sqrt(20 / 441 / DRAWS))


def test_rotation():
    # Affine(rotate=(-45, 45)), in degrees.
    image = torch.zeros(3, 65, 65)
    image[:, 30:35, 58:63] = 1
    result = drawn(changes._random_rotation, image)[:, 0]
    place = torch.arange(65.0) - 32
    right = (result * place).sum(dim=(1, 2))
    down = (result * place.view(-1, 1)).sum(dim=(1, 2))
    assert_uniform(torch.rad2deg(torch.atan2(-down, right)), -45, 45, tolerance=0.01)
