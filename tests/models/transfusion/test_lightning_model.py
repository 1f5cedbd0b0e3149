# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The model in anomalib's engine: training, its random numbers, its schedule, its checkpoints."""

import math

import lightning
import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger

from anomalib_transfusion import TransFusion
from anomalib_transfusion.training.validation import validation_interval


class Recorder(Callback):
    """Notes what each training step saw, and stops at the end of an epoch on request."""

    def __init__(self, stop_after_epoch=None):
        self.stop_after_epoch = stop_after_epoch
        self.losses, self.rates, self.files, self.validated = [], [], [], []

    def on_train_batch_start(self, trainer, _pl_module, batch, _batch_idx):
        """Note the learning rate of the step and the order of the images."""
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.files.append(tuple(batch.image_path))

    def on_train_batch_end(self, trainer, _pl_module, outputs, _batch, _batch_idx):
        """Note the loss."""
        self.losses.append(outputs["loss"].item())
        if trainer.is_last_batch and trainer.current_epoch + 1 == self.stop_after_epoch:
            trainer.should_stop = True

    def on_validation_start(self, trainer, _pl_module):
        """Note the epoch."""
        self.validated.append(trainer.current_epoch)


def fit(model, data, folder, recorder=None, **arguments):
    """Train a model and return what was recorded, and the engine."""
    recorder = recorder or Recorder()
    ckpt_path = arguments.pop("ckpt_path", None)
    arguments = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, **arguments}
    engine = Engine(default_root_dir=folder, callbacks=[recorder], **arguments)
    engine.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return recorder, engine


def test_fit_test_and_predict(tiny, surface, tmp_path):
    seed_everything(0)
    model = tiny()
    _, engine = fit(model, surface, tmp_path, max_epochs=1)
    [metrics] = engine.test(model, datamodule=surface)
    assert set(metrics) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"}
    assert all(0 <= value <= 1 for value in metrics.values())
    batches = engine.predict(model, datamodule=surface)
    assert sum(len(batch.pred_score) for batch in batches) == 7
    assert all(batch.anomaly_map.shape[-2:] == (32, 32) for batch in batches)
    assert min(batch.pred_score.min() for batch in batches) >= 0
    # Thresholds and normalization exist after training: the validation has run.
    assert torch.isfinite(model.post_processor.image_threshold)


@pytest.mark.parametrize("interval", [None, 1, 2])
def test_resuming_continues_bit_for_bit(tiny, surface, tmp_path, interval):
    """Four epochs straight against two and two, in losses, learning rates, order of the images and weights."""
    arguments = {} if interval is None else {"check_val_every_n_epoch": interval}
    seed_everything(3)
    straight_model = tiny()
    straight, _ = fit(straight_model, surface, tmp_path / "straight", max_epochs=4, **arguments)

    seed_everything(3)
    first, engine = fit(tiny(), surface, tmp_path / "first", Recorder(stop_after_epoch=2), max_epochs=4, **arguments)
    seed_everything(99)
    second_model = tiny()
    checkpoint = engine.trainer.checkpoint_callback.best_model_path
    second, _ = fit(second_model, surface, tmp_path / "second", max_epochs=4, ckpt_path=checkpoint, **arguments)

    assert len(first.losses) == len(second.losses) == 8
    assert first.files + second.files == straight.files
    assert first.losses + second.losses == straight.losses
    assert first.rates + second.rates == straight.rates
    assert len(set(straight.rates)) == 2
    assert all(
        torch.equal(mine, other)
        for mine, other in zip(straight_model.model.parameters(), second_model.model.parameters(), strict=True)
    )


def test_same_seed_same_training(tiny, surface, tmp_path):
    runs = []
    for number, seed in enumerate((1, 1, 2)):
        seed_everything(seed)
        runs.append(fit(tiny(), surface, tmp_path / str(number), max_epochs=1)[0].losses)
    assert runs[0] == runs[1] != runs[2]


def test_validation_leaves_the_training_as_it_is(tiny, surface, tmp_path):
    seed_everything(1)
    often, _ = fit(tiny(), surface, tmp_path / "often", max_epochs=3, check_val_every_n_epoch=1)
    seed_everything(1)
    never, _ = fit(tiny(), surface, tmp_path / "never", max_epochs=3, limit_val_batches=0)
    assert often.validated == [0, 1, 2]
    assert never.validated == []
    assert often.losses == never.losses
    assert often.files == never.files


