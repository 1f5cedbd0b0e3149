# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Metrics and thresholds by category equal those of evaluating each category alone, with a model of anomalib's own."""

import copy
import json
import logging
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import TorchInferencer
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from by_category import LOADING, METRICS, engine, padim

from anomalib_transfusion.categories import (
    CategoryBatch,
    CategoryPostProcessing,
    detach,
    fix_category,
    fix_category_in_checkpoint,
)
from anomalib_transfusion.categories.batch import select
from anomalib_transfusion.categories.post_processing import statistics_of
from anomalib_transfusion.data import MultiCategory
from commands import typed
from conftest import SURFACE
from paths import ROOT

CATEGORIES = ("brick", "grass", "gravel")
#: The one without a defect: it has no value.
FLAWLESS = "grass"
JUDGED = ("brick", "gravel")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return three categories with 13, 1 and 5 test images, the one without a defect."""
    root = tmp_path_factory.mktemp("data")
    images = {key: value for key, value in SURFACE.items() if key.endswith("_images") or key == "image_size"}
    images = {**images, "num_test_images": 3, "num_defect_images": 2}
    MultiCategory("DemoSurface", root, dataset_args=images).prepare_data()
    gone = [path for path in root.glob("grass/test/*/*") if path.parts[-2:] != ("good", "000.png")]
    gone += root.glob("grass/ground_truth/*/*")
    for folder in ("test", "ground_truth"):
        gone += root.glob(f"gravel/{folder}/*/001*")
        gone += root.glob(f"gravel/{folder}/s*/000*")
    for path in gone:
        path.unlink()
    return root


def many(root, **arguments):
    return MultiCategory("MVTec", root, **{**LOADING, **arguments})


def one(root, category):
    return MVTecAD(root, category, **LOADING)


class Trained:
    """A training on all categories, and the test of its weights as they are loaded.

    Right after the training the same numbers lie otherwise in memory, which changes the rounding.
    """

    def __init__(self, root, folder):
        torch.manual_seed(0)
        training = engine(folder)
        training.fit(padim(), datamodule=many(root))
        self.run, self.model = engine(folder), padim()
        self.run.validate(self.model, datamodule=many(root), ckpt_path=training.best_model_path)
        self.checkpoint = folder / "validated.ckpt"
        self.run.trainer.save_checkpoint(self.checkpoint)
        [self.metrics] = self.run.test(self.model, datamodule=many(root))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """Return a model trained on all categories."""
    return Trained(root, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def alone(trained, root, tmp_path_factory):
    """Return the metrics and thresholds of the same weights for each category, found by anomalib alone."""
    found = {}
    for category in CATEGORIES:
        run, model = engine(tmp_path_factory.mktemp(category)), padim()
        run.validate(model, datamodule=one(root, category), ckpt_path=trained.checkpoint)
        thresholds = {name: value.clone() for name, value in model.post_processor.state_dict().items()}
        [metrics] = run.test(model, datamodule=one(root, category))
        found[category] = (metrics, thresholds)
    return found


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def check_metrics(metrics, alone):
    """Compare with each category's alone, to the last bit."""
    for name in METRICS:
        values = [alone[category][0][name] for category in JUDGED]
        assert [metrics[f"{name}_{category}"] for category in JUDGED] == values, name
        assert f"{name}_{FLAWLESS}" not in metrics
        assert metrics[name] == pytest.approx(sum(values) / 2, abs=1e-7)
        assert metrics[f"{name}_num_categories"] == 2
    assert len(metrics) == 4 * len(METRICS)


def test_metrics_are_those_of_each_category_alone(trained, alone):
    # They are worth comparing: the categories differ, and pooling gives something else.
    assert len({alone[category][0]["pixel_AUROC"] for category in JUDGED}) == 2
    check_metrics(trained.metrics, alone)


def test_thresholds_are_those_of_each_category_alone(trained, alone):
    found = statistics_of(trained.model)
    assert set(found) == set(CATEGORIES)
    for category in CATEGORIES:
        assert equal(found[category], alone[category][1]), category


