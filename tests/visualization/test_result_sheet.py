# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Result sheets: what they show, and what the user sets of anomalib's visualizer."""

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageBatch, ImageItem, PredictDataset
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.visualization import ImageVisualizer
from PIL import Image
from result_pages import embedded, facts

from anomalib_transfusion import TransFusion
from anomalib_transfusion.visualization import ResultSheet
from anomalib_transfusion.visualization.result_page import Result
from anomalib_transfusion.visualization.result_sheet import threshold_of
from anomalib_transfusion.visualization.sheet_drawing import GAP, caption, difference_panel, labeled
from commands import typed
from conftest import SURFACE, TINY
from paths import ROOT

SIDE = 256


@pytest.fixture
def item():
    """Return an image with all that a test knows about it."""
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[8:16, 8:16] = True
    return ImageItem(
        image=image,
        gt_mask=mask,
        pred_mask=mask,
        anomaly_map=mask.float(),
        pred_score=torch.tensor(0.75),
        gt_label=torch.tensor(data=True),
        pred_label=torch.tensor(data=True),
    )


@pytest.fixture
def engine(tmp_path):
    """Return an engine that writes to a folder of its own."""
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=tmp_path, max_epochs=1, **settings)


def page_of(engine, folder="images"):
    """Return the page of an engine's run."""
    return Path(engine.trainer.default_root_dir) / folder / "index.html"


@pytest.mark.parametrize("name", ["Image", "Reconstruction", "Image + Anomaly Map", "Predicted mask + Ground truth"])
@pytest.mark.parametrize("width", [96, 128, 256, 700])
def test_names_fit_and_cover_nothing(name, width):
    panel = Image.new("RGB", (width, width), (200, 30, 30))
    sheet = labeled(panel, name, {"color": "white", "background": (0, 0, 0, 128), "font": None, "size": None})
    assert sheet.crop((0, sheet.height - width, width, sheet.height)).tobytes() == panel.tobytes()
    strip = np.array(sheet.crop((0, 0, width, sheet.height - width)).convert("L"))
    written = np.flatnonzero((strip != strip[0, 0]).any(axis=0))
    assert 0 < written.min() < written.max() < width - 5
    assert (strip[[0, -1]] == strip[0, 0]).all()


def test_names_of_the_panels(item):
    """As many names as panels, whatever is missing: a name too many would move the others to wrong panels."""
    sheet = ResultSheet(
        fields=["image", "gt_mask", "pred_mask", "anomaly_map"],
        overlay_fields=[("image", ["anomaly_map", "pred_mask"]), ("gt_mask", ["pred_mask"]), ("image", ["mask"])],
    )
    drawn = ["Image", "Ground truth", "Predicted mask", "Anomaly map"]
    over = ["Anomaly map + Predicted mask", "Ground truth + Predicted mask", "Image"]
    assert sheet._names(item) == drawn + over
    assert len(sheet.panels(item, {"Reconstruction": item.image})) == len(drawn + over) + 2
    item.gt_mask = None
    assert sheet._names(item) == ["Image", "Predicted mask", "Anomaly map", "Anomaly map + Predicted mask", "Image"]
    assert len(sheet.panels(item, {"Reconstruction": item.image})) == 5 + 2


def test_panels_are_anomalibs_with_the_users_settings(item):
    settings = {
        "fields": ["anomaly_map", "image"],
        "overlay_fields": [("image", ["gt_mask", "pred_mask"])],
        "field_size": (80, 48),
        "fields_config": {"anomaly_map": {"colormap": False, "normalize": True}},
        "overlay_fields_config": {"pred_mask": {"mode": "fill", "color": (0, 0, 255), "alpha": 0.4}},
        "text_config": {"enable": False},
    }
    *theirs, reconstruction, difference = ResultSheet(**settings).panels(item, {"Reconstruction": item.image})
    expected = ImageVisualizer(**settings).visualize(item)
    assert [panel.size for panel in theirs] == [(80, 48)] * 3
    for number, panel in enumerate(theirs):
        assert panel.tobytes() == expected.crop((80 * number, 0, 80 * number + 80, 48)).tobytes()
    assert reconstruction.size == difference.size == (80, 48)


def test_position_of_names_is_kept(item):
    """Over the panels, as in anomalib, for a user who says where."""
    names = ResultSheet(text_config={"position": (5, 200), "size": 15}).panels(item, {"Reconstruction": item.image})
    plain = ResultSheet(text_config={"enable": False}).panels(item, {"Reconstruction": item.image})
    assert all(panel.size == (SIDE, SIDE) for panel in names)
    for named, panel in zip(names, plain, strict=True):
        differs = np.flatnonzero((np.array(named) != np.array(panel)).any(axis=(1, 2)))
        assert differs.min() >= 190
        assert differs.max() < 225


