# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Texture files, photographs and shuffled tiles."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from anomalib_transfusion.synthesis import TextureBank, structure_source
from anomalib_transfusion.synthesis.sources import PHOTOGRAPHS, shuffle_tiles
from paths import DATASETS, needs_datasets


def write_flat(path, rgb, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), rgb[::-1], np.uint8))


@needs_datasets
def test_real_dtd_is_read_and_drawn():
    bank = TextureBank.from_folder(DATASETS / "dtd", (48, 64))
    assert len(bank) == len(list((DATASETS / "dtd" / "images").glob("*/*.jpg")))
    assert bank.files == sorted(bank.files)
    torch.manual_seed(0)
    textures = bank.sample(5)
    assert textures.shape == (5, 3, 48, 64)
    assert textures.dtype == torch.float32
    assert 0 <= textures.min() < textures.max() <= 1
    assert textures.std(dim=(1, 2, 3)).min() > 0.01
    torch.manual_seed(0)
    assert torch.equal(bank.sample(5), textures)
    torch.manual_seed(1)
    assert not torch.equal(bank.sample(5), textures)


@needs_datasets
def test_the_image_folder_itself_and_dtds_archive_give_the_same_bank(tmp_path):
    (tmp_path / "dtd").symlink_to(DATASETS / "dtd")
    names = [
        [file.name for file in TextureBank.from_folder(folder, 32).files]
        for folder in (tmp_path, DATASETS / "dtd", DATASETS / "dtd" / "images")
    ]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("name", ["a.jpg", "images/stripes/a.PNG", "stripes/a.bmp", "dtd/images/x/a.TIFF", "a.webp"])
def test_layouts_and_suffixes(tmp_path, name):
    write_flat(tmp_path / name, (255, 0, 0))
    (tmp_path / "notes.txt").write_text("no image")
    write_flat(tmp_path / ".hidden" / "b.png", (0, 0, 255))
    bank = TextureBank.from_folder(tmp_path, 16)
    assert len(bank) == 1
    texture = bank.sample(1)[0]
    assert texture[0].mean() > 0.95  # red comes first: OpenCV's order has been turned
    assert texture[1:].mean() < 0.05


def test_gray_and_transparent_files_become_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((9, 9), 128, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((9, 9, 4), 128, np.uint8))
    torch.manual_seed(0)
    textures = TextureBank.from_folder(tmp_path, 16).sample(8)
    torch.testing.assert_close(textures, torch.full((8, 3, 16, 16), 128 / 255))


@pytest.mark.parametrize(("resize", "expected"), [("area", [128, 128]), ("bilinear", [0, 255])])
def test_large_photographs_are_averaged_or_sampled(tmp_path, resize, expected):
    # Of eight columns averaging sees all, half of them white. Bilinear sees the two in the middle alone: black in the
    # first half of the photograph, white in the second.
    first = [255, 255, 255, 0, 0, 255, 0, 0]
    columns = np.array([first, [255 - level for level in first]], np.uint8).flatten()
    cv2.imwrite(str(tmp_path / "columns.png"), np.repeat(columns[None, :, None], 16, axis=0).repeat(3, axis=2))
    texture = TextureBank.from_folder(tmp_path, 2, resize=resize).sample(1)
    np.testing.assert_allclose(texture[0, 0, 0] * 255, expected, atol=0.51)


def test_unknown_resize():
    with pytest.raises(ValueError, match="texture_resize='nearest' is unknown; choose one of area, bilinear"):
        TextureBank([Path("a.png")], 8, resize="nearest")


def test_textures_are_drawn_uniformly(tmp_path):
    for level in (0, 100, 200):
        write_flat(tmp_path / f"{level}.png", (level,) * 3)
    torch.manual_seed(0)
    drawn = (TextureBank.from_folder(tmp_path, 8).sample(1500)[:, 0, 0, 0] * 255).round()
    for level in (0, 100, 200):
        assert (drawn == level).float().mean().item() == pytest.approx(1 / 3, abs=0.04)


def test_small_cache_gives_the_same_textures(tmp_path):
    for level in range(5):
        write_flat(tmp_path / f"{level}.png", (50 * level,) * 3)
    torch.manual_seed(0)
    large = TextureBank.from_folder(tmp_path, 8).sample(40)
    torch.manual_seed(0)
    assert torch.equal(TextureBank.from_folder(tmp_path, 8, cache_bytes=8 * 8 * 3).sample(40), large)


def test_folder_without_images_is_named_with_what_to_do(tmp_path):
    (tmp_path / "labels.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path.name} holds no image.*images/<class>.*download DTD"):
        TextureBank.from_folder(tmp_path, 32)


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_damaged_file_is_named_when_drawn(tmp_path, content):
    (tmp_path / "broken.jpg").write_bytes(content)
    bank = TextureBank.from_folder(tmp_path, 32)
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be decoded"):
        bank.sample(1)


def test_photographs_are_cropped_and_leave_out_the_demos_surfaces():
    bank = TextureBank.from_photographs((64, 96))
    names = {file.name for file in bank.files}
    assert len(names) >= 8
    assert names <= set(PHOTOGRAPHS)
    assert not names & {"brick.png", "grass.png", "gravel.png"}
    torch.manual_seed(0)
    crops = bank.sample(40)
    assert crops.shape == (40, 3, 64, 96)
    # Far more different pictures than photographs: the crops' places are random.
    assert len({tuple(crop[:, ::16, ::16].flatten().tolist()) for crop in crops}) > len(bank)


def test_photographs_smaller_than_the_crop_are_enlarged():
    assert TextureBank.from_photographs((512, 700)).sample(6).shape == (6, 3, 512, 700)


def tiles(image, rows, columns):
    return {
        tuple(image[:, y : y + rows, x : x + columns].flatten().tolist())
        for y in range(0, image.shape[1], rows)
        for x in range(0, image.shape[2], columns)
    }


def test_shuffling_permutes_the_64_tiles_of_each_image_on_its_own():
    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 48)
    shuffled = shuffle_tiles(images)
    for before, after in zip(images, shuffled, strict=True):
        assert not torch.equal(before, after)
        assert len(tiles(before, 4, 6)) == 64
        assert tiles(before, 4, 6) == tiles(after, 4, 6)
    same = shuffle_tiles(images[:1].expand(2, -1, -1, -1))
    assert not torch.equal(same[0], same[1])


def test_shuffling_takes_sides_that_eight_does_not_divide():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 37, 50)
    shuffled = shuffle_tiles(images)
    assert shuffled.shape == images.shape
    assert set(shuffled.flatten().tolist()) <= set(images.flatten().tolist())
    assert not torch.equal(shuffled, images)


def test_structure_source_is_reproducible_and_in_range():
    images = torch.rand(4, 3, 40, 40)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(structure_source(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert results[0].shape == images.shape
    assert 0 <= results[0].min() <= results[0].max() <= 1
