# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The callbacks, loggers and trainer settings that people use, each for real."""

import math

import pandas as pd
import pytest
import torch
from anomalib.callbacks import ModelCheckpoint, TilerConfigurationCallback
from anomalib.engine import Engine
from anomalib.loggers import AnomalibTensorBoardLogger
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anomalib_transfusion import TransFusion

LOSSES = {"train_loss_step", "train_loss_epoch"}
LOSSES |= {f"train_loss_{name}" for name in ("normal", "mask", "anomaly", "consistency")}
PATIENCE = 2


def make_engine(folder, *callbacks, **arguments):
    """Return an engine on the CPU with as little around it as possible."""
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=folder, callbacks=list(callbacks), **{**defaults, **arguments})


class Gradients(Callback):
    """Notes the gradient that each step of the optimizer used, as one vector."""

    def __init__(self):
        self.used = []

    def on_train_start(self, trainer, pl_module):
        """Look at the gradients behind each step: within it they are accumulated and clipped."""

        def note(*_):
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.used.append(torch.cat([gradient.flatten() for gradient in gradients]).clone())

        trainer.optimizers[0].register_step_post_hook(note)


class Seen(Callback):
    """Notes what the network is given and gives, and the losses."""

    def __init__(self):
        self.inputs, self.types, self.losses = [], set(), []

    def on_train_start(self, trainer, pl_module):
        """Look at the network."""
        del trainer

        def note(_, inputs, output):
            self.inputs.append(inputs[0].clone())
            self.types.update(head.dtype for head in output)

        pl_module.model.network.register_forward_hook(note)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Note the loss."""
        del trainer, pl_module, batch, batch_idx
        self.losses.append(outputs["loss"].detach())


@pytest.fixture(scope="module")
def monitored(tmp_path_factory, surface_root):
    """Return a training with everything that monitors: its folder, callbacks, engine and data."""
    from anomalib_transfusion import DemoSurface
    from conftest import SURFACE, TINY

    folder = tmp_path_factory.mktemp("monitored")
    seed_everything(5)
    pre_processor = TransFusion.configure_pre_processor((32, 32))
    # A rate so large that the metric goes up and down.
    model = TransFusion(**{**TINY, "learning_rate": 1e-2}, pre_processor=pre_processor, visualizer=False)
    data = DemoSurface(root=surface_root, **SURFACE)
    best = ModelCheckpoint(dirpath=folder / "best", filename="{epoch}", monitor="image_AUROC", mode="max")
    stopping = EarlyStopping(monitor="image_AUROC", mode="max", patience=PATIENCE)
    loggers = [CSVLogger(folder, name="csv", version=""), AnomalibTensorBoardLogger(folder, name="board", version="")]
    engine = make_engine(
        folder,
        best,
        stopping,
        logger=loggers,
        max_epochs=60,
        check_val_every_n_epoch=1,
        log_every_n_steps=1,
    )
    engine.fit(model, datamodule=data)
    return folder, best, stopping, engine, data


@pytest.fixture(scope="module")
def table(monitored):
    """Return what the CSV logger wrote."""
    return pd.read_csv(monitored[0] / "csv/metrics.csv")


def test_stops_when_the_metric_no_longer_rises(monitored, table):
    _, _, stopping, engine, _ = monitored
    scores = table["image_AUROC"].dropna().tolist()
    assert engine.trainer.current_epoch == len(scores) == stopping.stopped_epoch + 1 < 60
    # The first of the highest, and none of those after it is higher.
    assert scores.index(max(scores)) == len(scores) - 1 - PATIENCE


def test_best_checkpoint_has_the_highest_metric(monitored, table, tiny, tmp_path):
    _, best, _, _, data = monitored
    validated = table.dropna(subset="image_AUROC")
    highest = validated.loc[validated["image_AUROC"].idxmax()]
    saved = torch.load(best.best_model_path, weights_only=True)
    assert saved["epoch"] == highest["epoch"] < validated["epoch"].max()
    assert best.best_model_score.item() == pytest.approx(highest["image_AUROC"])
    [metrics] = make_engine(tmp_path).validate(tiny(), datamodule=data, ckpt_path=best.best_model_path)
    assert metrics["image_AUROC"] == pytest.approx(highest["image_AUROC"])


def test_csv_has_every_loss_of_every_step(table):
    assert {*LOSSES, "image_AUROC"} <= set(table.columns)
    terms = table[sorted(LOSSES - {"train_loss_epoch"})].dropna()
    # Four batches an epoch.
    assert len(terms) == 4 * (table["epoch"].max() + 1)
    total = terms.pop("train_loss_step")
    assert terms.sum(axis=1).tolist() == pytest.approx(total.tolist(), rel=1e-5)
    by_epoch = table.groupby("epoch")
    means = by_epoch["train_loss_step"].mean()
    assert by_epoch["train_loss_epoch"].max().tolist() == pytest.approx(means.tolist(), rel=1e-5)


def test_tensorboard_holds_the_same_scalars(monitored, table):
    events = EventAccumulator(str(monitored[0] / "board")).Reload()
    assert {*LOSSES, "image_AUROC"} <= set(events.Tags()["scalars"])
    for name in (*LOSSES, "image_AUROC"):
        values = [event.value for event in events.Scalars(name)]
        assert values == pytest.approx(table[name].dropna().tolist(), rel=1e-5)


@pytest.mark.parametrize("by_trainer", [True, False])
def test_time_ends_the_training_with_a_checkpoint(tiny, surface, tmp_path, by_trainer):
    """As the trainer's max_time, and as a callback of the user's."""
    limit = {"seconds": 1}
    callbacks, arguments = ([], {"max_time": limit}) if by_trainer else ([Timer(limit)], {})
    engine = make_engine(tmp_path, *callbacks, max_epochs=-1, **arguments)
    engine.fit(tiny(), datamodule=surface)
    [timer] = [callback for callback in engine.trainer.callbacks if isinstance(callback, Timer)]
    # Far longer than a step and the validation at the end take, and far shorter than for ever.
    assert 1 <= timer.time_elapsed("train") < 60
    # What ends on request is validated, and saved after it.
    assert "image_AUROC" in engine.trainer.callback_metrics
    path = engine.trainer.checkpoint_callback.best_model_path
    assert torch.load(path, weights_only=True)["global_step"] == engine.trainer.global_step > 0
    assert torch.isfinite(TransFusion.load_from_checkpoint(path).eval()(torch.rand(1, 3, 32, 32)).pred_score)


def test_accumulated_and_clipped_gradients(tiny, surface, tmp_path):
    """Without a learning rate the weights stay, so that the gradients of different settings can be compared."""

    def gradients(name, **arguments):
        seed_everything(1)
        noted = Gradients()
        engine = make_engine(tmp_path / name, noted, max_epochs=1, limit_val_batches=0, **arguments)
        engine.fit(tiny(learning_rate=0.0), datamodule=surface)
        assert engine.trainer.global_step == len(noted.used)
        return noted.used

    alone = gradients("alone")
    assert len(alone) == 4
    norms = [gradient.norm().item() for gradient in alone]

    def close(mine, expected):
        torch.testing.assert_close(torch.stack(mine), torch.stack(expected), rtol=1e-3, atol=1e-4 * max(norms))

    close(gradients("twos", accumulate_grad_batches=2), [sum(alone[:2]) / 2, sum(alone[2:]) / 2])
    # The rest of an epoch makes a step of its own.
    threes = gradients("threes", accumulate_grad_batches=3)
    close(threes, [sum(alone[:3]) / 3, alone[3] / 3])

    limit = sum(sorted(norms)[1:3]) / 2
    clipped = gradients("clipped", gradient_clip_val=limit)
    close(clipped, [gradient * min(1, limit / norm) for gradient, norm in zip(alone, norms, strict=True)])
    assert [gradient.norm().item() <= limit * 1.0001 for gradient in clipped] == [True] * 4
    assert sum(norm > limit for norm in norms) == 2


def half_on_the_cpu():
    """Return what ``precision="16-mixed"`` is on a GPU; on a CPU, Lightning would take bfloat16 instead."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))