def test_size_and_color_of_names_are_kept(item):
    small, large = (
        ResultSheet(text_config={"size": size}).panels(item, {"Reconstruction": item.image})[0] for size in (9, 30)
    )
    assert large.height > small.height + 15
    black = ResultSheet(text_config={"color": "black"}).panels(item, {"Reconstruction": item.image})[0]
    # Dark text is written on something bright.
    assert np.array(black)[0, 0].min() > 200
    assert np.array(black)[: black.height - SIDE].min() < 50


def test_difference():
    image, reconstruction = torch.full((3, 2, 2), 0.6), torch.full((3, 2, 2), 0.6)
    reconstruction[0, 0, 0], reconstruction[1, 1, 1] = 0.35, 1.0
    pixels = np.array(difference_panel(image, reconstruction)).astype(int)
    assert abs(pixels[0, 1] - 127.5).max() < 1
    assert abs(pixels[0, 0, 0] - 0.75 * 255) < 1
    assert abs(pixels[1, 1, 1] - 0.1 * 255) < 1


@pytest.mark.parametrize(
    ("verdict", "truth", "outcome"),
    [
        *[(True, False, "false alarm"), (False, True, "miss"), (True, True, "defect found")],
        *[(False, False, "good passed"), (True, None, "called defect"), (False, None, "called good")],
        *[(None, True, ""), (None, None, "")],
    ],
)
def test_outcome(verdict, truth, outcome):
    result = Result("a.png", "kind", 0.5, verdict, truth)
    assert result.outcome == outcome
    line = np.array(caption(1500, 256, result, None if verdict is None else 0.5)).astype(int)
    red, green, _ = line.reshape(-1, 3)[line.sum(axis=2).argmax()]
    tint = {"false alarm": 1, "miss": 1, "defect found": -1, "good passed": -1}.get(outcome, 0)
    assert np.sign(red - green) == tint


def test_sheets_and_page_of_a_run(tiny, surface, engine):
    model = tiny(visualizer=True)
    engine.fit(model, datamodule=surface)
    [metrics] = engine.test(model, datamodule=surface)
    page = page_of(engine)
    data = embedded(page)
    assert (data["model"], data["data"], data["threshold"]) == ("TransFusion", "DemoSurface, brick", 0.5)
    raw = float(model.post_processor.image_threshold)
    assert f"({raw:#.4g} before)" in data["note"]
    assert facts(page)["Image AUROC"] == f"{metrics['image_AUROC']:.3f}"
    assert len(data["results"]) == 7
    for result in data["results"]:
        width, height = Image.open(page.parent / result["name"]).size
        assert [width, height] == result["size"]
        # Image, truth, map, mask, reconstruction and difference, with names above them and the verdict above these.
        assert width == 6 * SIDE + 5 * GAP
        assert SIDE + 40 < height < SIDE + 100
        assert result["verdict"] == (result["score"] > 0.5)
        assert result["kind"] == page.parent.joinpath(result["name"]).parent.name
        defective = result["kind"] != "good"
        right = "defect found" if defective else "good passed"
        assert result["outcome"] == (
            right if defective == result["verdict"] else "miss" if defective else "false alarm"
        )
    outcomes = [result["outcome"] for result in data["results"]]
    head = facts(page)
    assert (head["Images"], head["Defects"], head["Threshold"]) == ("7", "5", "0.5000")
    assert head["False alarms"] == str(outcomes.count("false alarm"))
    assert head["Misses"] == str(outcomes.count("miss"))
    # The same again, and a prediction of some of the images: no row twice, none of the run before, and the page and
    # the sheets of the test, which know the truth, stay.
    engine.test(model, datamodule=surface)
    assert embedded(page)["results"] == data["results"]
    before = {path: path.read_bytes() for path in page.parent.rglob("*.*")}
    scratches = PredictDataset(path=surface.root / "brick/test/scratch")
    engine.predict(model, dataset=scratches)
    assert {row["kind"] for row in embedded(page_of(engine, "images/predictions"))["results"]} == {"scratch"}
    assert before == {path: path.read_bytes() for path in before}


