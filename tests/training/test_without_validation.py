# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Data without validation images: a training without validation, or a sentence."""

import pytest
from anomalib.data import Folder
from anomalib.engine import Engine

from anomalib_transfusion import DemoSurface, MultiCategory, MVTec
from conftest import SURFACE

LOADING = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0}


def engine(folder, **arguments):
    settings = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False, "max_epochs": 2}
    return Engine(default_root_dir=folder, **{**settings, **arguments})


def module(root, name, **arguments):
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/crack", "mask_dir": "ground_truth/crack"}
    return {
        "Folder": lambda: Folder(name="parts", root=root / "brick", **folders, **LOADING, **arguments),
        "MVTec": lambda: MVTec(root, "brick", **LOADING, **arguments),
        "DemoSurface": lambda: DemoSurface(root=root, **SURFACE, **arguments),
        "MultiCategory": lambda: MultiCategory("MVTec", root, ["brick"], **LOADING, **arguments),
    }[name]()


@pytest.mark.parametrize("name", ["Folder", "MVTec", "DemoSurface", "MultiCategory"])
def test_a_training_without_validation(tiny, surface_root, tmp_path, name):
    """To the end, with a checkpoint, which a test takes, and with a word about the threshold."""
    run, model = engine(tmp_path), tiny()
    data = module(surface_root, name, val_split_mode="none")
    with pytest.warns(UserWarning, match="no validation with val_split_mode=none.*no threshold.*Choose same_as_test"):
        [metrics] = run.train(model, datamodule=data)
    assert 0 <= metrics["image_AUROC"] <= 1
    [checkpoint] = tmp_path.rglob("model.ckpt")
    assert model.validated_on is None
    assert run.trainer.current_epoch == 2
    # The trainer validates again where there is something to validate on.
    assert run.trainer.limit_val_batches == 1.0
    [again] = engine(tmp_path).test(tiny(), datamodule=data, ckpt_path=checkpoint)
    assert again["image_AUROC"] == metrics["image_AUROC"]


def test_a_validation_without_images(tiny, surface_root, tmp_path):
    """A test and a prediction do without."""
    data = module(surface_root, "MVTec", val_split_mode="none")
    with pytest.raises(ValueError, match=r"MVTec has no validation images with val_split_mode=none, .* Choose same_as"):
        engine(tmp_path).validate(tiny(), datamodule=data)
    assert engine(tmp_path).test(tiny(), datamodule=data)
    batches = engine(tmp_path).predict(tiny(), datamodule=data)
    for score, label in ((item.pred_score, item.pred_label) for batch in batches for item in batch):
        assert bool(label) == (float(score) > 0.5)


def test_a_split_that_there_is_not(tiny, surface_root, tmp_path):
    """Folder has no folder for validation images."""
    data = module(surface_root, "Folder", val_split_mode="from_dir")
    with pytest.raises(ValueError, match=r"Folder has no validation images with .*=from_dir.*Choose same_as"):
        engine(tmp_path).train(tiny(), datamodule=data)


def test_a_limit_of_the_users_is_given_back(tiny, surface_root, tmp_path):
    run = engine(tmp_path, limit_val_batches=3)
    run.fit(tiny(), datamodule=module(surface_root, "MVTec", val_split_mode="none"))
    assert run.trainer.limit_val_batches == 3


def test_a_test_split_of_none(tiny, surface_root, tmp_path):
    """The good images are left out; metrics that compare with them have no value."""
    data = module(surface_root, "MVTec", val_split_mode="none", test_split_mode="none")
    [metrics] = engine(tmp_path, max_epochs=1).train(tiny(), datamodule=data)
    assert metrics["image_AUROC"] != metrics["image_AUROC"]
    assert 0 <= metrics["pixel_AUROC"] <= 1
