# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Odd image files in a data set: the correct result, or an error that names the file, before anything is written."""

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from PIL import Image

from anomalib_transfusion import MVTec
from commands import typed

ODD = "test/good/000.png"
MASK = "ground_truth/crack/000_mask.png"


def engine(folder, **arguments):
    settings = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False, "max_epochs": 1}
    return Engine(default_root_dir=folder / "results", **{**settings, **arguments})


def data(category, **arguments):
    settings = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0, **arguments}
    return MVTec(root=category.parent, category="brick", **settings)


def written(folder):
    """Return the files that a run has left behind."""
    return [path for path in (folder / "results").rglob("*") if path.is_file()]


def refused(tiny, category, message, **arguments):
    """Test and train a model, which must fail with a message, and leave nothing behind."""
    folder = category.parents[1]
    with pytest.raises(ValueError, match=message):
        engine(folder).test(tiny(visualizer=True), datamodule=data(category, **arguments))
    # The test images are the validation images as well: not after days of training, but before the first step.
    with pytest.raises(ValueError, match=message):
        engine(folder, max_epochs=1000).train(tiny(visualizer=True), datamodule=data(category, **arguments))
    assert not written(folder)


def test_empty_file(tiny, category):
    (category / ODD).write_bytes(b"")
    refused(tiny, category, rf"The image {category / ODD} cannot be read: cannot identify.* Replace it, or take it out")


def test_folder_with_the_name_of_an_image(tiny, category):
    (category / ODD).unlink()
    (category / ODD).mkdir()
    refused(tiny, category, rf"The image {category / ODD} cannot be read: .*Is a directory")


@pytest.mark.parametrize("name", ["train/good/003.png", ODD, MASK])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_corrupt_image(tiny, category, name, num_workers):
    """The head is fine, the rest is not: found when it is read, with the name of the file."""
    (category / name).write_bytes((category / name).read_bytes()[:200])
    run = engine(category.parents[1])
    read = run.fit if "train" in name else run.test
    with pytest.raises(ValueError, match=rf"The image {category / name} cannot be read: .*truncated.* Replace it"):
        read(tiny(visualizer=True), datamodule=data(category, num_workers=num_workers))
    # Sheets of the batches before are whole.
    for sheet in written(category.parents[1]):
        Image.open(sheet).load()


def save_gray_16_bits(path):
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).save(path)


def save_float(path):
    cv2.imwrite(str(path.with_suffix(".tiff")), np.random.default_rng(0).random((64, 64), dtype=np.float32))
    path.with_suffix(".tiff").rename(path)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (save_gray_16_bits, "holds 16-bit gray values, .* would become white. Convert it to 8 bits a channel"),
        (save_float, "holds floating point numbers, .* Convert it to 8 bits a channel"),
    ],
)
@pytest.mark.parametrize("name", [ODD, "train/good/003.png"])
def test_image_that_anomalib_reads_as_something_else(tiny, category, save, message, name):
    save(category / name)
    with pytest.raises(ValueError, match=rf"The image {category / name} {message}"):
        engine(category.parents[1]).train(tiny(), datamodule=data(category))
    assert not written(category.parents[1])


def maps(tiny, folder, **arguments):
    """Return anomaly maps by file name, of a model that is the same each time."""
    torch.manual_seed(0)
    batches = engine(folder).predict(tiny(), dataset=PredictDataset(folder), **arguments)
    return {
        Path(path).name: anomaly_map
        for batch in batches
        for path, anomaly_map in zip(batch.image_path, batch.anomaly_map, strict=True)
    }


def test_modes_that_are_read_as_what_they_are(tiny, category, tmp_path):
    """Gray, palette, transparency, CMYK, 16 bits a channel of RGB: what the plain 8-bit RGB version gives."""
    plain = Image.open(sorted((category / "test/crack").iterdir())[0]).convert("RGB")
    pixels = np.asarray(plain)
    images = tmp_path / "images"
    images.mkdir()
    plain.save(images / "plain.png")
    plain.convert("L").save(images / "gray.png")
    transparent = plain.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(plain.size))
    transparent.save(images / "rgba.png")
    plain.convert("L").convert("LA").save(images / "gray_alpha.png")
    # A gray image has at most 256 colors, so the palette is exact.
    palette = plain.convert("L").convert("P")
    palette.save(images / "palette.png", transparency=3)
    cv2.imwrite(str(images / "deep.png"), pixels[..., ::-1].astype(np.uint16) * 257)
    plain.save(images / "plain.bmp")
    found = maps(tiny, images)
    assert len(found) == 7
    for name, anomaly_map in found.items():
        torch.testing.assert_close(anomaly_map, found["plain.png"], rtol=0, atol=0, msg=name)

    photograph = tmp_path / "photograph"
    photograph.mkdir()
    plain.convert("CMYK").save(photograph / "cmyk.jpg", quality=100, subsampling=0)
    Image.open(photograph / "cmyk.jpg").convert("RGB").save(photograph / "same.png")
    plain.save(photograph / "plain.png")
    found = maps(tiny, photograph)
    assert torch.equal(found["cmyk.jpg"], found["same.png"])
    torch.testing.assert_close(found["cmyk.jpg"], found["plain.png"], rtol=0, atol=5e-3)


