# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's command line as a person types it, each command in a process of its own."""

import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

import anomalib_transfusion
from commands import typed
from paths import DATASETS, ROOT, needs_datasets

TINY = [
    *["--model", "TransFusion", "--model.timesteps", "4", "--model.base_channels", "8", "--model.num_blocks", "1"],
    *["--model.channel_multipliers", "[1,2]", "--model.attention_levels", "[-1]", "--model.learning_rate", "1e-3"],
]
# The default size of 256 pixels would make every test slow; this is what a user writes for another one.
PRE_PROCESSOR = {
    "class_path": "anomalib.pre_processing.PreProcessor",
    "init_args": {"transform": {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [32, 32]}}},
}


def anomalib(*arguments, folder, fails=False):
    """Run the command line in a folder, and return what it printed."""
    done = typed("anomalib", *arguments, folder=folder)
    printed = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, printed[-4000:]
    return printed


@pytest.fixture(scope="module")
def magnetic_tile(tmp_path_factory):
    """Return the folder of a short training on a real category, by the command of the README."""
    if not DATASETS.is_dir():
        pytest.skip(f"no data sets at {DATASETS}; set TRANSFUSION_DATASETS")
    folder = tmp_path_factory.mktemp("magnetic_tile")
    (folder / "size.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"pre_processor": PRE_PROCESSOR}}}))
    # Fewer images than there are: the whole set takes a minute to read.
    category = folder / "MVTecAD/magnetic_tile"
    for part in (
        "train/good",
        "test/good",
        "test/blowhole",
        "test/crack",
        "ground_truth/blowhole",
        "ground_truth/crack",
    ):
        (category / part).mkdir(parents=True)
        for image in sorted((DATASETS / "MVTecAD/magnetic_tile" / part).iterdir())[:12]:
            shutil.copy(image, category / part)
    printed = anomalib(
        *["train", *TINY, "--config", "size.yaml", "--data", "MVTec", "--data.root", "MVTecAD"],
        *["--data.category", "magnetic_tile", "--data.num_workers", 0, "--trainer.max_epochs", 2],
        *["--model.dtd_dir", DATASETS / "dtd", "--trainer.accelerator", "cpu"],
        folder=folder,
    )
    (folder / "printed.txt").write_text(printed)
    return folder


@pytest.fixture(scope="module")
def checkpoint(magnetic_tile):
    """Return the checkpoint of that training."""
    return magnetic_tile / "results/TransFusion/MVTec/magnetic_tile/latest/weights/lightning/model.ckpt"


def test_train_on_real_data(magnetic_tile, checkpoint):
    printed = (magnetic_tile / "printed.txt").read_text()
    assert all(
        name in printed for name in ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO")
    )
    assert "TransFusion validates every" in printed
    assert checkpoint.is_file()
    drawn = sorted(checkpoint.parents[2].glob("images/**/*.png"))
    grids = [path for path in drawn if path.parent.name == "training"]
    sheets = [path for path in drawn if path not in grids]
    assert [path.name for path in grids] == ["epoch_0001.png", "epoch_0002.png"]
    assert len(sheets) == 36
    # Image, truth, overlays with map and mask, reconstruction, difference: six panels of 256 pixels, 4 between them.
    assert Image.open(sheets[0]).width == 6 * 256 + 5 * 4
    assert str(checkpoint.parents[2].resolve() / "images/index.html") in printed.replace("\n", "")


def test_predict_on_a_folder_and_on_one_image(magnetic_tile, checkpoint):
    crack = magnetic_tile / "MVTecAD/magnetic_tile/test/crack"
    one = sorted(crack.iterdir())[0]
    common = [*TINY, "--config", "size.yaml", "--ckpt_path", checkpoint, "--trainer.accelerator", "cpu"]
    anomalib("predict", *common, "--data", crack, "--default_root_dir", "of_folder", folder=magnetic_tile)
    assert len(list((magnetic_tile / "of_folder").rglob("*.png"))) == 12
    anomalib("predict", *common, "--data", one, "--default_root_dir", "of_one", folder=magnetic_tile)
    assert [path.name for path in (magnetic_tile / "of_one").rglob("*.png")] == [one.name]


def test_test_with_a_checkpoint_prints_the_same_metrics(magnetic_tile, checkpoint):
    printed = anomalib(
        *["test", *TINY, "--config", "size.yaml", "--data", "MVTec", "--data.root", "MVTecAD"],
        *["--data.category", "magnetic_tile", "--data.num_workers", 0, "--ckpt_path", checkpoint],
        *["--model.texture_source", "folder", "--model.dtd_dir", "nowhere", "--trainer.accelerator", "cpu"],
        folder=magnetic_tile,
    )

    def metrics(text):
        return {line for line in text.splitlines() if "image_" in line or "pixel_" in line}

    assert metrics(printed) == metrics((magnetic_tile / "printed.txt").read_text())


def test_checkpoint_that_does_not_fit_is_refused_in_words(magnetic_tile, checkpoint):
    printed = anomalib(
        *["predict", "--model", "TransFusion", "--data", "MVTecAD/magnetic_tile/test/crack", "--ckpt_path", checkpoint],
        folder=magnetic_tile,
        fails=True,
    )
    flat = " ".join(printed.replace("│", " ").split())
    assert "The checkpoint was trained with timesteps=4, base_channels=8" in flat
    assert "--model.timesteps" in flat


def test_interval_that_is_typed_is_kept(tmp_path, surface_root):
    """Also the default's own value, and also in a config file."""
    config = {
        "model": {
            "class_path": "TransFusion",
            "init_args": {"pre_processor": PRE_PROCESSOR, "texture_source": "none", "visualizer": False},
        },
        "data": {
            "class_path": "DemoSurface",
            "init_args": {
                "root": str(surface_root),
                "image_size": [64, 64],
                "num_train_images": 16,
                "num_test_images": 2,
                "num_defect_images": 1,
                "num_workers": 0,
            },
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    }
    (tmp_path / "default.yaml").write_text(yaml.safe_dump(config))
    config["trainer"]["check_val_every_n_epoch"] = 1
    (tmp_path / "typed.yaml").write_text(yaml.safe_dump(config))
    said = "TransFusion validates every"
    fit = ["fit", *TINY]
    assert said in anomalib(*fit, "--config", "default.yaml", folder=tmp_path)
    assert said not in anomalib(*fit, "--config", "typed.yaml", folder=tmp_path)
    typed = ["--trainer.check_val_every_n_epoch", 1]
    assert said not in anomalib(*fit, "--config", "default.yaml", *typed, folder=tmp_path)


CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "benchmark")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_configs_are_understood(config, tmp_path):
    printed = anomalib("train", "--config", config, "--print_config", folder=tmp_path)
    model = yaml.safe_load(config.read_text())["model"]["class_path"]
    package = "anomalib_transfusion" if model in anomalib_transfusion.__all__ else "anomalib.models"
    assert f"class_path: {package}.{model}\n" in printed


@needs_datasets
def test_folder_and_visa_data(tmp_path):
    """Own folders, and VisA in the layout in which it is unpacked."""
    source = DATASETS / "MVTecAD/magnetic_tile"
    for name, part in (("good", "train/good"), ("defect", "test/crack"), ("masks", "ground_truth/crack")):
        (tmp_path / "parts" / name).mkdir(parents=True)
        for image in sorted((source / part).iterdir())[:8]:
            shutil.copy(image, tmp_path / "parts" / name)
    (tmp_path / "size.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"pre_processor": PRE_PROCESSOR}}}))
    common = [*TINY, "--config", "size.yaml", "--model.texture_source", "none", "--trainer.max_epochs", 1]
    common += ["--trainer.accelerator", "cpu", "--data.num_workers", 0, "--data.train_batch_size", 4]
    printed = anomalib(
        *["train", *common, "--data", "Folder", "--data.name", "parts", "--data.root", "parts"],
        *["--data.normal_dir", "good", "--data.abnormal_dir", "defect", "--data.mask_dir", "masks"],
        folder=tmp_path,
    )
    assert "pixel_AUPRO" in printed

    make_visa(tmp_path / "visa", source)
    printed = anomalib(
        *["train", *common, "--data", "Visa", "--data.root", "visa", "--data.category", "candle"],
        folder=tmp_path,
    )
    assert "pixel_AUPRO" in printed


def make_visa(root, source):
    """Lay out a few real images as VisA's archive does."""
    rows = ["object,split,label,image,mask"]
    for label, images, masks in (("normal", "train/good", None), ("anomaly", "test/crack", "ground_truth/crack")):
        for number, path in enumerate(sorted((source / images).iterdir())[:8]):
            split = "train" if label == "normal" and number < 6 else "test"
            image = f"candle/Data/Images/{label.capitalize()}/{number:04d}.JPG"
            (root / image).parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).convert("RGB").save(root / image)
            mask = ""
            if masks:
                mask = f"candle/Data/Masks/Anomaly/{number:04d}.png"
                (root / mask).parent.mkdir(parents=True, exist_ok=True)
                pixels = np.array(Image.open(source / masks / f"{path.stem}_mask.png").convert("L"))
                Image.fromarray((pixels > 0).astype(np.uint8)).save(root / mask)
            rows.append(f"candle,{split},{label},{image},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