def test_precision_of_the_trainer_is_kept_and_draws_the_same_anomalies(tiny, surface, tmp_path):
    runs = {}
    for precision in ("32-true", "bf16-mixed"):
        seed_everything(1)
        recorder, engine = fit(tiny(), surface, tmp_path / precision, max_epochs=1, precision=precision)
        assert engine.trainer.precision == precision
        runs[precision] = recorder
    assert runs["bf16-mixed"].files == runs["32-true"].files
    # The same samples, so almost the same loss; other anomalies would change it by far more.
    assert runs["bf16-mixed"].losses == pytest.approx(runs["32-true"].losses, rel=0.03)
    assert runs["bf16-mixed"].losses != runs["32-true"].losses


def test_learning_rate_falls_after_800_of_1500_epochs(tiny, surface, tmp_path):
    recorder, _ = fit(tiny(), surface, tmp_path, max_epochs=15, limit_train_batches=1, limit_val_batches=0)
    assert recorder.rates == pytest.approx([1e-3] * 8 + [1e-4] * 7)
    recorder, _ = fit(
        tiny(full_rate_share=0.5, rate_decay=0.2),
        surface,
        tmp_path / "own",
        max_epochs=4,
        limit_train_batches=1,
        limit_val_batches=0,
    )
    assert recorder.rates == pytest.approx([1e-3] * 2 + [2e-4] * 2)


def test_learning_rate_falls_in_steps_where_steps_limit_the_training(tiny, surface, tmp_path):
    recorder, _ = fit(tiny(), surface, tmp_path, max_steps=6, max_epochs=-1)
    assert recorder.rates == pytest.approx([1e-3] * 3 + [1e-4] * 3)
    assert recorder.validated == [1]


def test_learning_rate_falls_by_the_clock_where_time_limits_the_training(tiny, surface, tmp_path):
    class Clock(Recorder):
        """Notes the seconds that have passed at each step as well."""

        def __init__(self):
            super().__init__()
            self.seconds = []

        def on_train_batch_start(self, trainer, *arguments):
            """Note seconds and rate."""
            [timer] = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
            self.seconds.append(timer.time_elapsed())
            super().on_train_batch_start(trainer, *arguments)

    limits = {"max_time": {"seconds": 2}, "max_epochs": -1, "limit_val_batches": 0}
    clock, _ = fit(tiny(full_rate_share=0.5), surface, tmp_path, Clock(), **limits)
    full = clock.rates.count(pytest.approx(1e-3))
    assert 0 < full < len(clock.rates)
    assert clock.rates == pytest.approx([1e-3] * full + [1e-4] * (len(clock.rates) - full))
    # The rate of a step is chosen at the end of the step before.
    assert clock.seconds[full - 2] < 1 <= clock.seconds[full]