def test_one_pixel_among_others(tiny, category):
    """It is enlarged, and the run goes on to the end."""
    Image.new("RGB", (1, 1), (10, 200, 30)).save(category / ODD)
    [metrics] = engine(category.parents[1]).train(tiny(visualizer=True), datamodule=data(category))
    assert all(0 <= value <= 1 for value in metrics.values())
    pictures = [path for path in written(category.parents[1]) if path.suffix == ".png"]
    sheets = [path for path in pictures if path.parent.name != "training"]
    assert len(sheets) == 7
    for sheet in sheets:
        Image.open(sheet).load()


def test_one_pixel_gives_what_a_plain_image_gives(tiny, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (1, 1), (10, 200, 30)).save(tmp_path / "images/one.png")
    Image.new("RGB", (32, 32), (10, 200, 30)).save(tmp_path / "images/plain.png")
    found = maps(tiny, tmp_path / "images")
    torch.testing.assert_close(found["one.png"], found["plain.png"], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_144_million_pixels(tiny, tmp_path):
    """As large as PIL reads with a warning: what a small image of the same color gives."""
    (tmp_path / "images").mkdir()
    Image.new("L", (12_000, 12_000), 99).save(tmp_path / "images/large.png")
    Image.new("L", (32, 32), 99).save(tmp_path / "images/small.png")
    found = maps(tiny, tmp_path / "images")
    torch.testing.assert_close(found["large.png"], found["small.png"], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_batch_that_no_memory_holds(tiny, category):
    """All images of a batch are enlarged to the largest; the process would be killed without a word."""
    Image.new("1", (12_000, 12_000)).save(category / ODD)
    for number in range(100, 1100):
        os.link(category / ODD, category / f"test/good/{number}.png")
    refused(
        tiny,
        category,
        r"12000x12000 pixels, a batch of 1000 takes .* Choose a smaller batch",
        eval_batch_size=1000,
    )


def test_image_beyond_what_pil_reads(tiny, category):
    Image.new("1", (14_000, 14_000)).save(category / ODD)
    refused(tiny, category, rf"The image {category / ODD} cannot be read: .* exceeds limit of 178956970 pixels")


def test_mask_of_another_size(tiny, category):
    """Of the same shape, it covers the image as it should; of another shape, it is refused."""
    mask = Image.open(category / MASK).copy()
    [expected] = engine(category.parents[1]).test(fixed(tiny), datamodule=data(category))
    large = mask.resize((mask.width * 2, mask.height * 2), Image.Resampling.NEAREST)
    large.save(category / MASK)
    [metrics] = engine(category.parents[1]).test(fixed(tiny), datamodule=data(category))
    assert metrics == pytest.approx(expected, abs=0.02)

    mask.crop((0, 0, 64, 30)).save(category / MASK)
    refused(tiny, category, rf"The mask {category / MASK} has 64x30 pixels .* 64x64: .* Replace the mask")


def fixed(tiny):
    """Return a model that is the same each time."""
    torch.manual_seed(0)
    return tiny()


def test_on_the_command_line(category):
    """The message is what a person sees last, and no traceback of PIL hides it."""
    save_gray_16_bits(category / ODD)
    given = ["test", "--model", "TransFusion", "--data", "MVTec", "--data.root", category.parent]
    given += ["--data.category", "brick", "--trainer.accelerator", "cpu", "--data.num_workers", "0"]
    given += ["--model.base_channels", "8", "--model.texture_source", "none"]
    done = typed("anomalib", *given, folder=category.parents[1])
    assert done.returncode != 0
    last = re.sub(r"\W+", " ", done.stderr[-1500:])
    assert re.sub(r"\W+", " ", "000.png holds 16-bit gray values, of which all above 255 would become white") in last
    assert not [path for path in written(category.parents[1]) if path.suffix == ".png"]
