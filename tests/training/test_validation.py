# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Rare validation beside callbacks that count epochs: what they were asked for happens at that number of epochs."""

import logging

import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.cli import AnomalibCLI
from anomalib.engine import Engine
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.callbacks import ModelCheckpoint as LightningCheckpoint
from lightning.pytorch.loggers import CSVLogger

from anomalib_transfusion import TransFusion
from anomalib_transfusion.training.validation import _typed_on_command_line
from conftest import TINY

EVERY = list(range(12))
# 7 images of 3 passes against 16 of 3: a validation costs 7 / 16 of an epoch, and 12 epochs have time for two.
RARE = [5, 11]
# Lightning has counted the last epoch when a training ends.
AFTER_FOUR = 4


class Epochs(Callback):
    """Notes the epochs after which was validated, and those at which each file was written."""

    def __init__(self):
        self.validated, self.written, self.losses = [], [], []

    def on_train_batch_end(self, _trainer, _pl_module, outputs, _batch, _batch_idx):
        """Note the loss."""
        self.losses.append(outputs["loss"].item())

    def on_validation_start(self, trainer, _pl_module):
        """Note the epoch."""
        self.validated.append(trainer.current_epoch)

    def on_save_checkpoint(self, trainer, _pl_module, _checkpoint):
        """Note the epoch."""
        self.written.append(trainer.current_epoch)


class Watching(EarlyStopping):
    """Notes the epochs at which it looks; nothing improves."""

    def __init__(self, monitor, **arguments):
        super().__init__(monitor, mode="min", min_delta=100.0, **arguments)
        self.looked = []

    def _run_early_stopping_check(self, trainer):
        self.looked.append(trainer.current_epoch)
        super()._run_early_stopping_check(trainer)


@pytest.fixture
def fit(tiny, surface, tmp_path):
    """Return a function that trains for twelve epochs of a batch, and returns the noted epochs and the engine."""

    def run(*callbacks, model=None, folder="run", ckpt_path=None, **arguments):
        epochs = Epochs()
        engine = Engine(
            default_root_dir=tmp_path / folder,
            callbacks=[epochs, *callbacks],
            **{
                "max_epochs": 12,
                "accelerator": "cpu",
                "devices": 1,
                "logger": False,
                "enable_progress_bar": False,
                "limit_train_batches": 1,
                "limit_val_batches": 1,
                **arguments,
            },
        )
        engine.fit(model or tiny(), datamodule=surface, ckpt_path=ckpt_path)
        return epochs, engine

    return run


def test_checkpoint_of_the_engine_is_written_after_the_rare_validations(fit):
    epochs, engine = fit()
    assert epochs.validated == epochs.written == RARE
    assert torch.load(engine.best_model_path, weights_only=True)["epoch"] == 11
    assert engine.trainer.checkpoint_callback._save_on_train_epoch_end is None