def test_precisions(tiny, surface, tmp_path):
    """The network computes in the precision of the trainer, weights and everything around it in 32 bits."""
    settings = {
        "32-true": ({"precision": 32}, torch.float32),
        "bf16-mixed": ({"precision": "bf16-mixed"}, torch.bfloat16),
        "16-mixed": ({"plugins": [half_on_the_cpu()]}, torch.float16),
    }
    samples = {}
    for name, (arguments, expected) in settings.items():
        seed_everything(1)
        seen, model = Seen(), tiny(texture_source="photographs", rotation_probability=1.0)
        before = [parameter.clone() for parameter in model.parameters()]
        engine = make_engine(tmp_path / name, seen, max_epochs=1, **arguments)
        engine.fit(model, datamodule=surface)
        assert engine.trainer.precision == name
        assert seen.types == {expected}
        assert {x_t.dtype for x_t in seen.inputs} == {torch.float32}
        assert len(seen.losses) == 4
        assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in seen.losses)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        assert math.isfinite(engine.trainer.callback_metrics["image_AUROC"])
        samples[name] = torch.cat(seen.inputs[:4])
    # Synthetic anomalies and the forward process are not rounded.
    assert torch.equal(samples["bf16-mixed"], samples["32-true"])
    assert torch.equal(samples["16-mixed"], samples["32-true"])