def test_threshold_is_on_the_scale_of_the_scores(tiny, surface, engine):
    """A higher sensitivity lowers it, for the labels as for the page."""
    model = tiny(visualizer=True, post_processor=PostProcessor(image_sensitivity=0.8))
    engine.fit(model, datamodule=surface)
    engine.test(model, datamodule=surface)
    data = embedded(page_of(engine))
    assert data["threshold"] == pytest.approx(0.2)
    assert [row["verdict"] for row in data["results"]] == [row["score"] > 0.2 for row in data["results"]]
    assert any(row["verdict"] for row in data["results"])


def test_without_post_processor_nothing_is_a_defect(tiny, surface, engine):
    engine.test(tiny(visualizer=True, post_processor=False, evaluator=False), datamodule=surface)
    page = page_of(engine)
    data = embedded(page)
    assert data["threshold"] is None
    assert "Without a post-processor" in data["note"]
    assert {row["outcome"] for row in data["results"]} == {""}
    assert facts(page) == {"Images": "7", "Defects": "5", "Threshold": "none"}


def test_model_that_was_never_validated_says_so(tiny, surface, engine):
    engine.predict(tiny(visualizer=True), datamodule=surface)
    assert "never validated" in embedded(page_of(engine, "images/predictions"))["note"]


def test_formats_that_browsers_do_not_show(tiny, engine, tmp_path):
    """Their sheets are PNG; the others keep their names."""
    (tmp_path / "parts").mkdir()
    for name in ("a.tif", "a.png", "b.JPG", "c.bmp"):
        Image.new("RGB", (32, 32), (10, 200, 30)).save(tmp_path / "parts" / name)
    folder = tmp_path / "own"
    engine.predict(tiny(visualizer=ResultSheet(output_dir=folder)), dataset=PredictDataset(path=tmp_path / "parts"))
    found = {row["name"] for row in embedded(folder / "index.html")["results"]}
    assert found == {"parts/a.tif.png", "parts/a.png", "parts/b.JPG", "parts/c.bmp"}
    formats = {name: Image.open(folder / name).format for name in found}
    assert formats == {"parts/a.tif.png": "PNG", "parts/a.png": "PNG", "parts/b.JPG": "JPEG", "parts/c.bmp": "BMP"}


# Tests, in two processes or with a death in the second batch.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from anomalib.engine import Engine
from anomalib_transfusion import DemoSurface, TransFusion
from lightning.pytorch import Callback, seed_everything

surface, folder, devices, dies = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "dies"
tiny, settings = map(json.loads, sys.argv[5:7])


class Killed(Callback):
    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if dies and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)


seed_everything(7)
model = TransFusion(**tiny, pre_processor=TransFusion.configure_pre_processor((32, 32)))
engine = Engine(
    default_root_dir=folder, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
    logger=False, enable_progress_bar=False, callbacks=[Killed()],
)
engine.test(model, datamodule=DemoSurface(root=surface, **settings))
"""


def run(program_folder, surface_root, devices, dies):
    """Run the program above."""
    script = program_folder / "program.py"
    script.write_text(PROGRAM)
    # The second process is started by Lightning.
    environment = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    arguments = [surface_root, program_folder, devices, dies, json.dumps(TINY), json.dumps(SURFACE)]
    return typed(script, *arguments, folder=program_folder, environment=environment)


def test_two_processes_write_one_page_with_everything(surface_root, tmp_path):
    done = run(tmp_path, surface_root, 2, "lives")
    assert done.returncode == 0, done.stderr[-3000:]
    [page] = tmp_path.rglob("index.html")
    rows = embedded(page)["results"]
    assert len(rows) == 7
    sheets = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*.png")}
    assert {row["name"] for row in rows} == sheets
    assert facts(page)["Defects"] == "5"


@pytest.mark.slow
def test_killed_run_leaves_no_page_or_the_one_before(surface_root, tmp_path):
    done = run(tmp_path, surface_root, 1, "dies")
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    [folder] = [path for path in tmp_path.rglob("images") if path.is_dir()]
    assert len(list(folder.rglob("*.png"))) == 4
    assert not list(folder.rglob("*index*"))
    assert not list(folder.rglob("*.partial"))
    (folder / "index.html").write_text("of the run before")
    assert run(tmp_path, surface_root, 1, "dies").returncode == -signal.SIGKILL
    assert (folder / "index.html").read_text() == "of the run before"


def images_at(folder, *names):
    """Make small images, and return their folder."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (10 * number, 200, 30)).save(folder / name)
    return folder


