# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Evaluation by category, as the tests and their two processes run it.

python by_category.py ROOT_OF_DATA CHECKPOINT FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC, Evaluator, F1Score
from anomalib.models import Padim

from anomalib_transfusion.categories.post_processing import statistics_of
from anomalib_transfusion.data import MultiCategory

LOADING = {"num_workers": 0, "train_batch_size": 4, "eval_batch_size": 4}
METRICS = ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_AUPRO", "pixel_F1Score")


def padim():
    """Return a model of anomalib's own that is trained in a moment, with its metrics and AUPRO."""
    pixels = {"prefix": "pixel_", "strict": False}
    return Padim(
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


def main(root, checkpoint, folder):
    data = MultiCategory("MVTec", root, **{**LOADING, "eval_batch_size": 1})
    model = padim()
    run = engine(folder, devices=2, strategy="ddp")
    run.validate(model, datamodule=data, ckpt_path=checkpoint)
    pooled = {name: value.clone() for name, value in model.post_processor.state_dict().items()}
    [metrics] = run.test(model, datamodule=data)
    if run.trainer.is_global_zero:
        torch.save({"pooled": pooled, "statistics": dict(statistics_of(model))}, folder / "thresholds.pt")
        (folder / "metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