def test_16_mixed_on_a_cpu(tiny, surface, tmp_path):
    """What a user gets who asks a CPU for it."""
    seen = Seen()
    engine = make_engine(tmp_path, seen, max_epochs=1, precision="16-mixed", limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"Using `precision='bf16-mixed'` instead"):
        engine.fit(tiny(), datamodule=surface)
    assert seen.types == {torch.bfloat16}


def test_tiler(tiny, surface, tmp_path):
    """The network is trained on tiles and sees tiles in each other verb; maps are of whole images."""
    seen, model = Seen(), tiny()
    # 32 pixels in tiles of 16, each 8 pixels beside the last: three in a row.
    tiler = TilerConfigurationCallback(enable=True, tile_size=16, stride=8)
    engine = make_engine(tmp_path, seen, tiler, max_epochs=1)
    engine.fit(model, datamodule=surface)
    assert {tuple(x_t.shape[1:]) for x_t in seen.inputs} == {(3, 16, 16)}
    assert len(seen.inputs[0]) == 9 * 4
    assert all(loss.isfinite() for loss in seen.losses)
    [metrics] = engine.test(model, datamodule=surface)
    assert all(0 <= value <= 1 for value in metrics.values())
    given = len(seen.inputs)
    batches = engine.predict(model, datamodule=surface, ckpt_path=engine.best_model_path)
    assert {tuple(x_t.shape[1:]) for x_t in seen.inputs[given:]} == {(3, 16, 16)}
    assert {tuple(batch.anomaly_map.shape[-2:]) for batch in batches} == {(32, 32)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile_size": 15, "stride": 15}, r"tile_size=\(15, 15\) does not fit the network: .* multiples of 2"),
        ({"tile_size": 16, "stride": 8, "remove_border_count": 2}, r"remove_border_count=2 would leave .* Use 0"),
        ({"tile_size": 64, "stride": 64}, r"Tile size \(64, 64\) exceeds image size \(32, 32\)"),
    ],
)
def test_tiles_that_cannot_be(tiny, surface, tmp_path, arguments, message):
    engine = make_engine(tmp_path, TilerConfigurationCallback(enable=True, **arguments), max_epochs=1)
    with pytest.raises(ValueError, match=message):
        engine.fit(tiny(), datamodule=surface)
