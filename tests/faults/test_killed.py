# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Processes that are killed: what was saved is whole, and a resumed training ends with the same weights."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from torchvision.transforms.v2 import Transform

from anomalib_transfusion import DemoSurface
from anomalib_transfusion.training.checkpoints import WholeCheckpointIO
from conftest import SURFACE, TINY

EPOCHS, STEPS_AN_EPOCH, KILLED_AT = 4, 4, 10
# Saves after each epoch and after every third step, and kills itself in the middle of the third epoch.
PROGRAM = """
import json, os, signal, sys
from anomalib.callbacks import ModelCheckpoint
from anomalib.engine import Engine
from anomalib_transfusion import DemoSurface, TransFusion
from lightning.pytorch import Callback, seed_everything

surface, folder, killed_at, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tiny, settings = map(json.loads, sys.argv[5:7])


class Killed(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)


seed_everything(7)
model = TransFusion(**tiny, visualizer=False, pre_processor=TransFusion.configure_pre_processor((32, 32)))
saving = [
    ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1),
    ModelCheckpoint(dirpath=folder, filename="{step}", save_top_k=-1, every_n_train_steps=3),
]
Engine(
    default_root_dir=folder, max_epochs=epochs, accelerator="cpu", devices=1, enable_progress_bar=False,
    check_val_every_n_epoch=1, callbacks=[Killed(), *saving],
).fit(model, datamodule=DemoSurface(root=surface, **settings))
"""


@pytest.fixture(scope="module")
def killed(surface_root, tmp_path_factory):
    """Return the folder that a training has left that was killed between two saved checkpoints."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [
            *[sys.executable, "-c", PROGRAM, surface_root, folder, str(KILLED_AT), str(EPOCHS)],
            *[json.dumps(TINY), json.dumps(SURFACE)],
        ],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    return folder


def train(model, data, folder, ckpt_path=None, **arguments):
    """Train to the end, or go on with a checkpoint."""
    settings = {"max_epochs": EPOCHS, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False, **arguments}
    engine = Engine(default_root_dir=folder, check_val_every_n_epoch=1, **settings)
    engine.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return engine


def test_resumed_training_ends_with_the_weights_of_one_that_was_never_killed(tiny, surface, killed, tmp_path):
    assert sorted(path.name for path in killed.glob("*.ckpt")) == [
        *["epoch=0.ckpt", "epoch=1.ckpt", "step=3.ckpt", "step=6.ckpt", "step=9.ckpt"],
    ]
    assert not list(killed.rglob("*.partial"))
    seed_everything(7)
    straight = tiny()
    train(straight, surface, tmp_path / "straight")

    seed_everything(99)
    resumed = tiny()
    engine = train(resumed, surface, tmp_path / "resumed", killed / "epoch=1.ckpt")
    assert engine.trainer.global_step == EPOCHS * STEPS_AN_EPOCH
    weights = resumed.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in straight.state_dict().items())


def test_resuming_in_the_middle_of_an_epoch(tiny, surface, killed, tmp_path):
    """Lightning goes on with the step, but cannot go on with the order of the images, and says so."""
    model = tiny()
    with pytest.warns(UserWarning, match="resuming from a checkpoint that ended before the epoch ended"):
        engine = train(model, surface, tmp_path, killed / "step=9.ckpt")
    assert engine.trainer.global_step == EPOCHS * STEPS_AN_EPOCH
    assert engine.trainer.current_epoch == EPOCHS
    assert all(tensor.isfinite().all() for tensor in model.model.parameters())


def test_killed_while_it_saves(tmp_path):
    """The kernel kills the process in the middle of the file; the checkpoint before is whole, and so is the next."""
    path, io = tmp_path / "model.ckpt", WholeCheckpointIO()
    io.save_checkpoint({"epoch": 0}, path)
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        io.save_checkpoint({"epoch": 1, "weights": torch.zeros(100_000)}, path)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGXFSZ
    assert torch.load(path) == {"epoch": 0}
    assert (tmp_path / ".model.ckpt.partial").stat().st_size == 50_000
    io.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path) == {"epoch": 2}
    assert list(tmp_path.iterdir()) == [path]


class KillsWorker(Transform):
    """Changes nothing, and kills the worker process that it runs in once a file is there."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def forward(self, *inputs):
        """Return the inputs, or never return."""
        if torch.utils.data.get_worker_info() is not None and self.file.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return inputs


def test_worker_that_dies(tiny, surface_root, tmp_path):
    """The run ends with an error instead of waiting for ever, and the checkpoint of the first epoch is whole."""
    checkpoint = tmp_path / "model.ckpt"
    settings = {**SURFACE, "num_workers": 1, "train_augmentations": KillsWorker(checkpoint)}
    data = DemoSurface(root=surface_root, **settings)
    saving = ModelCheckpoint(dirpath=tmp_path, filename="model", enable_version_counter=False)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)"):
        train(tiny(), data, tmp_path / "results", callbacks=[saving], limit_val_batches=0)
    saved = WholeCheckpointIO().load_checkpoint(checkpoint)
    assert saved["epoch"] == 0
    assert saved["global_step"] == STEPS_AN_EPOCH
