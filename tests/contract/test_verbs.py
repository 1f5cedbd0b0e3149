# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib asks of every model of ``list_models()``: each verb of its engine and of its command line.

A small network does it in moments; at full default size, built with no argument at all, it takes minutes.
"""

import re

import numpy as np
import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data import MVTecAD
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import get_model, list_models
from contract_models import EXPORTED, MODELS, each_model
from PIL import Image

from anomalib_transfusion.cli import explain

METRICS = {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"}


def write_images(root, training, good, defective):
    """Write a category `dummy` in the layout of MVTec AD: gray noise, and in defective images a bright square."""
    random = np.random.default_rng(0)
    for part, count in (("train/good", training), ("test/good", good), ("test/bad", defective)):
        folder = root / "dummy" / part
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(80, 120, (48, 48, 3), dtype=np.uint8)
            if part == "test/bad":
                mask = np.zeros((48, 48), np.uint8)
                mask[10:30, 12 : 30 + number] = 255
                pixels[mask > 0] = 250
                truth = root / "dummy/ground_truth/bad"
                truth.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(truth / f"{number:03}_mask.png")
            Image.fromarray(pixels).save(folder / f"{number:03}.png")


def skip_without_tools(export_type):
    """Skip a test of an export whose tools are an extra that is not installed."""
    needed = {ExportType.ONNX: ["onnx", "onnxscript"], ExportType.OPENVINO: ["onnx", "onnxscript", "openvino"]}
    for name in needed.get(export_type, []):
        pytest.importorskip(name, reason=f"needs the extra {export_type.value}")


each_export = pytest.mark.parametrize(
    "export_type",
    # Where the tools are there, these take longer than all the rest. That the engine exports a checkpoint to them is
    # asserted in test_equal_results.py as well.
    [
        ExportType.TORCH,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (ExportType.ONNX, ExportType.OPENVINO)),
    ],
)


class Project:
    """A folder with data and the results of a training, and fresh objects for each verb.

    Args:
        root: The folder.
        model: The model.
        parameters: Parameters of the model.
        data: Parameters of the data module.
    """

    def __init__(self, root, model, parameters, data):
        self.root = root
        self.model = model
        self.parameters = parameters
        self.data = data
        self.checkpoint = root / model.class_name / "MVTecAD/dummy/v0/weights/lightning/model.ckpt"

    def objects(self):
        """Return a new model, data module and engine, as anomalib's test makes them for each verb."""
        parameters = dict(self.parameters)
        if "image_size" in parameters:
            size = parameters.pop("image_size")
            parameters["pre_processor"] = self.model.model_class.configure_pre_processor(size)
        model = get_model(self.model.name, **parameters)
        data = MVTecAD(root=self.root / "data", category="dummy", train_batch_size=2, **self.data)
        return model, data, Engine(logger=False, default_root_dir=self.root, max_epochs=1, devices=1)


def small(root, model):
    """Return a project with a trained small network."""
    write_images(root / "data", training=4, good=2, defective=2)
    project = Project(root, model, {**model.tiny, "image_size": (32, 32)}, {"num_workers": 0})
    network, data, engine = project.objects()
    engine.fit(model=network, datamodule=data)
    return project


def full(root, model):
    """Return a project with a trained network of full default size, built with no argument."""
    write_images(root / "data", training=1, good=1, defective=1)
    # Where the default looks for textures: relative to where the run is started.
    (root / "datasets/dtd/images").mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    for number, texture in enumerate(pixels):
        Image.fromarray(texture).save(root / f"datasets/dtd/images/{number}.jpg")
    project = Project(root, model, {}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        network, data, engine = project.objects()
        engine.fit(model=network, datamodule=data)
    return project


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((size, model), id=f"{size.__name__}-{model.name}", marks=marks)
        for model in MODELS
        for size, marks in ((small, ()), (full, (pytest.mark.slow, pytest.mark.timeout(1800))))
        if size is small or not model.downloads
    ],
)
def trained(request, tmp_path_factory):
    """Return the project of each model and size."""
    size, model = request.param
    return size(tmp_path_factory.mktemp(size.__name__), model)


@pytest.fixture
def project(trained, monkeypatch):
    """Return the project; the working directory is its folder."""
    monkeypatch.chdir(trained.root)
    return trained


@each_model
def test_model_is_listed(model):
    assert model.class_name in list_models(case="pascal")


