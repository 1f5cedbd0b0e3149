# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that some programs turn and others do not: one orientation for all, or a refusal that names EXIF."""

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.data.utils import read_image as anomalib_reads
from anomalib.engine import Engine
from PIL import Image, ImageOps

from anomalib_transfusion import MVTec
from anomalib_transfusion.alignment import cover_each_other, orientation_of
from anomalib_transfusion.synthesis import ForegroundMasks, TextureBank
from anomalib_transfusion.synthesis.sources import read_image
from anomalib_transfusion.visualization import visualize_reverse_process

FORMATS = ["jpg", "png", "webp"]


def turned(path, orientation, image=None, **arguments):
    """Write an image with an orientation in EXIF, and return its path."""
    if image is None:
        image = Image.fromarray(np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif, **arguments)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_textures_and_masks_are_read_as_anomalib_reads_images(tmp_path, suffix, orientation):
    path = turned(tmp_path / f"a.{suffix}", orientation, quality=100, lossless=True)
    with Image.open(path) as file:
        assert orientation_of(file) == orientation
    stored = anomalib_reads(path) * 255
    assert stored.shape == (6, 8, 3)
    assert np.abs(read_image(path)[..., ::-1] - stored).max() <= 2
    assert read_image(path, cv2.IMREAD_GRAYSCALE).shape == (6, 8)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_is_turned_by_everyone(tmp_path, compression):
    path = turned(tmp_path / "a.tif", 6, compression=compression)
    with Image.open(path) as file:
        assert orientation_of(file) == 1
    assert np.array_equal(read_image(path)[..., ::-1], np.rint(anomalib_reads(path) * 255))
    assert read_image(path).shape == (8, 6, 3)


def test_orientation_of_what_has_none(tmp_path):
    for number, wrong in enumerate((0, 9)):
        with Image.open(turned(tmp_path / f"{number}.jpg", wrong)) as file:
            assert orientation_of(file) == wrong
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.jpg")
    with Image.open(tmp_path / "plain.jpg") as file:
        assert orientation_of(file) == 1


def test_a_texture_is_taken_as_it_is_stored(tmp_path):
    picture = Image.fromarray(np.repeat(np.arange(32, dtype=np.uint8) * 8, 32).reshape(32, 32)).convert("RGB")
    turned(tmp_path / "a.png", 6, picture)
    [texture] = TextureBank.from_folder(tmp_path, 32).sample(1)
    assert torch.equal(texture * 255, torch.from_numpy(np.asarray(picture)).permute(2, 0, 1).float())


def test_a_pixel_more_or_less_does_not_matter():
    assert cover_each_other((640, 480), (320, 240))
    assert cover_each_other((641, 480), (320, 240))
    assert not cover_each_other((640, 480), (480, 640))
    assert not cover_each_other((64, 64), (64, 30))


def engine(folder, **arguments):
    settings = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False, "max_epochs": 1}
    return Engine(default_root_dir=folder / "results", **{**settings, **arguments})


def data(category):
    return MVTec(root=category.parent, category="brick", train_batch_size=4, eval_batch_size=4, num_workers=0)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("train/good/003.png", "image"),
        ("test/good/000.png", "image"),
        ("ground_truth/crack/000_mask.png", "mask"),
    ],
)
@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_a_run_with_a_turned_file_is_refused(tiny, category, name, what, orientation):
    """The images are square: nothing else would tell."""
    turned(category / name, orientation, Image.open(category / name).copy())
    message = rf"The {what} {category / name} has the EXIF orientation {orientation}, .* ImageOps\.exif_transpose"
    with pytest.raises(ValueError, match=message):
        engine(category.parents[1], max_epochs=1000).train(tiny(), datamodule=data(category))
    # What the message says to do.
    ImageOps.exif_transpose(Image.open(category / name)).save(category / name)
    engine(category.parents[1], fast_dev_run=True).fit(tiny(), datamodule=data(category))


def test_a_prediction_and_a_film_strip_of_a_turned_file_are_refused(tiny, tmp_path):
    path = turned(tmp_path / "images/a.jpg", 8, Image.new("RGB", (64, 64)))
    message = rf"The image {path} has the EXIF orientation 8, to be shown turned counterclockwise"
    with pytest.raises(ValueError, match=message):
        engine(tmp_path).predict(tiny(), dataset=PredictDataset(path.parent))
    with pytest.raises(ValueError, match=message):
        visualize_reverse_process(tiny(), path, tmp_path / "strip.png")
    assert not (tmp_path / "strip.png").exists()


def write_masks(category, change):
    """Write foreground masks for all training images, one of them changed, and return the folder."""
    folder = category.parent / "foreground"
    folder.mkdir()
    for image in (category / "train/good").iterdir():
        pixels = np.zeros((64, 64), np.uint8)
        pixels[16:48, 8:60] = 255
        Image.fromarray(pixels).save(folder / f"{image.stem}_mask.png")
    change(folder / "015_mask.png", pixels)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path, pixels: turned(path, 6, Image.fromarray(pixels)),
            "has the EXIF orientation 6, .*exif_transpose",
        ),
        (
            lambda path, pixels: Image.fromarray(pixels // 255).save(path),
            r"marks nothing: its values are 0 to 1, .*255",
        ),
        (
            lambda path, pixels: Image.fromarray(np.dstack([pixels * 0] * 3 + [pixels])).save(path),
            r"marks nothing: its values are 0 to 0",
        ),
        (
            lambda path, pixels: Image.fromarray(pixels[:32]).save(path),
            r"has 64x32 pixels .*64x64: .* turned",
        ),
    ],
)
def test_foreground_masks_are_looked_at_before_a_training(tiny, category, change, message):
    folder = write_masks(category, change)
    # Whichever images the only step takes.
    with pytest.raises(ValueError, match=rf"The foreground mask {folder / '015_mask.png'} {message}"):
        engine(category.parents[1], max_steps=1).fit(tiny(foreground=folder), datamodule=data(category))


def test_a_missing_foreground_mask_is_named_before_a_training(tiny, category):
    folder = write_masks(category, lambda path, _pixels: path.unlink())
    with pytest.raises(FileNotFoundError, match=r"no foreground mask for .*015\.png"):
        engine(category.parents[1], max_steps=1).fit(tiny(foreground=folder), datamodule=data(category))


def test_other_foreground_masks_are_read_as_what_they_show(tmp_path):
    """JPEG, 16 bits, a palette: thresholded at one half."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[16:48, 8:60] = 255
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    Image.fromarray(pixels).save(tmp_path / "jpeg.jpg", quality=60)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(pixels).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(pixels > 0).save(tmp_path / "bits.png")
    Image.fromarray(np.dstack([pixels] * 4)).save(tmp_path / "transparent.png")
    masks = ForegroundMasks.from_folder(tmp_path, 64)
    plain, *others = masks.lookup(["plain", "jpeg", "deep", "palette", "bits", "transparent"])
    assert plain.sum() == 36 * 56
    for other in others:
        assert torch.equal(other, plain)
