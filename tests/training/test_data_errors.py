# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Where anomalib's error about a data set says little, ours names the files and what to do."""

import shutil
from pathlib import Path

import pytest
from anomalib.data import Folder, MVTecAD, PredictDataset
from anomalib.engine import Engine
from PIL import Image

from anomalib_transfusion import MultiCategory, MVTec

LOADING = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0}


@pytest.fixture
def category(surface_root, tmp_path):
    """Return the folder of a category in MVTec AD's layout with three defects of one kind."""
    folder = Path(shutil.copytree(surface_root / "brick", tmp_path / "data/brick"))
    for kind in ("test", "ground_truth"):
        for other in (folder / kind).iterdir():
            if other.name not in {"crack", "good"}:
                shutil.rmtree(other)
    for number in (1, 2):
        shutil.copy(folder / "test/crack/000.png", folder / f"test/crack/{number:03}.png")
        shutil.copy(folder / "ground_truth/crack/000_mask.png", folder / f"ground_truth/crack/{number:03}_mask.png")
    return folder


def folder_module(category, **arguments):
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/crack", "mask_dir": "ground_truth/crack"}
    return Folder(name="parts", root=category, val_split_mode="same_as_test", **{**folders, **LOADING, **arguments})


MODULES = {
    "Folder": folder_module,
    "MVTec": lambda category: MVTec(category.parent, category.name, **LOADING),
    "MVTecAD": lambda category: MVTecAD(category.parent, category.name, **LOADING),
    "MultiCategory": lambda category: MultiCategory("MVTec", category.parent, [category.name], **LOADING),
}


def train(tiny, tmp_path, datamodule):
    settings = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False}
    Engine(default_root_dir=tmp_path / "results", max_epochs=1, **settings).train(tiny(), datamodule=datamodule)


def rename(change):
    """Return a function that gives the masks of a category other names."""

    def apply(category):
        for number, mask in enumerate(sorted((category / "ground_truth/crack").iterdir())):
            mask.rename(mask.with_name(change(number)))

    return apply


def leave_out(*numbers):
    """Return a function that takes masks away from a category."""

    def apply(category):
        for number in numbers:
            (category / f"ground_truth/crack/{number:03}_mask.png").unlink()

    return apply


def add_mask(category):
    shutil.copy(category / "ground_truth/crack/000_mask.png", category / "ground_truth/crack/spare.png")


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            rename("maske_{}.png".format),
            "without a mask: 000.png, 001.png, 002.png; masks of no image: maske_0.png, maske_1.png, maske_2.png",
        ),
        (leave_out(1), "without a mask: 001.png"),
        (leave_out(0, 1, 2), "without a mask: 000.png, 001.png, 002.png"),
        (add_mask, "masks of no image: spare.png"),
    ],
)
def test_masks_that_fit_no_image_are_named(tiny, tmp_path, category, module, change, problem):
    change(category)
    with pytest.raises(ValueError, match="do not belong together") as error:
        train(tiny, tmp_path, MODULES[module](category))
    place = category / "ground_truth/crack"
    assert f"Images of defects and masks in {place} do not belong together: {problem}. " in str(error.value)
    assert "000_GT.png for 000.png. Rename or add masks" in str(error.value)


def test_masks_of_another_format_than_mvtecs(tiny, tmp_path, category):
    """Our MVTec reads them, anomalib's does not."""
    rename("{:03}_GT.bmp".format)(category)
    theirs = MODULES["MVTecAD"](category)
    with pytest.raises(ValueError, match=r"without a mask: 000\.png, .* ends in \.png, \.PNG, as"):
        train(tiny, tmp_path, theirs)


def test_masks_of_images_in_another_format(tiny, tmp_path, category):
    """Images that our MVTec alone reads are looked for as it reads them."""
    for number in range(3):
        png = category / f"test/crack/{number:03}.png"
        Image.open(png).convert("RGB").save(png.with_suffix(".jpg"))
        png.unlink()
    leave_out(1)(category)
    with pytest.raises(ValueError, match=r"without a mask: 001\.jpg\. .* ends in \.png, \.jpg, "):
        train(tiny, tmp_path, MODULES["MVTec"](category))


def test_numbers_without_zeros_in_front(tiny, tmp_path, category):
    """Files are paired in the order of their names, in which 10_mask.png comes before 1_mask.png."""
    for kind, suffix in (("test", ".png"), ("ground_truth", "_mask.png")):
        for old, new in (("000", "1"), ("001", "10"), ("002", "2")):
            (category / kind / f"crack/{old}{suffix}").rename(category / kind / f"crack/{new}{suffix}")
    with pytest.raises(ValueError, match=r"in the order of their names, 1_mask\.png comes where 10\.png does"):
        train(tiny, tmp_path, MODULES["MVTec"](category))


@pytest.mark.parametrize("name", ["{:03}.png", "{:03}_mask.png", "x{:03}_GT.png"])
@pytest.mark.parametrize("module", MODULES)
def test_names_that_anomalib_takes(category, name, module):
    rename(name.format)(category)
    datamodule = MODULES[module](category)
    datamodule.setup()
    assert Path(datamodule.test_data.samples.mask_path.max()).name == name.format(2)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(("name", "strange"), [("Teile ü", "ü"), ("部品", "部品"), ("x😀", "😀")])
def test_folders_beyond_ascii_are_refused_with_what_to_do(tiny, tmp_path, category, module, name, strange):
    moved = category.rename(category.parent / name)
    with pytest.raises(ValueError, match=rf"other characters than those of ASCII, and .* has '{strange}'\. Rename"):
        train(tiny, tmp_path, MODULES[module](moved))


def test_files_and_results_beyond_ascii(tiny, tmp_path, category):
    """And folders with spaces."""
    moved = category.rename(category.parent / "my parts")
    (moved / "train/good/000.png").rename(moved / "train/good/Prüfling 😀.png")
    (moved / "test/crack/001.png").rename(moved / "test/crack/部品.png")
    (moved / "ground_truth/crack/001_mask.png").rename(moved / "ground_truth/crack/部品_mask.png")
    results = tmp_path / "Ergebnisse ü"
    settings = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False, "max_epochs": 1}
    engine = Engine(default_root_dir=results, **settings)
    engine.train(tiny(visualizer=True), datamodule=MODULES["MVTec"](moved))
    [checkpoint] = results.rglob("model.ckpt")
    assert [path.name for path in results.rglob("部品.png")] == ["部品.png"]
    [batch] = engine.predict(tiny(), dataset=PredictDataset(moved / "test/crack/000.png"), ckpt_path=checkpoint)
    assert batch.pred_score.shape == (1,)


def test_a_prediction_from_inside_a_folder_beyond_ascii(category, monkeypatch):
    """What the documentation says to do: anomalib looks at the path that it is given."""
    images = category.parent / "Prüfung"
    shutil.copytree(category / "test/crack", images)
    with pytest.raises(ValueError, match="non-printable"):
        PredictDataset(images)
    monkeypatch.chdir(images)
    assert len(PredictDataset(".")) == 3


def test_other_errors_stay_what_they_are(tiny, tmp_path, category):
    with pytest.raises(FileNotFoundError, match=r"Path does not exist: .*gone"):
        train(tiny, tmp_path, folder_module(category, mask_dir="gone"))
    with pytest.raises(FileNotFoundError, match=r"Path does not exist: .*gone"):
        train(tiny, tmp_path, folder_module(category, normal_dir="gone"))
