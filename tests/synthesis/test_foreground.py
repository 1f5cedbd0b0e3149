# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Estimated foreground on drawn objects and real textures; masks from files."""

import cv2
import numpy as np
import pytest
import torch

from anomalib_transfusion.synthesis import ForegroundMasks, TextureBank, estimate_foreground
from anomalib_transfusion.synthesis.sources import read_image
from paths import DATASETS, needs_datasets


def disc_image(radius=60, size=256, background=0.2, color=(0.7, 0.3, 0.2), noise=0.03):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = (y - 0.47 * size) ** 2 + (x - 0.55 * size) ** 2 < radius**2
    image = torch.where(disc, torch.tensor(color).view(3, 1, 1), torch.tensor(background))
    return (image + noise * torch.randn(3, size, size)).clamp(0, 1), disc


@pytest.mark.parametrize(("size", "radius"), [(256, 60), (224, 30), (64, 20), (500, 180)])
def test_a_disc_is_covered_and_little_else(size, radius):
    torch.manual_seed(0)
    image, disc = disc_image(radius, size)
    found = estimate_foreground(image[None])
    assert found.shape == (1, 1, size, size)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    found = found[0, 0].bool()
    assert (disc & ~found).sum() == 0
    # Dilation and averaging over blocks add a rim of a few pixels.
    rim = 6 if size < 500 else 10
    assert found.sum() < torch.pi * (radius + rim) ** 2


def test_holes_and_a_dark_object_on_white():
    torch.manual_seed(1)
    image, disc = disc_image(background=0.95, color=(0.3, 0.3, 0.3))
    image[:, 118:123, 138:143] = 0.95
    found = estimate_foreground(image[None])[0, 0].bool()
    assert found[disc].all()
    assert not found[:20].any()


def test_each_image_of_a_batch_is_judged_on_its_own():
    torch.manual_seed(2)
    images = torch.stack([disc_image()[0], disc_image(30)[0], torch.rand(3, 256, 256), torch.full((3, 256, 256), 0.5)])
    together = estimate_foreground(images)
    assert torch.equal(together, torch.cat([estimate_foreground(image[None]) for image in images]))
    assert together[2:].min() == 1
    assert together[:2].mean(dim=(1, 2, 3)).max() < 0.4


@needs_datasets
def test_textures_that_fill_the_frame_are_foreground_as_a_whole():
    bank = TextureBank.from_folder(DATASETS / "dtd", 256)
    torch.manual_seed(3)
    whole = estimate_foreground(bank.sample(60)).amin(dim=(1, 2, 3)) == 1
    assert whole.float().mean() > 0.9


@needs_datasets
def test_real_tiles_that_fill_the_frame_are_foreground_as_a_whole():
    files = sorted((DATASETS / "MVTecAD" / "magnetic_tile" / "train" / "good").iterdir())[:40]
    images = torch.stack([torch.from_numpy(read_image(file)) for file in files]).permute(0, 3, 1, 2) / 255
    assert estimate_foreground(images).min() == 1


def write_mask(path, box, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[box[0] : box[1], box[2] : box[3]] = 255
    cv2.imwrite(str(path), mask)


def test_masks_are_found_by_stem_binarised_and_dilated_by_two_pixels(tmp_path):
    write_mask(tmp_path / "000.png", (10, 20, 30, 40))
    write_mask(tmp_path / "sub" / "001_mask.BMP", (0, 64, 0, 32))
    masks = ForegroundMasks.from_folder(tmp_path, 64)
    found = masks.lookup(["/data/train/good/001.jpg", "/data/train/good/000.png"])
    assert found.shape == (2, 1, 64, 64)
    assert found.dtype == torch.float32
    expected = torch.zeros(64, 64)
    expected[8:22, 28:42] = 1
    assert torch.equal(found[1, 0], expected)
    assert found[0, 0, :, :34].min() == 1
    assert found[0, 0, :, 34:].max() == 0
    assert torch.equal(masks.lookup(["000.tif"]), found[1:])


def test_masks_are_resized(tmp_path):
    write_mask(tmp_path / "a.png", (0, 64, 0, 32))
    assert ForegroundMasks.from_folder(tmp_path, (32, 128)).lookup(["a.png"]).shape == (1, 1, 32, 128)


def test_equal_names_are_told_apart_by_the_folder(tmp_path):
    write_mask(tmp_path / "left" / "000.png", (0, 64, 0, 10))
    write_mask(tmp_path / "right" / "000.png", (0, 64, 50, 64))
    masks = ForegroundMasks.from_folder(tmp_path, 64)
    assert masks.lookup(["/images/right/000.png"])[0, 0, :, :40].max() == 0
    with pytest.raises(ValueError, match=r"2 foreground masks for .*000\.png.*folder named up"):
        masks.lookup(["/images/up/000.png"])


def test_a_missing_mask_is_named_with_what_was_searched(tmp_path):
    write_mask(tmp_path / "000.png", (0, 9, 0, 9))
    masks = ForegroundMasks.from_folder(tmp_path, 64)
    message = rf"/x/good/007\.png.*{tmp_path.name} for 007 or 007_mask.*Add the mask"
    with pytest.raises(FileNotFoundError, match=message):
        masks.lookup(["/x/good/000.png", "/x/good/007.png"])


def test_a_missing_or_empty_mask_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone does not exist.*_mask\.png.*estimate"):
        ForegroundMasks.from_folder(tmp_path / "gone", 64)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path.name} holds no image"):
        ForegroundMasks.from_folder(tmp_path, 64)


def test_a_damaged_mask_is_named(tmp_path):
    (tmp_path / "000.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"000\.png cannot be decoded"):
        ForegroundMasks.from_folder(tmp_path, 64).lookup(["000.png"])