def test_optimizer_of_the_paper(tiny, surface, tmp_path):
    model = tiny(learning_rate=1e-5)
    _, engine = fit(model, surface, tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    [optimizer] = engine.trainer.optimizers
    assert type(optimizer) is torch.optim.AdamW
    group = optimizer.param_groups[0]
    assert (group["initial_lr"], group["weight_decay"], group["betas"]) == (1e-5, 0.01, (0.9, 0.999))
    assert TransFusion().learning_rate == 1e-5


def test_rare_validation_and_always_after_the_last_epoch(tiny, surface, tmp_path):
    """7 images of 3 passes against 16 of 3: a validation costs 7 / 16 of an epoch, and 12 epochs have time for two."""
    recorder, engine = fit(tiny(), surface, tmp_path, max_epochs=12)
    assert recorder.validated == [5, 11]
    assert engine.trainer.checkpoint_callback.best_model_path
    assert engine.trainer.check_val_every_n_epoch == 1


@pytest.mark.parametrize(
    ("arguments", "validated"),
    [
        ({"check_val_every_n_epoch": 1}, [0, 1, 2, 3]),
        ({"check_val_every_n_epoch": 2}, [1, 3]),
        ({"check_val_every_n_epoch": 3}, [2]),
        ({"val_check_interval": 0.5}, [0, 0, 1, 1, 2, 2, 3, 3]),
        ({}, [3]),
    ],
)
def test_validation_interval_of_the_user_is_kept(tiny, surface, tmp_path, arguments, validated):
    recorder, engine = fit(tiny(), surface, tmp_path, max_epochs=4, **arguments)
    assert recorder.validated == validated
    assert engine.trainer.current_epoch == 4


def test_validates_when_a_callback_stops_the_training(tiny, surface, tmp_path):
    recorder, _ = fit(tiny(), surface, tmp_path, Recorder(stop_after_epoch=2), max_epochs=10)
    assert recorder.validated == [1]


def test_early_stopping_does_not_miss_its_metric(tiny, surface, tmp_path):
    """Its patience is in epochs, so that each is validated."""
    model = tiny()
    stopping = lightning.pytorch.callbacks.EarlyStopping(monitor="image_AUROC", mode="max", patience=1)
    recorder = Recorder()
    engine = Engine(
        default_root_dir=tmp_path,
        callbacks=[recorder, stopping],
        max_epochs=10,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
    )
    engine.fit(model, datamodule=surface)
    assert recorder.validated == list(range(engine.trainer.current_epoch))


@pytest.mark.parametrize("epochs", [1, 7, 100, 1500])
@pytest.mark.parametrize("cost", [0.01, 0.4375, 2.6, 30.0])
def test_validation_costs_a_tenth_at_most(cost, epochs):
    """As far as one validation at the end leaves room for it."""
    interval = validation_interval(cost, epochs)
    validations = sum((epochs - epoch) % interval == 0 for epoch in range(1, epochs + 1))
    assert validations == 1 or validations * cost <= 0.1 * epochs

    assert validation_interval(cost, math.inf) == max(1, math.ceil(10 * cost))


def test_every_loss_term_is_logged_under_its_own_name(tiny, surface, tmp_path):
    logger = CSVLogger(tmp_path)
    settings = {"max_epochs": 1, "logger": logger, "log_every_n_steps": 1, "limit_val_batches": 0}
    _, engine = fit(tiny(), surface, tmp_path, **settings)
    header = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    terms = {"normal", "mask", "anomaly", "consistency"}
    names = {f"train_loss_{name}" for name in (*terms, "step", "epoch")}
    assert {name for name in header if name.startswith("train_loss_")} == names
    # The short names are those of the progress bar, which has no room for others.
    assert not terms & set(header)
    shown = engine.trainer.progress_bar_metrics
    logged = engine.trainer.logged_metrics
    assert {name: shown[name] for name in terms} == {name: float(logged[f"train_loss_{name}"]) for name in terms}
    assert not {f"train_loss_{name}" for name in terms} & shown.keys()


def test_checkpoint_needs_nothing_but_the_file(tiny, surface, tmp_path, monkeypatch):
    """It loads with weights_only, where neither textures nor foreground masks nor the run's folder exist."""
    model = tiny(texture_source="photographs", filter_size=5, discriminative_weight=0.9)
    _, engine = fit(model, surface, tmp_path, max_epochs=1)
    path = engine.trainer.checkpoint_callback.best_model_path
    saved = torch.load(path, weights_only=True, map_location="cpu")
    assert saved["hyper_parameters"]["filter_size"] == 5
    monkeypatch.chdir(tmp_path)
    loaded = TransFusion.load_from_checkpoint(path)
    batch = torch.rand(2, 3, 64, 64)
    model.eval(), loaded.eval()
    assert loaded.model.filter_size == 5
    assert torch.equal(loaded(batch).anomaly_map, model(batch).anomaly_map)
    assert torch.equal(loaded(batch).pred_score, model(batch).pred_score)


def test_checkpoint_of_a_model_with_textures_loads_without_them(tiny, surface, tmp_path):
    model = tiny(texture_source="folder", dtd_dir=tmp_path / "gone")
    model.sampler = tiny().sampler
    _, engine = fit(model, surface, tmp_path, max_epochs=1, limit_val_batches=0)
    loaded = TransFusion.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path)
    assert loaded.sampler.dtd_dir == tmp_path / "gone"
    loaded.eval()(torch.rand(1, 3, 64, 64))


def test_a_loaded_model_trains_with_a_seed_of_its_own(tiny, surface, tmp_path):
    """Only a resumed training takes over the seed of the checkpoint."""
    seed_everything(1)
    first, engine = fit(tiny(), surface, tmp_path, max_epochs=1, limit_val_batches=0)
    path = engine.trainer.checkpoint_callback.best_model_path
    orders = []
    for number, seed in enumerate((5, 5, 6)):
        model = TransFusion.load_from_checkpoint(path)
        seed_everything(seed)
        orders.append(fit(model, surface, tmp_path / str(number), max_epochs=1, limit_val_batches=0)[0].files)
    assert orders[0] == orders[1] != orders[2]
    assert first.files not in orders


def test_default_input_is_256_without_a_crop():
    assert TransFusion.configure_pre_processor()(torch.rand(1, 3, 300, 400)).shape == (1, 3, 256, 256)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1.0),
        ("weight_decay", float("nan")),
        ("full_rate_share", 1.5),
        ("rate_decay", -0.1),
        ("rotation_probability", 2.0),
        ("structure_share", -0.5),
        ("min_perlin_scale", 6),
        ("texture_source", "noise"),
        ("texture_resize", "nearest"),
        ("normal_weight", -1.0),
        ("timesteps", 1),
    ],
)
def test_impossible_parameters(tiny, name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        tiny(**{name: value})
