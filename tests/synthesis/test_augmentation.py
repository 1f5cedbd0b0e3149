# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Each color and geometry change against torchvision's, PIL's or kornia's equivalent."""

import math

import numpy as np
import pytest
import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as tv

from anomalib_transfusion.synthesis import augment
from anomalib_transfusion.synthesis import augmentation as changes


@pytest.fixture
def pictures():
    """Smooth random 8-bit pictures, the last one of low contrast."""
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(4, 3, 6, 6), (40, 56), mode="bicubic").clamp(0, 1)
    images[3] = 0.4 + 0.1 * images[3]
    return (images * 255).round().to(torch.uint8)


def unit(images):
    return images.float() / 255


def pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_posterize_matches_pil_for_every_number_of_bits(pictures):
    for bits in range(1, 9):
        ours = changes.posterize(unit(pictures), torch.full((4,), bits))
        for image, result in zip(pictures, ours, strict=True):
            assert torch.equal((result * 255).round().byte(), tensor(ImageOps.posterize(pil(image), bits)))


def test_solarize_matches_pil_with_a_threshold_an_image(pictures):
    thresholds = (32, 64, 128, 300)
    ours = changes.solarize(unit(pictures), torch.tensor(thresholds) / 255)
    for image, threshold, result in zip(pictures, thresholds, ours, strict=True):
        assert torch.equal((result * 255).round().byte(), tensor(ImageOps.solarize(pil(image), threshold)))


def test_invert_matches_pil(pictures):
    for image, result in zip(pictures, changes.invert(unit(pictures)), strict=True):
        assert torch.equal((result * 255).round().byte(), tensor(ImageOps.invert(pil(image))))


def test_equalize_matches_pil(pictures):
    for image, result in zip(pictures, changes.equalize(unit(pictures)), strict=True):
        assert torch.equal((result * 255).round().byte(), tensor(ImageOps.equalize(pil(image))))


@pytest.mark.parametrize("cutoff", [0, 7, 20])
def test_autocontrast_matches_pil(pictures, cutoff):
    ours = changes.autocontrast(unit(pictures), torch.full((4,), cutoff))
    for image, result in zip(pictures, ours, strict=True):
        expected = unit(tensor(ImageOps.autocontrast(pil(image), cutoff=cutoff)))
        # PIL rounds down to whole levels.
        torch.testing.assert_close(result, expected, atol=1.01 / 255, rtol=0)


def test_flat_images_survive_equalize_and_autocontrast():
    flat = torch.full((2, 3, 16, 16), 51 / 255)
    torch.testing.assert_close(changes.equalize(flat), flat)
    torch.testing.assert_close(changes.autocontrast(flat, torch.tensor([0, 20])), flat)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 2.7])
def test_sharpness_matches_torchvision(pictures, factor):
    ours = changes.sharpness(unit(pictures), torch.full((4,), factor))
    torch.testing.assert_close(ours, tv.adjust_sharpness(unit(pictures), factor), atol=1e-5, rtol=0)


def test_gamma_matches_torchvision_channel_by_channel(pictures):
    gamma = torch.tensor([[0.5, 1.0, 2.0]]).expand(4, 3)
    ours = changes.gamma_contrast(unit(pictures), gamma)
    for channel, value in enumerate((0.5, 1.0, 2.0)):
        expected = tv.adjust_gamma(unit(pictures), value)[:, channel]
        torch.testing.assert_close(ours[:, channel], expected, atol=1e-5, rtol=0)


def test_hue_and_saturation_match_kornia(pictures):
    images = unit(pictures)
    images[2] = images[2, :1]  # gray has no hue
    hue, saturation = torch.tensor([0.19, -0.19, 0.1, 0.0]), torch.tensor([0.1, -0.15, 0.19, 0.0])
    h, s, v = rgb_to_hsv(images).unbind(1)
    h = (h + 2 * math.pi * hue.view(-1, 1, 1)) % (2 * math.pi)
    expected = hsv_to_rgb(torch.stack((h, (s + saturation.view(-1, 1, 1)).clamp(0, 1), v), dim=1))
    ours = changes.hue_and_saturation(images, hue, saturation)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[3], images[3], atol=1e-5, rtol=0)


def test_brightness_scales_and_shifts_the_luma_and_keeps_color_differences(pictures):
    images = 0.3 + 0.4 * unit(pictures)
    multiply, add = torch.tensor([0.8, 1.2, 1.0, 1.1]), torch.tensor([0.05, -0.05, 0.1, 0.0])
    ours = changes.multiply_and_add_to_brightness(images, multiply, add)
    weights = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
    luma = (weights * images).sum(1)
    expected = luma * multiply.view(-1, 1, 1) + add.view(-1, 1, 1)
    torch.testing.assert_close((weights * ours).sum(1), expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(ours[:, 0] - ours[:, 1], images[:, 0] - images[:, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", changes.CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_every_change_stays_in_range_changes_something_and_leaves_its_input(change, pictures):
    torch.manual_seed(1)
    images = unit(pictures)
    before = images.clone()
    result = change(images)
    assert result.shape == images.shape
    assert result.min() >= 0
    assert result.max() <= 1
    assert not torch.equal(result, images)
    assert torch.equal(images, before)


def test_an_image_gets_three_of_the_ten_changes():
    torch.manual_seed(2)
    # Of the ten only the rotation makes a flat image uneven: three of ten draws without repetition contain it.
    result = augment(torch.full((1500, 3, 32, 32), 0.9))
    uneven = (result.amax(dim=(2, 3)) - result.amin(dim=(2, 3))).amax(dim=1) > 1e-3
    assert uneven.float().mean().item() == pytest.approx(0.3 * 0.95, abs=0.04)


def test_seed_decides_and_the_input_is_left_alone(pictures):
    images = unit(pictures)
    before = images.clone()
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(augment(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(images, before)


def test_no_images_are_no_images():
    assert augment(torch.rand(0, 3, 8, 8)).shape == (0, 3, 8, 8)
