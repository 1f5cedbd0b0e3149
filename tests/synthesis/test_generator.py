# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Whole synthetic anomalies, and the rotation of batches."""

import cv2
import numpy as np
import pytest
import torch

from anomalib_transfusion.synthesis import AnomalyGenerator, TextureBank, rotate_some
from parts import part


@pytest.fixture(scope="module")
def noisy_textures(tmp_path_factory):
    """Four files of random pixels, 32 x 32."""
    folder = tmp_path_factory.mktemp("textures")
    random = np.random.default_rng(0)
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    return TextureBank.from_folder(folder, 32)


def anomalous(result):
    return (result.mask.sum(dim=(1, 2, 3)) > 0).tolist()


def test_shapes_ranges_and_binary_masks(noisy_textures):
    torch.manual_seed(0)
    result = part(AnomalyGenerator, noisy_textures)(torch.rand(8, 3, 32, 32))
    assert result.appearance.shape == (8, 3, 32, 32)
    assert -1 <= result.appearance.min() < -0.5
    assert 0.5 < result.appearance.max() <= 1
    assert result.mask.shape == (8, 1, 32, 32)
    assert set(result.mask.unique().tolist()) == {0.0, 1.0}


def test_the_first_half_is_anomalous_and_the_rest_untouched():
    torch.manual_seed(1)
    generator = part(AnomalyGenerator, None)
    seen = torch.zeros(8)
    for _ in range(20):
        result = generator(torch.rand(8, 3, 64, 64))
        assert not any(part[4:].any() for part in result)
        seen += torch.tensor(anomalous(result)).float()
    # One mask in seventy is empty, as in the reference.
    assert seen[:4].min() >= 16


@pytest.mark.parametrize(("batch", "sure"), [(1, 0), (3, 1), (5, 2)])
def test_the_middle_of_an_odd_batch_is_anomalous_half_of_the_time(batch, sure):
    torch.manual_seed(2)
    generator = part(AnomalyGenerator, None)
    counts = [sum(anomalous(generator(torch.rand(batch, 3, 32, 32)))[sure : sure + 1]) for _ in range(300)]
    # Five standard deviations of 300 fair coins, less the few empty masks.
    assert 0.34 < np.mean(counts) < 0.64


def test_appearance_is_zero_outside_of_the_mask(noisy_textures):
    torch.manual_seed(3)
    result = part(AnomalyGenerator, noisy_textures)(torch.rand(8, 3, 32, 32))
    assert not (result.appearance * (1 - result.mask)).any()
    inside = result.mask.expand_as(result.appearance).bool()
    assert (result.appearance[inside] != 0).float().mean() > 0.9


def noisy(result):
    """Whether each large enough anomaly of a black image is a texture of random pixels.

    Whatever is done to a black image, it stays flat but for a few edges; random pixels never become so.
    """
    found = []
    for appearance, mask in zip(result.appearance, result.mask[:, 0].bool(), strict=True):
        inside = mask[:, 1:] & mask[:, :-1]
        if inside.sum() > 20:
            found.append(bool(appearance.diff(dim=2)[:, inside].abs().mean() > 0.1))
    return found


def test_texture_and_structure_are_drawn_half_and_half(noisy_textures):
    torch.manual_seed(4)
    generator = part(AnomalyGenerator, noisy_textures)
    from_texture = [draw for _ in range(45) for draw in noisy(generator(torch.zeros(64, 3, 32, 32)))]
    assert len(from_texture) > 600
    # Four standard deviations of 600 fair coins.
    assert np.mean(from_texture) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_share_of_structure_anomalies(noisy_textures, share):
    torch.manual_seed(4)
    generator = part(AnomalyGenerator, noisy_textures, structure_share=share)
    from_texture = [draw for _ in range(30) for draw in noisy(generator(torch.zeros(64, 3, 32, 32)))]
    assert len(from_texture) > 400
    # Four standard deviations of 400 draws.
    assert 1 - np.mean(from_texture) == pytest.approx(share, abs=0.08)


def test_a_single_source_is_the_only_one(noisy_textures):
    torch.manual_seed(5)
    images = torch.zeros(200, 3, 32, 32)
    assert np.mean(noisy(part(AnomalyGenerator, None)(images))) < 0.05
    assert np.mean(noisy(part(AnomalyGenerator, noisy_textures, structure_share=0)(images))) > 0.95


def test_images_that_a_resize_rounded_beyond_the_range(noisy_textures):
    """Resizing with antialiasing gives 1.0000001: seen in a training, whose loss was not a number after it."""
    torch.manual_seed(0)
    images = torch.full((64, 3, 32, 32), 1.0000001)
    images[::2] = -1e-7
    for _ in range(20):
        appearance = part(AnomalyGenerator, noisy_textures, structure_share=1.0)(images).appearance
        assert torch.isfinite(appearance).all()
        assert appearance.abs().max() <= 1


