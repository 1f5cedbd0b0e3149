# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What a person sees of a training: pictures of its samples, in files and loggers, and the time that is left."""

import io
import math
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.engine import Engine
from anomalib.loggers import AnomalibTensorBoardLogger
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anomalib_transfusion import DemoSurface, TransFusion
from anomalib_transfusion.training.progress import RemainingTime
from anomalib_transfusion.training.validation import is_milestone
from anomalib_transfusion.visualization import TrainingGrid
from conftest import SURFACE, TINY
from paths import ROOT

# Of a panel; the images are smaller.
SIZE = 128
EPOCHS = 3
# 16 images in batches of 4.
BATCHES = 4


def make_engine(folder, *callbacks, **arguments):
    """Return an engine on the CPU with as little around it as possible."""
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    return Engine(
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{**defaults, "limit_val_batches": 0, **arguments},
    )


def pictures(folder):
    """Return the names of the pictures below a folder."""
    return sorted(path.name for path in folder.rglob("images/training/*"))


class Watcher(Callback):
    """Notes what the loss is given in each step, how often the network runs, and the batches and time left."""

    def __init__(self):
        self.steps, self.passes, self.passed, self.left, self.metrics = [], 0, [], [], []

    def on_train_start(self, trainer, pl_module):
        """Look at the loss and at the network, and come after the model's own callbacks from now on."""
        trainer.callbacks = [*(callback for callback in trainer.callbacks if callback is not self), self]

        def note(_, inputs):
            prediction, target, x_t, beta, _ = inputs
            tensors = (x_t, target.mask, prediction.mask_logits, target.normal, prediction.normal)
            self.steps.append(([tensor.detach().clone() for tensor in tensors], beta.flatten()))

        def count(*_):
            self.passes += 1

        self.hooks = [
            pl_module.loss.register_forward_pre_hook(note),
            pl_module.model.network.register_forward_pre_hook(count),
        ]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Note the time, and what is thought to be left."""
        del pl_module, outputs, batch, batch_idx
        [remaining] = [callback for callback in trainer.callbacks if isinstance(callback, RemainingTime)]
        # When the first batch of this run ended.
        first = remaining._start
        before = time.monotonic()
        self.left.append(remaining.seconds_left(trainer))
        self.passed.append((before - first, time.monotonic() - first))

    def on_train_end(self, trainer, pl_module):
        """Stop watching."""
        del pl_module
        self.metrics.append(dict(trainer.progress_bar_metrics))
        for hook in self.hooks:
            hook.remove()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, surface_root):
    """Return a training with pictures: its folder, what was watched, and its weights."""
    folder = tmp_path_factory.mktemp("trained")
    seed_everything(11)
    pre_processor = TransFusion.configure_pre_processor((32, 32))
    model = TransFusion(**{**TINY, "texture_source": "photographs"}, pre_processor=pre_processor)
    loggers = [
        CSVLogger(folder, name="csv", version=""),
        TensorBoardLogger(folder, name="lightning", version=""),
        AnomalibTensorBoardLogger(folder, name="anomalib", version=""),
    ]
    watcher = Watcher()
    engine = make_engine(folder, watcher, max_epochs=EPOCHS, logger=loggers, log_every_n_steps=1)
    engine.fit(model, datamodule=DemoSurface(root=surface_root, **SURFACE))
    return folder, watcher, [parameter.detach().clone() for parameter in model.parameters()]


def pixels(tensor):
    """Return an image (C, H, W) in [0, 1] as 8-bit RGB in the size of a panel."""
    whole = np.rint(tensor.permute(1, 2, 0).numpy().clip(0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(whole, (*whole.shape[:2], 3))))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def corner(picture, panel):
    """Return the first place (y, x) at which a panel is in a picture, or None."""
    first, last = picture[: -SIZE + 1, : -SIZE + 1], picture[SIZE - 1 :, SIZE - 1 :]
    for y, x in np.argwhere((first == panel[0, 0]).all(axis=-1) & (last == panel[-1, -1]).all(axis=-1)):
        if np.array_equal(picture[y : y + SIZE, x : x + SIZE], panel):
            return int(y), int(x)
    return None


def test_pictures_show_what_the_loss_was_given(trained):
    folder, watcher, _ = trained
    assert pictures(folder) == [f"epoch_{epoch:04d}.png" for epoch in range(1, EPOCHS + 1)]
    for epoch in range(EPOCHS):
        [path] = folder.rglob(f"epoch_{epoch + 1:04d}.png")
        picture = np.asarray(Image.open(path))
        # The last batch but one: the last one may be smaller than the others.
        (x_t, mask, logits, normal, predicted), _ = watcher.steps[epoch * BATCHES + BATCHES - 2]
        columns = ((x_t + 1) / 2, mask, logits.sigmoid(), (normal + 1) / 2, (predicted + 1) / 2)
        by_area = sorted(range(4), key=lambda sample: -mask[sample].sum())
        # The mask of a normal sample is black wherever it is; the others are unmistakable.
        corners = [[corner(picture, pixels(columns[c][s])) for c in (0, 2, 3, 4)] for s in by_area]
        assert all(y is not None for row in corners for y in row)
        xs = [x for _, x in corners[0]]
        # Where nothing is rotated or hidden, input and truth are the same image: so the columns of the predictions.
        assert all([x for _, x in row][1::2] == xs[1::2] for row in corners)
        assert xs[1] < xs[3]
        tops = [row[1][0] for row in corners]
        assert tops == sorted(tops)
        assert len(set(tops)) == 4
        if mask[by_area[0]].any():
            assert corner(picture, pixels(mask[by_area[0]])) == (tops[0], xs[1] - (xs[1] - xs[0]) // 2)


def test_no_pass_is_added(trained):
    assert trained[1].passes == EPOCHS * BATCHES


def test_loggers_have_the_pictures(trained):
    folder = trained[0]
    for name, tag in (("lightning", "training"), ("anomalib", "training")):
        events = EventAccumulator(str(folder / name), size_guidance={"images": 0}).Reload().Images(tag)
        assert [event.step for event in events] == [epoch * BATCHES + BATCHES - 1 for epoch in range(EPOCHS)]
        for epoch, event in enumerate(events):
            [path] = folder.rglob(f"epoch_{epoch + 1:04d}.png")
            logged = Image.open(io.BytesIO(event.encoded_image_string))
            assert np.array_equal(np.asarray(logged), np.asarray(Image.open(path)))
    table = pd.read_csv(folder / "csv/metrics.csv")
    assert "train_loss_step" in table.columns
    assert not [name for name in table.columns if "minutes" in name or "training" in name]


def test_pictures_change_nothing(trained, surface, tmp_path):
    """The same training without pictures has the same weights, bit for bit."""
    seed_everything(11)
    pre_processor = TransFusion.configure_pre_processor((32, 32))
    parameters = {**TINY, "texture_source": "photographs", "pre_processor": pre_processor, "visualizer": False}
    model = TransFusion(**parameters)
    make_engine(tmp_path, max_epochs=EPOCHS).fit(model, datamodule=surface)
    assert pictures(tmp_path) == []
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), trained[2], strict=True))


def test_resumed_training_with_pictures_is_the_same(tiny, surface, tmp_path):
    def fit(name, epochs, **arguments):
        seed_everything(2)
        # The same rate all the time: it depends on the length of a training.
        model = tiny(visualizer=True, rate_decay=1.0)
        watcher = Watcher()
        engine = make_engine(tmp_path / name, watcher, max_epochs=epochs, limit_val_batches=1)
        engine.fit(model, datamodule=surface, **arguments)
        return model, watcher, engine.trainer.checkpoint_callback.best_model_path

    whole, watched, _ = fit("whole", 4)
    *_, half = fit("half", 2)
    resumed, watched_again, _ = fit("resumed", 4, ckpt_path=half)
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert pictures(tmp_path / "whole") == [f"epoch_000{epoch}.png" for epoch in (1, 2, 3, 4)]
    assert pictures(tmp_path / "half") == ["epoch_0001.png", "epoch_0002.png"]
    assert pictures(tmp_path / "resumed") == ["epoch_0003.png", "epoch_0004.png"]
    for epoch in (3, 4):
        first, second = (next((tmp_path / name).rglob(f"epoch_000{epoch}.png")) for name in ("whole", "resumed"))
        assert first.read_bytes() == second.read_bytes()
    # Nothing is known before the second batch of either run; in the end nothing is left.
    assert len(watched.left) == 4 * BATCHES
    assert len(watched_again.left) == 2 * BATCHES
    for watcher in (watched, watched_again):
        assert watcher.left[0] is None
        assert all(left > 0 for left in watcher.left[1:-1])
        assert watcher.left[-1] == 0
        assert watcher.metrics[0]["minutes_left"] == 0


def test_own_grid_is_kept(tiny, surface, tmp_path):
    own = TrainingGrid(every_n_epochs=2, num_samples=1, output_dir=tmp_path / "own")
    engine = make_engine(tmp_path, own, max_epochs=5)
    engine.fit(tiny(visualizer=True), datamodule=surface)
    assert [callback for callback in engine.trainer.callbacks if isinstance(callback, TrainingGrid)] == [own]
    names = ["epoch_0001.png", "epoch_0002.png", "epoch_0004.png", "epoch_0005.png"]
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == names
    assert pictures(tmp_path) == []
    # One row of panels of 128 pixels under the heads.
    assert 128 < Image.open(tmp_path / "own" / names[0]).height < 2 * 128


def test_picture_that_cannot_be_written_does_not_end_the_training(tiny, surface, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    engine = make_engine(tmp_path, TrainingGrid(output_dir=tmp_path / "file"), max_epochs=1)
    said = r"The training goes on without a picture: .*file.epoch_0001\.png could not be written"
    with pytest.warns(UserWarning, match=said):
        engine.fit(tiny(visualizer=True), datamodule=surface)
    assert engine.trainer.global_step == BATCHES


@pytest.mark.parametrize("arguments", [{"every_n_epochs": 0}, {"num_samples": -1}])
def test_numbers_that_cannot_be(arguments):
    [(name, value)] = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value} is impossible; expected 1 or more"):
        TrainingGrid(**arguments)


@given(st.integers(1, 20_000))
def test_about_ten_pictures_whatever_the_length(epochs):
    milestones = [epoch for epoch in range(1, epochs + 1) if is_milestone(epoch, epochs)]
    assert min(epochs, 6) <= len(milestones) <= 12
    assert {1, epochs} <= set(milestones)


def test_milestones_of_a_length_nobody_knows():
    assert [epoch for epoch in range(1, 100) if is_milestone(epoch, math.inf)] == [1, 2, 4, 8, 16, 32, 64]
    assert [epoch for epoch in range(1, 12) if is_milestone(epoch, math.inf, 5)] == [1, 5, 10]


@pytest.mark.parametrize(
    ("arguments", "batches"),
    [
        ({"max_epochs": 3}, 3 * BATCHES),
        ({"max_epochs": -1, "max_steps": 6}, 6),
        ({"max_epochs": 9, "max_steps": 3, "accumulate_grad_batches": 2}, 6),
    ],
    ids=["epochs", "steps", "accumulated"],
)
def test_estimate_goes_by_the_batches(tiny, surface, tmp_path, arguments, batches):
    watcher = Watcher()
    make_engine(tmp_path, watcher, **arguments).fit(tiny(), datamodule=surface)
    assert len(watcher.left) == batches
    for done in range(2, batches):
        # Time since the end of the first batch, over the batches since, times those left.
        shortest, longest = (passed / (done - 1) * (batches - done) for passed in watcher.passed[done - 1])
        assert shortest <= watcher.left[done - 1] <= longest
    assert watcher.left[-1] == 0


def test_estimate_where_time_ends_the_training(tiny, surface, tmp_path):
    watcher = Watcher()
    make_engine(tmp_path, watcher, max_epochs=-1, max_time={"seconds": 2}).fit(tiny(), datamodule=surface)
    # By the limit, from the first batch on.
    assert all(0 <= left <= 2 for left in watcher.left)
    assert watcher.left == sorted(watcher.left, reverse=True)


class Stop(Callback):
    """Ends a training after three epochs."""

    def on_train_epoch_end(self, trainer, pl_module):
        """Ask for it."""
        del pl_module
        trainer.should_stop = trainer.current_epoch == 2


def test_no_estimate_where_nothing_ends_the_training(tiny, surface, tmp_path):
    watcher = Watcher()
    make_engine(tmp_path, watcher, Stop(), max_epochs=-1).fit(tiny(visualizer=True), datamodule=surface)
    assert watcher.left == [None] * (3 * BATCHES)
    assert "minutes_left" not in watcher.metrics[0]
    assert pictures(tmp_path) == ["epoch_0001.png", "epoch_0002.png"]


SCRIPT = """
import sys
from anomalib.engine import Engine
from anomalib_transfusion import DemoSurface, TransFusion
from conftest import SURFACE, TINY

if __name__ == "__main__":
    surface = DemoSurface(root=sys.argv[1], **{**SURFACE, "train_batch_size": 2})
    model = TransFusion(**TINY, pre_processor=TransFusion.configure_pre_processor((32, 32)))
    Engine(
        default_root_dir="run", accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
        limit_val_batches=0, enable_progress_bar=False,
    ).fit(model, datamodule=surface)
"""


@pytest.mark.slow
def test_of_two_processes_one_draws_and_speaks(surface_root, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "train.py", surface_root],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, printed
    assert pictures(tmp_path) == ["epoch_0001.png", "epoch_0002.png"]
    assert printed.count("Epoch 1 of 2 is done; the training takes about 0:00:") == 1
    assert "Epoch 2 of 2" not in printed
