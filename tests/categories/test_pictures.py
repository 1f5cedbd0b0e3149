# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of all categories: each image has a file of its own, with anomalib's models as well, and a page of all."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from anomalib.engine import Engine
from anomalib.models import Padim
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import seed_everything
from PIL import Image

from anomalib_transfusion import DemoSurface, MultiCategory
from anomalib_transfusion.categories.post_processing import statistics_of
from conftest import SURFACE

sys.path.insert(0, str(Path(__file__).parents[1] / "visualization"))
from result_pages import embedded, facts

KINDS = ("good/000", "good/001", "crack/000", "displaced/000", "hole/000", "scratch/000", "stain/000")
LOADING = {"num_workers": 0, "train_batch_size": 4, "eval_batch_size": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return the folder of two categories with other images under the same names."""
    root = tmp_path_factory.mktemp("surfaces")
    for category in ("brick", "grass"):
        DemoSurface(root=root, **{**SURFACE, "category": category, "num_train_images": 4}).prepare_data()
    return root


@pytest.fixture
def linked(root, tmp_path):
    """Return a folder whose categories are links to folders that no one name is above of."""
    for number, category in enumerate(("brick", "grass")):
        elsewhere = tmp_path / f"disk{number}" / f"set{number}"
        shutil.copytree(root / category, elsewhere)
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / category).symlink_to(elsewhere)
    return tmp_path / "mine"


def engine(folder):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **quiet)


def padim(**others):
    return Padim(
        backbone="resnet18",
        layers=["layer1"],
        pre_trained=False,
        n_features=20,
        pre_processor=Padim.configure_pre_processor((48, 48)),
        **others,
    )


def pictures(folder):
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.png")}


@pytest.mark.parametrize("prediction", [False, True])
def test_pictures_of_links_have_folders_of_their_own(linked, tmp_path, prediction):
    """Here anomalib alone keeps the last folder of each image, which is the same for both categories."""
    model, run = padim(), engine(tmp_path / "runs")
    data = MultiCategory("MVTec", linked, **LOADING)
    run.fit(model, datamodule=data)
    (run.predict if prediction else run.test)(model, datamodule=data)
    found = pictures(Path(run.trainer.default_root_dir) / "images")
    assert set(found) == {f"{category}/{kind}" for category in ("brick", "grass") for kind in KINDS}
    # The user's visualizer is the model's again, and was changed in nothing.
    assert model.visualizer in run.trainer.callbacks
    assert type(model.visualizer) is ImageVisualizer
    assert model.visualizer.output_dir == Path(run.trainer.default_root_dir) / "images"


def test_folder_that_the_user_names(linked, tmp_path):
    model, run = padim(visualizer=ImageVisualizer(output_dir=tmp_path / "own")), engine(tmp_path / "runs")
    data = MultiCategory("MVTec", linked, **LOADING)
    run.fit(model, datamodule=data)
    run.test(model, datamodule=data)
    found = pictures(tmp_path / "own")
    assert set(found) == {f"{category}/{kind}" for category in ("brick", "grass") for kind in KINDS}
    # Each shows its image: the first panel is the image itself.
    for category in ("brick", "grass"):
        shown = np.asarray(Image.open(found[f"{category}/good/000"]).crop((60, 60, 200, 200)).convert("L"), dtype=float)
        original = Image.open(linked / category / "test/good/000.png").convert("L").resize((256, 256))
        assert abs(shown.mean() - np.asarray(original.crop((60, 60, 200, 200)), dtype=float).mean()) < 10


@pytest.mark.parametrize("links", [False, True])
def test_sheets_and_page_of_all_categories(tiny, root, linked, tmp_path, links):
    seed_everything(1)
    model, run = tiny(visualizer=True), engine(tmp_path / "runs")
    data = MultiCategory("MVTec", linked if links else root, **LOADING)
    run.fit(model, datamodule=data)
    [metrics] = run.test(model, datamodule=data)
    folder = Path(run.trainer.default_root_dir) / "images"
    below = "" if links else "test/"
    expected = {f"{category}/{below}{kind}.png" for category in ("brick", "grass") for kind in KINDS}
    assert {
        path.relative_to(folder).as_posix() for path in folder.glob("*/**/*.png") if "epoch" not in path.name
    } == expected
    page = embedded(folder / "index.html")
    assert {result["name"]: result["category"] for result in page["results"]} == {
        sheet: sheet.split("/")[0] for sheet in expected
    }
    assert facts(folder / "index.html")["Image AUROC, mean of categories"] == f"{metrics['image_AUROC']:.3f}"
    assert page["threshold"] == 0.5
    for category, values in statistics_of(model).items():
        assert f"{category} {float(values['_image_threshold']):#.4g}" in page["note"]
    assert len(statistics_of(model)) == 2