@pytest.mark.parametrize(
    ("checkpoint", "arguments", "written", "validated"),
    [
        # What is kept of certain epochs, or of the best, has a threshold of its own.
        (ModelCheckpoint, {"every_n_epochs": 2, "save_top_k": -1}, EVERY[1::2], EVERY[1::2]),
        (ModelCheckpoint, {"every_n_epochs": 4, "save_top_k": -1}, [3, 7, 11], [3, 5, 7, 11]),
        (LightningCheckpoint, {"every_n_epochs": 4, "save_top_k": -1}, [3, 7, 11], [3, 5, 7, 11]),
        (ModelCheckpoint, {"every_n_epochs": 4}, [3, 7, 11], [3, 5, 7, 11]),
        (
            ModelCheckpoint,
            {"every_n_epochs": 3, "save_top_k": -1, "save_on_train_epoch_end": False},
            EVERY[2::3],
            EVERY[2::3],
        ),
        (ModelCheckpoint, {"monitor": "train_loss", "save_top_k": 12}, EVERY, EVERY),
        (ModelCheckpoint, {"monitor": "epoch", "mode": "max", "save_top_k": 3, "every_n_epochs": 3}, EVERY[2::3], None),
        (ModelCheckpoint, {"monitor": "image_AUROC", "save_top_k": -1, "every_n_epochs": 6}, RARE, RARE),
        # What is replaced after each epoch is written after each, with the threshold that there is.
        (ModelCheckpoint, {}, EVERY, RARE),
        (ModelCheckpoint, {"every_n_train_steps": 3, "save_top_k": -1}, [2, 5, 8, 11], RARE),
        (ModelCheckpoint, {"every_n_train_steps": 6, "save_top_k": -1, "monitor": "train_loss"}, RARE, RARE),
        (ModelCheckpoint, {"save_top_k": 0}, [], RARE),
    ],
)
def test_checkpoints_of_the_user(fit, tmp_path, checkpoint, arguments, written, validated):
    own = checkpoint(dirpath=tmp_path / "own", filename="{epoch}", **arguments)
    # Lightning's stands beside that of anomalib's engine.
    both = checkpoint is LightningCheckpoint
    epochs, engine = fit(own)
    assert sorted(set(epochs.written)) == (sorted({*written, *validated}) if both else written)
    kept = arguments.get("save_top_k", 1)
    files = {f"epoch={epoch}.ckpt" for epoch in (written if kept == -1 else written[len(written) - kept :])}
    assert {path.name for path in tmp_path.glob("own/*")} == files
    assert epochs.validated == (validated or sorted({*written, *RARE}))
    assert engine.trainer.check_val_every_n_epoch == 1


def test_every_checkpoint_that_is_kept_has_the_threshold_of_its_weights(fit, tmp_path):
    fit(ModelCheckpoint(dirpath=tmp_path / "own", filename="{epoch}", every_n_epochs=4, save_top_k=-1))
    thresholds = []
    for epoch in (3, 7, 11):
        weights = torch.load(tmp_path / f"own/epoch={epoch}.ckpt", weights_only=True)["state_dict"]
        thresholds.append(weights["post_processor._image_threshold"].item())
    assert len(set(thresholds)) == 3
    assert all(0 < threshold < 1 for threshold in thresholds)


@pytest.mark.parametrize(
    ("stopping", "validated"),
    [
        # Patience is in epochs, as where each epoch is validated.
        (lambda: Watching("train_loss_epoch", patience=3), [AFTER_FOUR]),
        (lambda: Watching("train_loss", patience=3), [AFTER_FOUR]),
        (lambda: Watching("train_loss_mask", patience=3), [AFTER_FOUR]),
        (lambda: Watching("train_loss", patience=3, check_on_train_epoch_end=False), [0, 1, 2, 3]),
        (lambda: Watching("image_AUROC", patience=3), [0, 1, 2, 3]),
    ],
)
def test_patience_counts_epochs(fit, stopping, validated):
    """A training that stops after an epoch without validation is validated, and saved with the threshold."""
    stopping = stopping()
    epochs, engine = fit(stopping)
    assert stopping.looked == [0, 1, 2, 3]
    assert stopping.stopped_epoch == 3
    assert epochs.validated == validated
    saved = torch.load(engine.best_model_path, weights_only=True)
    assert saved["global_step"] == 4
    assert saved["state_dict"]["post_processor._image_threshold"].isfinite()


def test_checkpoint_before_a_validation_at_the_end_is_written_again(fit, tmp_path):
    own = ModelCheckpoint(dirpath=tmp_path / "own", filename="newest", save_last=True)
    epochs, engine = fit(Watching("train_loss", patience=3), own)
    assert epochs.validated == [AFTER_FOUR]
    assert {path.name for path in tmp_path.glob("own/*")} == {"newest.ckpt", "last.ckpt"}
    for path in tmp_path.glob("own/*"):
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert weights["post_processor._image_threshold"] == engine.model.post_processor._image_threshold


def test_training_that_was_validated_at_its_end_is_resumed_bit_for_bit(fit):
    """Four epochs that a callback ends, and two more, against six."""
    seed_everything(3)
    straight, _ = fit(max_epochs=6, folder="straight")
    seed_everything(3)
    first, engine = fit(Watching("train_loss", patience=3), max_epochs=6, folder="first")
    second, _ = fit(max_epochs=6, folder="second", ckpt_path=engine.best_model_path)
    assert len(first.losses) == 4
    assert first.losses + second.losses == straight.losses