def sheets(folder):
    """Return the sheets of a folder; the page lists each of them once."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix not in {"", ".html"}}
    listed = [row["name"] for row in embedded(folder / "index.html")["results"]]
    assert sorted(listed) == sorted(found)
    return found


def test_images_of_equal_names_in_folders_of_equal_names(tiny, engine, tmp_path):
    names = ["monday/cam1/0.png", "tuesday/cam1/0.png", "tuesday/cam2/0.png", "cam3/a.tif", "cam3/a.tif.png"]
    images = images_at(tmp_path / "in", *names, f"cam3/{'漆' * 83}.tiff")
    folder = tmp_path / "own"
    engine.predict(tiny(visualizer=ResultSheet(output_dir=folder)), dataset=PredictDataset(path=images))
    found = sheets(folder)
    assert {"monday/cam1/0.png", "tuesday/cam1/0.png", "cam2/0.png", "cam3/a.tif.png"} <= found
    assert len(found) == 6


def test_lots_of_one_data_module(tiny, engine, tmp_path):
    """Outside of the data module's name; several batches, and the sheets of one image show that image."""
    images_at(tmp_path, *(f"lot{lot}/{kind}/{n}.png" for lot in "AB" for kind in ("good", "bad") for n in range(2)))
    data = Folder(
        name="gadget",
        root=tmp_path,
        normal_dir="lotA/good",
        normal_test_dir=["lotA/good", "lotB/good"],
        abnormal_dir=["lotA/bad", "lotB/bad"],
        eval_batch_size=3,
        num_workers=0,
        val_split_mode="same_as_test",
    )
    folder = tmp_path / "own"
    engine.test(tiny(visualizer=ResultSheet(output_dir=folder)), datamodule=data)
    expected = {f"lot{lot}/{kind}/{n}.png" for lot in "AB" for kind in ("good", "bad") for n in range(2)}
    assert sheets(folder) == expected


class Unlisted(torch.utils.data.Dataset):
    """A data set that does not tell its files beforehand, or has none."""

    def __init__(self, items, paths):
        self.items = items
        self.paths = paths

    def __len__(self):
        """Count the images."""
        return len(self.items)

    def __getitem__(self, index):
        """Return an image."""
        item = self.items[index]
        item.image_path = self.paths[index]
        return item


@pytest.mark.parametrize("with_paths", [True, False])
def test_data_set_that_does_not_tell_its_files(tiny, engine, tmp_path, with_paths):
    images = images_at(tmp_path / "in", "monday/cam1/0.png", "tuesday/cam1/0.png", "tuesday/cam1/1.png")
    items = list(PredictDataset(path=images))
    paths = [item.image_path if with_paths else None for item in items]
    loader = torch.utils.data.DataLoader(Unlisted(items, paths), batch_size=2, collate_fn=ImageBatch.collate)
    folder = tmp_path / "own"
    engine.predict(tiny(visualizer=ResultSheet(output_dir=folder)), dataloaders=loader)
    found = sheets(folder)
    assert len(found) == 3
    assert not with_paths or {"cam1/0.png", "cam1/1.png"} < found


@pytest.mark.filterwarnings("ignore:image_.* is not a number")
def test_data_set_without_defects(tiny, good_alone, engine):
    model = tiny(visualizer=True)
    [found] = engine.train(model, datamodule=good_alone)
    assert math.isnan(found["image_AUROC"])
    assert math.isnan(found["image_F1Score"])
    page = page_of(engine)
    assert facts(page) == {"Images": "2", "Defects": "0", "False alarms": "0", "Misses": "0", "Threshold": "0.5000"}
    note = embedded(page)["note"]
    assert "no threshold could be found" in note
    assert "highest score of the good images" in note
    assert "threshold found in validation" not in note
    # Known for ever after: a checkpoint has it.
    loaded = TransFusion.load_from_checkpoint(engine.best_model_path)
    assert loaded.validated_on == [2, 0]
    assert threshold_of(loaded) == threshold_of(model)


def test_where_the_threshold_is_from(tiny, surface, engine):
    model = tiny()
    engine.fit(model, datamodule=surface)
    assert model.validated_on == [2, 5]
    assert "the threshold found in validation" in threshold_of(model)[1]
    engine.validate(model, datamodule=surface)
    assert model.validated_on == [2, 5]


def test_own_metric_of_one_class_is_not_on_the_page(tiny, good_alone, engine):
    """Where anomalib's AUROC says 0."""
    evaluator = Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="image_")])
    engine.test(tiny(visualizer=True, evaluator=evaluator), datamodule=good_alone)
    assert "Image AUROC" not in facts(page_of(engine))