def test_anomalies_on_gray_images_are_gray_where_asked(noisy_textures):
    torch.manual_seed(5)
    gray = torch.rand(16, 1, 32, 32).expand(-1, 3, -1, -1)
    color = torch.rand(16, 3, 32, 32)

    def colorfulness(images, **parameters):
        appearance = part(AnomalyGenerator, noisy_textures, **parameters)(images).appearance
        return float((appearance.amax(dim=1) - appearance.amin(dim=1)).max())

    assert colorfulness(gray, grayscale=True) == pytest.approx(0, abs=1e-5)
    assert colorfulness(gray) > 0.5
    assert colorfulness(color, grayscale=True) > 0.5


def test_each_image_of_a_batch_is_gray_or_not_by_itself(noisy_textures):
    torch.manual_seed(5)
    images = torch.cat([torch.rand(8, 1, 32, 32).expand(-1, 3, -1, -1), torch.rand(8, 3, 32, 32)])
    # The first half carries anomalies; two of its images have color.
    order = [8, 0, 1, 9, 2, 3, *range(4, 8), *range(10, 16)]
    appearance = part(AnomalyGenerator, noisy_textures, grayscale=True)(images[order]).appearance[:6]
    colored = ((appearance.amax(dim=1) - appearance.amin(dim=1)).amax(dim=(1, 2)) > 0.01).tolist()
    assert colored == [True, False, False, True, False, False]


def test_anomalies_stay_in_the_foreground(noisy_textures):
    torch.manual_seed(6)
    foreground = torch.zeros(8, 1, 32, 32)
    foreground[:, :, 8:20, 4:30] = 1
    result = part(AnomalyGenerator, noisy_textures)(torch.rand(8, 3, 32, 32), foreground)
    for tensor in result:
        assert tensor.any()
        assert not (tensor * (1 - foreground)).any()


def test_seed_decides(noisy_textures):
    generator = part(AnomalyGenerator, noisy_textures)
    images = torch.rand(8, 3, 32, 32)
    before = images.clone()
    results = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        results.append(generator(images))
    for first, second in zip(results[0], results[1], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(results[0].mask, results[2].mask)
    assert torch.equal(images, before)


def test_half_precision_images_give_half_precision_anomalies(noisy_textures):
    torch.manual_seed(9)
    result = part(AnomalyGenerator, noisy_textures)(torch.rand(4, 3, 32, 32, dtype=torch.bfloat16))
    assert {part.dtype for part in result} == {torch.bfloat16}


def test_shapes_that_do_not_fit_are_refused(noisy_textures):
    generator = part(AnomalyGenerator, noisy_textures)
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(2, 1, 32, 32\)"):
        generator(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r"foreground must have the shape \(2, 1, 32, 32\).*got \(2, 1, 16, 32\)"):
        generator(torch.rand(2, 3, 32, 32), torch.ones(2, 1, 16, 32))
    with pytest.raises(ValueError, match=r"textures are 32x32, the images 64x48 .*images' size"):
        generator(torch.rand(2, 3, 64, 48))


def test_rotation_hits_three_samples_in_ten():
    torch.manual_seed(10)
    images = torch.rand(3000, 1, 16, 16)
    (rotated,) = rotate_some([images], probability=0.3)
    hit = (rotated != images).any(dim=3).any(dim=2).any(dim=1).float().mean().item()
    # Five standard deviations of 3000 draws; a handful of angles is too small to move a pixel of so small an image.
    assert 0.3 - 0.06 < hit < 0.3 + 0.042


def test_rotation_keeps_the_rest_bit_for_bit_and_invents_no_value():
    torch.manual_seed(11)
    masks = (torch.rand(40, 1, 24, 32) > 0.5).float()
    images = torch.rand(40, 3, 24, 32)
    rotated_images, rotated_masks = rotate_some([images, masks], probability=0.3)
    changed = (rotated_images != images).flatten(1).any(dim=1)
    assert 0 < changed.sum() < 40
    assert torch.equal(rotated_images[~changed], images[~changed])
    assert torch.equal(rotated_masks[~changed], masks[~changed])
    assert set(rotated_masks.unique().tolist()) == {0.0, 1.0}
    assert set(rotated_images.flatten().tolist()) <= {0.0, *images.flatten().tolist()}


def test_everything_of_a_sample_turns_together():
    torch.manual_seed(12)
    single = torch.rand(12, 1, 32, 32)
    first, second, third = rotate_some([single, 2 * single.expand(-1, 3, -1, -1), -single], probability=1.0)
    assert not torch.equal(first, single)
    assert torch.equal(second, 2 * first.expand(-1, 3, -1, -1))
    assert torch.equal(third, -first)


def test_angles_fill_the_range_and_do_not_leave_it():
    torch.manual_seed(13)
    # A horizontal line through the center shows the angle by the row in which it leaves the image.
    image = torch.zeros(600, 1, 201, 201)
    image[:, :, 100] = 1
    (rotated,) = rotate_some([image], probability=1.0, degrees=20.0)
    columns = rotated[:, 0, :, 180]
    rows = (columns * torch.arange(201.0).view(1, -1)).sum(1) / columns.sum(1)
    degrees = torch.rad2deg(torch.atan((rows - 100) / 80))
    assert degrees.abs().max() < 21
    assert degrees.max() > 18
    assert degrees.min() < -18
    assert degrees.std().item() == pytest.approx(20 / 3**0.5, rel=0.1)


def test_probability_zero_returns_the_tensors():
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(rotate_some([images], probability=0.0)[0], images)