def test_fit_leaves_a_checkpoint_of_this_network(project):
    state = torch.load(project.checkpoint, weights_only=True, map_location="cpu")
    assert state["epoch"] == 0
    assert state["global_step"] == -(-len(list((project.root / "data/dummy/train/good").iterdir())) // 2)
    stored = sum(
        weight.numel() for name, weight in state["state_dict"].items() if name.startswith(project.model.prefix)
    )
    assert (stored > 50_000_000) == (not project.parameters)


def test_test(project):
    model, data, engine = project.objects()
    [metrics] = engine.test(model=model, datamodule=data, ckpt_path=project.checkpoint)
    assert set(metrics) == METRICS
    assert all(0 <= value <= 1 for value in metrics.values())


def test_train(project):
    model, data, engine = project.objects()
    [metrics] = engine.train(model=model, datamodule=data, ckpt_path=project.checkpoint)
    assert set(metrics) == METRICS


def test_validate(project):
    model, data, engine = project.objects()
    [metrics] = engine.validate(model=model, datamodule=data, ckpt_path=project.checkpoint)
    assert set(metrics) == {"image_AUROC"}


def test_predict(project):
    model, data, engine = project.objects()
    batches = engine.predict(model=model, datamodule=data, ckpt_path=project.checkpoint)
    paths = [path for batch in batches for path in batch.image_path]
    assert sorted(paths) == sorted(map(str, (project.root / "data/dummy/test").rglob("*.png")))
    for batch in batches:
        assert batch.anomaly_map.shape[-2:] == (model.input_size if project.parameters else (256, 256))
        assert batch.pred_label.dtype == batch.pred_mask.dtype == torch.bool
        assert 0 <= batch.pred_score.min() <= batch.pred_score.max() <= 1


def test_reconstruction_is_there_after_evaluation(project):
    model, data, engine = project.objects()
    *_, last = engine.predict(model=model, datamodule=data, ckpt_path=project.checkpoint)
    assert model.reconstruction.shape == last.image.shape
    assert 0 <= model.reconstruction.min() <= model.reconstruction.max() <= 1


def test_explain(project, tmp_path, capsys):
    """The command finds out whose checkpoint it is."""
    explain([project.root / "data/dummy/test/bad"], project.checkpoint, tmp_path, device="cpu")
    printed = capsys.readouterr().out
    for path in (tmp_path / f"00{number}{suffix}" for number in (0, 1) for suffix in (".png", ".gif")):
        assert str(path) in printed
        with Image.open(path) as picture:
            assert min(picture.size) > 160
            assert len(np.unique(picture.convert("L"))) > 50


@each_export
def test_export(project, export_type, tmp_path):
    skip_without_tools(export_type)
    model, _, engine = project.objects()
    path = engine.export(
        model=model,
        ckpt_path=str(project.checkpoint),
        export_type=export_type,
        export_root=tmp_path,
    )
    assert path == tmp_path / "weights" / EXPORTED[export_type]
    # The weights of the network are in it, or beside it.
    written = sum(file.stat().st_size for file in path.parent.iterdir())
    assert written > 2 * sum(parameter.numel() for parameter in model.model.parameters())


def command(verb, project, *arguments, data=True, results=None):
    """Run a command of anomalib in this process; its results go to the folder of the project, or to another."""
    small = project.model.arguments if project.parameters else []
    data_arguments = ["--data", "MVTecAD", "--data.root", str(project.root / "data"), "--data.category", "dummy"]
    if project.parameters:
        data_arguments += ["--data.num_workers", "0"]
    AnomalibCLI(
        args=[
            *[verb, "--model", project.model.class_name, *small, *(data_arguments if data else [])],
            *["--default_root_dir", str(results or project.root), "--trainer.max_epochs", "1", *map(str, arguments)],
        ],
    )


def test_command_fit(project, tmp_path):
    command("fit", project, results=tmp_path)
    assert (tmp_path / project.model.class_name / "MVTecAD/dummy/v0/weights/lightning/model.ckpt").is_file()


@pytest.mark.parametrize(
    ("verb", "printed"),
    [("train", METRICS), ("validate", {"image_AUROC"}), ("test", METRICS), ("predict", set())],
)
def test_command(project, verb, printed, capsys):
    command(verb, project, "--ckpt_path", project.checkpoint)
    # The table cuts no name.
    assert set(re.findall(r"(?:image|pixel)_\w+", capsys.readouterr().out)) == printed


@pytest.mark.parametrize("images", ["data/dummy/test/bad", "data/dummy/test/bad/000.png"])
def test_command_predicts_what_it_is_pointed_at(project, images, tmp_path):
    pointed_at = project.root / images
    files = {pointed_at} if pointed_at.is_file() else set(pointed_at.iterdir())
    arguments = ["--data", pointed_at, "--ckpt_path", project.checkpoint]
    command("predict", project, *arguments, data=False, results=tmp_path)
    # A result sheet for each image.
    assert {path.name for path in tmp_path.rglob("*.png")} == {path.name for path in files}


@each_export
def test_command_exports(project, export_type, tmp_path):
    skip_without_tools(export_type)
    arguments = ["--export_type", export_type.value, "--export_root", tmp_path, "--ckpt_path", project.checkpoint]
    command("export", project, *arguments, data=False)
    assert (tmp_path / "weights" / EXPORTED[export_type]).is_file()
