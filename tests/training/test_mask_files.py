# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Masks that anomalib would read as something else than what they show are refused or warned of before a run."""

import warnings

import numpy as np
import pandas as pd
import pytest
from anomalib.data import AnomalibDataset, Folder, PredictDataset
from anomalib.data.datasets.image.mvtec_loco import MVTecLOCODataset
from anomalib.data.utils import read_mask
from anomalib.engine import Engine
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_transfusion import MultiCategory, MVTec
from anomalib_transfusion.training.mask_files import check_masks

MASK = "ground_truth/crack/000_mask.png"


def disc(size=64, value=255, background=0, kind=np.uint8):
    """Return a mask with a disc of an eighth of the image's side as radius."""
    y, x = np.mgrid[:size, :size]
    inside = (y - size // 3) ** 2 + (x - size // 3) ** 2 < (size / 8) ** 2
    return np.where(inside, value, background).astype(kind)


def said_of(path):
    """Return what is said of a mask: the warnings, where it is not refused."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_masks([str(path)])
    return [str(one.message) for one in caught]


def save_jpeg(path, quality=60, size=64):
    Image.fromarray(disc(size)).save(path.with_suffix(".jpg"), quality=quality)
    return path.with_suffix(".jpg")


def save_alpha(path, mode="RGBA"):
    alpha = Image.fromarray(disc())
    mask = Image.new(mode, alpha.size)
    mask.putalpha(alpha)
    mask.save(path)
    return path


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def save_palette(path, colors):
    mask = Image.fromarray(disc(value=1)).copy()
    mask = Image.frombytes("P", mask.size, mask.tobytes())
    mask.putpalette([channel for color in colors for channel in color])
    mask.save(path)
    return path


@pytest.mark.parametrize(
    ("write", "values", "problem", "remedy"),
    [
        (save_jpeg, "values 0, 1, 2, ..., 255 (63 of them)", "nearly black", "Save them as PNG with 0 and 255"),
        (lambda path: save_jpeg(path, 95, 256), "(14 of them)", "nearly black", "Save them as PNG with 0 and 255"),
        (lambda path: save(path, disc(background=2)), "values 2, 255, 100.0% of", "without a pixel of 0", "Save them"),
        (save_alpha, "value 0, 0.0% of the image", "in the alpha channel", "getchannel('A')"),
        (lambda path: save_alpha(path, "LA"), "value 0, 0.0% of the image", "in the alpha channel", "getchannel('A')"),
    ],
)
def test_what_is_refused(tmp_path, write, values, problem, remedy):
    path = write(tmp_path / "000_mask.png")
    with pytest.raises(ValueError, match="Metrics of pixels would be of another truth") as refusal:
        check_masks([str(path)])
    for part in (f"{path}: ", values, problem, remedy):
        assert part in str(refusal.value)


def test_near_black_in_a_part_of_the_background(tmp_path):
    pixels = disc()
    pixels[40:, :][pixels[40:, :] == 0] = 2
    with pytest.raises(ValueError, match=r"values 0, 2, 255, .* nearly black"):
        check_masks([str(save(tmp_path / "m.png", pixels))])


@pytest.mark.parametrize(
    ("write", "values", "problem"),
    [
        (lambda path: save(path, disc(value=0)), "value 0, 0.0% of the image", "without a defect"),
        (lambda path: save(path, disc(255, 255, 255)), "value 255, 100.0% of the image", "a defect everywhere"),
        (lambda path: save(path, disc(64, 1, 1)), "value 1, 100.0% of the image", "a defect everywhere"),
        (lambda path: save_jpeg(path, 75, 1024), "(69 of them), 5.1% of the image", "not two-valued"),
        (lambda path: save(path, np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64) // 16), "0, 1, 2, 3", "not"),
        (lambda path: save(path, disc(64, 0, 0, np.uint16)), "value 0", "without a defect"),
        (lambda path: save_palette(path, [(0, 0, 0), (0, 0, 0)]), "value 0", "without a defect"),
    ],
)
def test_what_is_warned_of(tmp_path, write, values, problem):
    path = write(tmp_path / "000_mask.png")
    [said] = said_of(path)
    assert f"{path}: " in said
    assert values in said
    assert problem in said


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save(path, disc()),
        lambda path: save(path, disc(value=1)),
        lambda path: save(path, disc(value=1, kind=np.uint16)),
        lambda path: save(path, disc(value=65535, kind=np.uint16)),
        lambda path: save(path, disc() > 0),
        lambda path: save_palette(path, [(0, 0, 0), (128, 0, 0)]),
        lambda path: save(path, np.dstack([disc(), disc(), disc(), disc(value=255, background=255)])),
        lambda path: save(path, np.dstack([disc(), disc(), disc(), disc()])),
    ],
)
def test_what_is_taken_without_a_word(tmp_path, write):
    """And it is read as what it shows."""
    path = write(tmp_path / "000_mask.png")
    assert said_of(path) == []
    assert np.array_equal(np.asarray(read_mask(path, as_tensor=True)), disc() > 0)


def test_many_masks_are_said_in_one_sentence(tmp_path):
    paths = [str(save(tmp_path / f"{number}.png", disc(background=2))) for number in range(9)]
    with pytest.raises(ValueError, match=r"3\.png: values 2, 255, .*; and 5 more\) are without") as refusal:
        check_masks([*paths, str(save(tmp_path / "fine.png", disc()))])
    assert "fine.png" not in str(refusal.value)
    assert "4.png" not in str(refusal.value)


def engine(folder, **arguments):
    settings = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False, "max_epochs": 1}
    return Engine(default_root_dir=folder / "results", **{**settings, **arguments})


def data(category, **arguments):
    settings = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0, **arguments}
    return MVTec(root=category.parent, category="brick", **settings)


def test_before_every_run_that_compares_with_masks(tiny, category, tmp_path):
    Image.fromarray(disc(background=2)).save(category / MASK)
    message = rf"{category / MASK}: values 2, 255"
    for run in ("test", "validate"):
        with pytest.raises(ValueError, match=message):
            getattr(engine(tmp_path), run)(tiny(), datamodule=data(category))
    # Not after the epochs, also where these images are not those of the validation.
    for mode in ("same_as_test", "from_train"):
        with pytest.raises(ValueError, match=message):
            engine(tmp_path, max_epochs=1000).train(tiny(), datamodule=data(category, val_split_mode=mode))
    assert not list((tmp_path / "results").rglob("*.ckpt"))
    # A prediction compares nothing with a mask.
    assert engine(tmp_path).predict(tiny(), dataset=PredictDataset(category / "test/crack"))
    assert engine(tmp_path).predict(tiny(), datamodule=data(category))


def test_a_warning_is_said_and_the_run_goes_on(tiny, category, tmp_path):
    Image.fromarray(disc(value=0)).save(category / MASK)
    with pytest.warns(UserWarning, match=rf"{category / MASK}: value 0, 0\.0% of the image\) are without a defect"):
        engine(tmp_path).test(tiny(), datamodule=data(category))


def test_other_data_modules(tiny, category, tmp_path):
    Image.fromarray(disc(background=2)).save(category / MASK)
    settings = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0}
    folder = {"normal_dir": "train/good", "abnormal_dir": "test/crack", "mask_dir": "ground_truth/crack", **settings}
    for module in (
        MultiCategory(dataset="MVTec", root=category.parent, categories=["brick"], **settings),
        Folder(name="parts", root=category, val_split_mode="same_as_test", **folder),
    ):
        with pytest.raises(ValueError, match=rf"{MASK}: values 2, 255, 100\.0%"):
            engine(tmp_path).test(tiny(), datamodule=module)


def test_several_masks_of_one_image(tiny, category, tmp_path):
    """As MVTec LOCO has them. Its own table is not made here: with pandas 3, anomalib cannot."""
    Image.fromarray(disc(background=3)).save(tmp_path / "001.png")
    dataset = AnomalibDataset()
    dataset.__class__ = MVTecLOCODataset
    image, masks = str(category / "test/crack/000.png"), [str(category / MASK), str(tmp_path / "001.png")]
    dataset.samples = pd.DataFrame(
        {"image_path": [image], "mask_path": [masks], "label_index": [1], "split": ["test"], "label": ["crack"]},
    )
    loader = DataLoader(dataset, collate_fn=dataset.collate_fn)
    with pytest.raises(ValueError, match=rf"\({tmp_path / '001.png'}: values 3, 255, 100\.0%"):
        engine(tmp_path).test(tiny(), dataloaders=loader)
