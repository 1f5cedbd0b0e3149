# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Metrics: their values, and what happens where there is nothing to measure or nobody to give labels."""

import math

import anomalib.metrics
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from sklearn.metrics import f1_score, roc_auc_score

from anomalib_transfusion.training.evaluation import AUPRO, AUROC, F1Score

IMAGES = ["pred_score", "gt_label"]
PIXELS = ["anomaly_map", "gt_mask"]


@pytest.fixture
def engine(tmp_path):
    """Return an engine that writes to a folder of its own."""
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=tmp_path, max_epochs=1, **settings)


def batch(truth):
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor(truth)
    masks = torch.zeros(len(truth), 16, 16, dtype=torch.bool)
    masks[truth, 4:8, 4:8] = True
    scores = torch.rand(len(truth), generator=generator)
    return ImageBatch(
        image=torch.rand(len(truth), 3, 16, 16, generator=generator),
        gt_label=truth,
        gt_mask=masks,
        pred_score=scores,
        pred_label=scores > 0.5,
        anomaly_map=torch.rand(len(truth), 1, 16, 16, generator=generator),
    )


def value(metric, *truths):
    for truth in truths:
        metric.update(batch(truth))
    return metric.compute()


def test_values_of_both_classes():
    """Against scikit-learn, over batches that have one class each."""
    batches = [batch([True, True, True]), batch([False] * 3)]
    truth = torch.cat([one.gt_label for one in batches])
    scores = torch.cat([one.pred_score for one in batches])
    labels = torch.cat([one.pred_label for one in batches])
    both = ([True, True, True], [False] * 3)
    assert value(AUROC(fields=IMAGES), *both).item() == pytest.approx(roc_auc_score(truth, scores))
    assert value(F1Score(fields=["pred_label", "gt_label"]), *both).item() == pytest.approx(f1_score(truth, labels))
    expected = value(anomalib.metrics.AUPRO(fields=PIXELS), *both)
    assert value(AUPRO(fields=PIXELS), *both) == expected > 0


@pytest.mark.parametrize(
    ("metric", "fields", "truth", "absent"),
    [
        (AUROC, IMAGES, False, "no image of the truth is defective"),
        (AUROC, IMAGES, True, "no image of the truth is good"),
        (AUROC, PIXELS, False, "no pixel of the truth is defective"),
        (AUPRO, PIXELS, False, "no pixel of the truth is defective"),
        (F1Score, ["pred_label", "gt_label"], False, "no image of the truth is defective"),
    ],
)
def test_no_number_where_there_is_none(metric, fields, truth, absent):
    made = metric(fields=fields, prefix="pixel_" if fields is PIXELS else "image_")
    assert made.name == f"{'pixel' if fields is PIXELS else 'image'}_{metric.__name__}"
    with pytest.warns(UserWarning, match=rf"{made.name} is not a number: {absent}"):
        assert math.isnan(value(made, [truth, truth]))
    # The next run is another one.
    made.reset()
    assert not math.isnan(value(made, [True, False]))


def test_f1_of_defects_alone_has_a_value():
    assert 0 <= value(F1Score(fields=["pred_label", "gt_label"]), [True, True]) <= 1


def test_metrics_are_no_part_of_checkpoints(tiny):
    """So that those of before load."""
    assert not [name for name in tiny().state_dict() if "seen" in name]


@pytest.mark.parametrize(
    "post_processor",
    [
        False,
        PostProcessor(enable_thresholding=False),
        PostProcessor(enable_thresholding=False, enable_normalization=False),
        PostProcessor(enable_normalization=False),
    ],
    ids=["none", "no_threshold", "neither", "no_normalization"],
)
def test_without_labels_the_test_after_the_training_works(tiny, surface, engine, post_processor):
    """With the metrics that need none; the others are there where a threshold is."""
    [found] = engine.train(tiny(post_processor=post_processor), datamodule=surface)
    expected = {"image_AUROC", "pixel_AUROC", "pixel_AUPRO"}
    if post_processor and post_processor.enable_thresholding:
        expected |= {"image_F1Score", "pixel_F1Score"}
    assert set(found) == expected
    assert all(0 <= number <= 1 for number in found.values())


def own(*, strict, stage="test_metrics"):
    metric = anomalib.metrics.F1Score(fields=["pred_label", "gt_label"], prefix="own_", strict=strict)
    return Evaluator(**{stage: [metric, anomalib.metrics.AUROC(fields=IMAGES)]})


def test_metric_of_the_user_that_insists_on_labels(tiny, surface, engine, tmp_path):
    """Before the training, not after it."""
    model = tiny(post_processor=False, evaluator=own(strict=True))
    with pytest.raises(ValueError, match=r"own_F1Score needs pred_label.* in the test: the model has no threshold"):
        engine.train(model, datamodule=surface)
    assert not list(tmp_path.rglob("*.ckpt"))
    [found] = engine.test(tiny(post_processor=False, evaluator=own(strict=False)), datamodule=surface)
    assert set(found) == {"AUROC"}


def test_metric_of_the_user_that_insists_on_labels_in_validation(tiny, surface, engine):
    model = tiny(evaluator=own(strict=True, stage="val_metrics"))
    with pytest.raises(ValueError, match=r"own_F1Score needs pred_label.* in the validation: a threshold is applied"):
        engine.fit(model, datamodule=surface)