def test_pooled_thresholds_are_those_of_all_images(trained, root, tmp_path):
    class Pooling(MultiCategory):
        """Leaves evaluation and post-processing to anomalib."""

        def setup(self, stage=None):
            super().setup(stage)
            detach(self.trainer)

    model = padim()
    engine(tmp_path).validate(model, datamodule=Pooling("MVTec", root, **LOADING), ckpt_path=trained.checkpoint)
    assert equal(model.post_processor.state_dict(), trained.model.post_processor.state_dict())
    assert not any(equal(model.post_processor.state_dict(), of) for of in statistics_of(trained.model).values())


@pytest.fixture(scope="module")
def processes(trained, root, tmp_path_factory):
    """Return the folder of an evaluation and a training on two processes."""
    folder = tmp_path_factory.mktemp("processes")
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    for what in ("evaluate", "train"):
        # The second process is started by Lightning.
        script = Path(__file__).with_name("by_category.py")
        environment = {"PYTHONPATH": path}
        done = typed(script, what, root, trained.checkpoint, folder, folder=folder, environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_two_processes_draw_the_categories_equally_often(processes):
    drawn = json.loads((processes / "drawn.json").read_text())
    assert len(drawn) == 2
    epochs = [first + second for first, second in zip(*drawn, strict=True)]
    assert len(epochs) == 2
    for epoch, (first, second) in zip(epochs, zip(*drawn, strict=True), strict=True):
        # 48 images, three categories, two processes; each image once, since the categories are equally large.
        assert len(first) == len(second) == 24
        assert Counter(category for category, _ in epoch) == dict.fromkeys(CATEGORIES, 16)
        assert len({path for _, path in epoch}) == 48
    assert epochs[0] != epochs[1]


def test_two_processes_give_what_one_gives(trained, processes, root, tmp_path):
    run, model = engine(tmp_path), padim()
    # A batch each: rounding in the network depends on what else is in a batch.
    data = many(root, eval_batch_size=1)
    run.validate(model, datamodule=data, ckpt_path=trained.checkpoint)
    [expected] = run.test(model, datamodule=data)
    assert json.loads((processes / "metrics.json").read_text()) == expected
    thresholds = torch.load(processes / "thresholds.pt", weights_only=True)
    assert set(thresholds["statistics"]) == set(CATEGORIES)
    for category, found in statistics_of(model).items():
        assert equal(thresholds["statistics"][category], found), category
    assert equal(thresholds["pooled"], model.post_processor.state_dict())


def test_checkpoint_keeps_the_thresholds_for_another_session(trained, root, tmp_path):
    model = padim()
    [metrics] = engine(tmp_path).test(model, datamodule=many(root), ckpt_path=trained.checkpoint)
    assert metrics == trained.metrics
    assert all(equal(statistics_of(model)[name], of) for name, of in statistics_of(trained.model).items())


def test_some_of_the_categories_are_tested(trained, root, tmp_path):
    [metrics] = engine(tmp_path).test(
        padim(),
        datamodule=many(root, categories=["gravel"]),
        ckpt_path=trained.checkpoint,
    )
    assert metrics["image_F1Score"] == metrics["image_F1Score_gravel"] == trained.metrics["image_F1Score_gravel"]


def test_plain_session_has_the_pooled_thresholds(trained, root, tmp_path):
    model = padim()
    [metrics] = engine(tmp_path).test(model, datamodule=one(root, "brick"), ckpt_path=trained.checkpoint)
    assert set(metrics) == set(METRICS)
    assert type(model.post_processor) is PostProcessor
    assert equal(model.post_processor.state_dict(), trained.model.post_processor.state_dict())


def test_training_goes_on_from_a_checkpoint(trained, root, tmp_path):
    run, model = engine(tmp_path, max_epochs=2), padim()
    run.fit(model, datamodule=many(root), ckpt_path=trained.checkpoint)
    assert set(statistics_of(model)) == set(CATEGORIES)


def test_trainer_gets_the_models_own_back(trained, root, tmp_path):
    kinds = [type(callback) for callback in trained.run.trainer.callbacks]
    assert kinds.count(PostProcessor) == kinds.count(Evaluator) == 1
    # The same engine and model, after an error in the middle and with a data module of anomalib's.
    run = engine(tmp_path)
    model = copy.deepcopy(trained.model)
    data = many(root)
    data.external_collate_fn = lambda items: items
    with pytest.raises(AttributeError):
        run.test(model, datamodule=data)
    [metrics] = run.test(model, datamodule=one(root, "brick"))
    assert set(metrics) == set(METRICS)


def exported_threshold(model, folder):
    path = engine(folder).export(model, "torch", export_root=folder)
    # Nothing of this package is needed to load it.
    assert b"anomalib_transfusion" not in path.read_bytes()
    os.environ["TRUST_REMOTE_CODE"] = "1"
    return TorchInferencer(path, device="cpu").model.post_processor.state_dict()


def test_exported_model_has_the_pooled_thresholds_or_those_of_a_category(trained, alone, tmp_path):
    model = trained.model.__class__.load_from_checkpoint(trained.checkpoint, evaluator=padim().evaluator)
    assert equal(exported_threshold(model, tmp_path / "pooled"), trained.model.post_processor.state_dict())
    fixed = tmp_path / "gravel.ckpt"
    fix_category_in_checkpoint(trained.checkpoint, "gravel", fixed)
    model = trained.model.__class__.load_from_checkpoint(fixed, evaluator=padim().evaluator)
    assert equal(exported_threshold(model, tmp_path / "gravel"), alone["gravel"][1])
    pooled = copy.deepcopy(trained.model.post_processor.state_dict())
    fix_category(trained.model, "brick")
    assert equal(exported_threshold(trained.model, tmp_path / "brick"), alone["brick"][1])
    trained.model.post_processor.load_state_dict(pooled)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>404</html>",
        [torch.zeros(2)],
        {"weight": torch.zeros(2)},
        {"pytorch-lightning_version": "2.6", "state_dict": {}, "MultiCategory": 5},
    ],
    ids=str,
)
def test_damaged_checkpoint_is_named_when_a_category_is_fixed(content, tmp_path):
    damaged = tmp_path / "damaged.ckpt"
    if isinstance(content, bytes):
        damaged.write_bytes(content)
    else:
        torch.save(content, damaged)
    with pytest.raises(ValueError, match=r"damaged\.ckpt cannot be read.*Use another checkpoint"):
        fix_category_in_checkpoint(damaged, "gravel", tmp_path / "fixed.ckpt")
    assert not (tmp_path / "fixed.ckpt").exists()