class OfAnEpoch(TransFusion):
    """Logs at the end of an epoch, which is not known in the first."""

    def on_train_epoch_end(self):
        """Log a number that grows."""
        super().on_train_epoch_end()
        self.log("of_an_epoch", float(self.current_epoch))


class OnAPlateau(TransFusion):
    """Has a scheduler that looks at a metric of the validation."""

    def configure_optimizers(self):
        """Return one that looks after every fourth epoch."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, threshold=2.0)
        return [optimizer], [{"scheduler": scheduler, "monitor": "image_AUROC", "frequency": 4}]


def small(model_class):
    """Return a model of a subclass."""
    return model_class(pre_processor=TransFusion.configure_pre_processor((32, 32)), visualizer=False, **TINY)


def test_metrics_of_the_end_of_an_epoch_are_no_metrics_of_the_validation(fit):
    stopping = Watching("of_an_epoch", patience=20)
    epochs, _ = fit(stopping, model=small(OfAnEpoch))
    assert stopping.looked == EVERY
    assert epochs.validated == [0, *RARE]


def test_learning_rates_are_no_metrics_of_the_validation(fit, tmp_path):
    stopping = Watching("lr-AdamW", patience=20)
    logger = CSVLogger(tmp_path)
    epochs, _ = fit(LearningRateMonitor("step"), stopping, logger=logger, log_every_n_steps=1)
    assert stopping.looked == EVERY
    assert epochs.validated == RARE


def test_scheduler_that_looks_at_the_validation(fit):
    epochs, engine = fit(model=small(OnAPlateau))
    assert epochs.validated == [3, 5, 7, 11]
    # The first value is the best; neither of the two after it is better by enough.
    assert engine.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (None, "validates every 6 epochs and after the last one, because a validation costs as much as 0.4 epochs"),
        (
            ("image_AUROC", EarlyStopping),
            "validates after each epoch, because EarlyStopping(monitor='image_AUROC') needs it",
        ),
        (("train_loss", EarlyStopping), "validates every 6 epochs and after the last one"),
    ],
)
def test_says_how_often_it_validates(fit, caplog, callback, said):
    with caplog.at_level(logging.INFO):
        fit(*([] if callback is None else [callback[1](callback[0], patience=20)]))
    [message] = [record.getMessage() for record in caplog.records if "validates" in record.getMessage()]
    assert said in message
    assert "check_val_every_n_epoch" in message


@pytest.fixture(scope="module")
def command_line():
    """Return anomalib's command line of a training, which is not run."""
    return AnomalibCLI([*TYPED, *DATA], run=False)


TYPED = ["fit", "--model", "TransFusion", "--model.base_channels", "8", "--model.precision", "single"]
DATA = ["--data", "DemoSurface", "--trainer.max_epochs", "1"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], set()),
        (["--trainer.precision=32"], {"precision"}),
        (
            ["--trainer.val_check_interval", "1.0", "--trainer.precision", "32-true"],
            {"precision", "val_check_interval"},
        ),
        (['--trainer={"check_val_every_n_epoch": 1}'], {"check_val_every_n_epoch"}),
        (["--config", "of_trainer.yaml"], {"precision"}),
        (["-cof_trainer.yaml"], {"precision"}),
        (["--config=empty.yaml"], set()),
    ],
)
def test_arguments_of_the_trainer_are_found(command_line, tmp_path, monkeypatch, typed, expected):
    """Also those that are the defaults."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_trainer.yaml").write_text("trainer:\n  precision: 32-true\n", encoding="utf-8")
    (tmp_path / "empty.yaml").write_text("trainer:\n  max_epochs: 2\n", encoding="utf-8")
    assert _typed_on_command_line(command_line, [*TYPED, *typed, *DATA]) == expected
    monkeypatch.setattr("sys.argv", ["anomalib", *TYPED, *typed, *DATA])
    assert _typed_on_command_line(command_line, None) == expected
