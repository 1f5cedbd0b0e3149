# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Evaluation by category, as the tests and their two processes run it.

python by_category.py evaluate|train ROOT_OF_DATA CHECKPOINT FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC, Evaluator, F1Score
from anomalib.models import Padim
from lightning.pytorch import Callback

from anomalib_transfusion import TransFusion
from anomalib_transfusion.categories.post_processing import statistics_of
from anomalib_transfusion.categories.processes import from_all_processes
from anomalib_transfusion.data import MultiCategory
from conftest import TINY

LOADING = {"num_workers": 0, "train_batch_size": 4, "eval_batch_size": 4}
METRICS = ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_AUPRO", "pixel_F1Score")


class PadimOnSeveral(Padim):
    """anomalib's Padim, which asks for one device because its training needs one; evaluating it does not."""

    @property
    def trainer_arguments(self):
        """Give anomalib's arguments without the number of devices."""
        return {name: value for name, value in super().trainer_arguments.items() if name != "devices"}


def padim(model_class=Padim):
    """Return a model of anomalib's own that is trained in a moment, with its metrics and AUPRO."""
    pixels = {"prefix": "pixel_", "strict": False}
    return model_class(
        backbone="resnet18",
        layers=["layer1"],
        pre_trained=False,
        n_features=20,
        pre_processor=Padim.configure_pre_processor((48, 48)),
        visualizer=False,
        evaluator=Evaluator(
            test_metrics=[
                AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
                F1Score(fields=["pred_label", "gt_label"], prefix="image_"),
                AUROC(fields=["anomaly_map", "gt_mask"], **pixels),
                AUPRO(fields=["anomaly_map", "gt_mask"], **pixels),
                F1Score(fields=["pred_mask", "gt_mask"], **pixels),
            ],
        ),
    )


def engine(folder, **arguments):
    """Return an engine on the CPU that prints little."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=folder, accelerator="cpu", **{"devices": 1, **quiet, **arguments})


def evaluate(root, checkpoint, folder):
    """Validate and test a model on two processes, and write down what is found."""
    data = MultiCategory("MVTec", root, **{**LOADING, "eval_batch_size": 1})
    model = padim(PadimOnSeveral)
    run = engine(folder, devices=2, strategy="ddp")
    run.validate(model, datamodule=data, ckpt_path=checkpoint)
    assert torch.distributed.get_world_size() == 2
    pooled = {name: value.clone() for name, value in model.post_processor.state_dict().items()}
    [metrics] = run.test(model, datamodule=data)
    if run.trainer.is_global_zero:
        torch.save({"pooled": pooled, "statistics": dict(statistics_of(model))}, folder / "thresholds.pt")
        (folder / "metrics.json").write_text(json.dumps(metrics))


def train(root, _checkpoint, folder):
    """Train a model with a loss on categories that are drawn equally often, and write down what was drawn."""
    pre_processor = TransFusion.configure_pre_processor((32, 32))
    model = TransFusion(**TINY, pre_processor=pre_processor, visualizer=False, evaluator=False)
    data = MultiCategory("MVTec", root, balanced=True, **{**LOADING, "train_batch_size": 2})
    run = engine(folder, devices=2, strategy="ddp", max_epochs=2, callbacks=[drawn := Drawn()])
    run.fit(model, datamodule=data)
    if run.trainer.is_global_zero:
        (folder / "drawn.json").write_text(json.dumps(drawn.of_all_processes))


class Drawn(Callback):
    """Keeps the categories and paths of the images of each epoch, in the end of all processes."""

    def __init__(self):
        self.paths = []
        self.of_all_processes = []

    def on_train_epoch_start(self, *_):
        """Begin a list."""
        self.paths.append([])

    def on_train_batch_start(self, _trainer, _module, batch, _index):
        """Add the images of a batch to it."""
        self.paths[-1] += zip(batch.category, batch.image_path, strict=True)

    def on_train_end(self, *_):
        """Collect them before a process ends."""
        self.of_all_processes = from_all_processes(self.paths)


if __name__ == "__main__":
    {"evaluate": evaluate, "train": train}[sys.argv[1]](*map(Path, sys.argv[2:]))