def test_batch_of_several_categories_is_post_processed_as_batches_of_one(trained):
    generator = torch.Generator().manual_seed(1)
    batch = CategoryBatch(
        image=torch.rand(5, 3, 8, 8, generator=generator),
        anomaly_map=torch.rand(5, 8, 8, generator=generator) * 8,
        pred_score=torch.rand(5, generator=generator) * 8,
        category=["gravel", "brick", "unseen", "gravel", "brick"],
    )
    processing = CategoryPostProcessing(
        trained.model.post_processor,
        [*CATEGORIES, "unseen"],
        statistics_of(trained.model),
    )
    processing.on_test_start(trained.run.trainer, trained.model)
    expected = []
    for position, category in enumerate(batch.category):
        part = select(batch, [position])
        own = PostProcessor()
        own.load_state_dict(
            statistics_of(trained.model).get(category, trained.model.post_processor.state_dict()),
        )
        own.post_process_batch(part)
        expected.append(part)
    processing.on_test_batch_end(trained.run.trainer, trained.model, batch, batch, 0)
    for name in ("pred_score", "anomaly_map", "pred_label", "pred_mask"):
        assert torch.equal(getattr(batch, name), torch.cat([getattr(part, name) for part in expected])), name
    assert batch.category == ["gravel", "brick", "unseen", "gravel", "brick"]


def test_batch_without_categories_has_the_pooled_thresholds(trained):
    processing = CategoryPostProcessing(trained.model.post_processor, CATEGORIES, statistics_of(trained.model))
    processing.on_test_start(trained.run.trainer, trained.model)
    values = {"image": torch.rand(2, 3, 8, 8), "pred_score": torch.tensor([2.0, 7.0])}
    batch, expected = CategoryBatch(**values), CategoryBatch(**values)
    processing.on_test_batch_end(trained.run.trainer, trained.model, batch, batch, 0)
    trained.model.post_processor.post_process_batch(expected)
    assert torch.equal(batch.pred_score, expected.pred_score)


def test_mean_says_over_how_many_it_is(trained, root, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "anomalib_transfusion"):
        engine(tmp_path).test(padim(), datamodule=many(root), ckpt_path=trained.checkpoint)
    assert "pixel_AUPRO is the mean over 2 of 3 categories: grass has no value" in caplog.text
