# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The disk is full: the checkpoint that was there survives, and nothing is half written."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch.plugins.io import TorchCheckpointIO
from PIL import Image

from anomalib_transfusion.files import written_whole
from anomalib_transfusion.models.transfusion.official import export_official
from anomalib_transfusion.training.checkpoints import WholeCheckpointIO
from conftest import NETWORK, SURFACE, TINY
from parts import part

# A tmpfs in a mount namespace of its own: it goes with the process, and needs no rights where user namespaces exist.
MOUNT = 'mount -t tmpfs -o size=4m none "$0" && exec "$@"'
# Saves over one checkpoint after each epoch; the disk is filled up after the first. Then it tries to write more.
PROGRAM = """
import hashlib, json, sys
from pathlib import Path
from anomalib.callbacks import ModelCheckpoint
from anomalib.engine import Engine
from anomalib_transfusion import DemoSurface, TransFusion
from anomalib_transfusion.cli import convert
from lightning.pytorch import Callback

disk, surface, official = map(Path, sys.argv[1:4])
tiny, settings = map(json.loads, sys.argv[4:6])
checkpoint = disk / "model.ckpt"
found = {}


def digest():
    return hashlib.sha256(checkpoint.read_bytes()).hexdigest()


class FillsTheDisk(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            found["before"] = digest()
            with (disk / "filler").open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass


def failure(function):
    try:
        function()
    except OSError as error:
        return str(error)


model = TransFusion(**tiny, visualizer=False, pre_processor=TransFusion.configure_pre_processor((32, 32)))
saving = ModelCheckpoint(dirpath=disk, filename="model", enable_version_counter=False)
engine = Engine(
    default_root_dir=surface.parent / "results", max_epochs=3, accelerator="cpu", devices=1, limit_val_batches=0,
    enable_progress_bar=False, callbacks=[FillsTheDisk(), saving],
)
found["saving"] = failure(lambda: engine.fit(model, datamodule=DemoSurface(root=surface, **settings)))
found["after"] = digest()
found["converting"] = failure(lambda: convert(official, disk / "converted.ckpt"))
found["generating"] = failure(DemoSurface(root=disk / "generated", **settings).prepare_data)
found["files"] = sorted(str(path.relative_to(disk)) for path in disk.rglob("*"))
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(surface_root, tmp_path_factory):
    """Return what a program saw for which a folder is a disk of four megabytes."""
    from anomalib_transfusion import TransFusionModel

    folder = tmp_path_factory.mktemp("full")
    (folder / "disk").mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, folder / "disk"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs Linux that lets a user mount a tmpfs (unshare --user --mount)")
    torch.save(export_official(part(TransFusionModel, **NETWORK).network), folder / "official.pkl")
    done = subprocess.run(
        [
            *[*unshare, sys.executable, "-c", PROGRAM, folder / "disk", surface_root, folder / "official.pkl"],
            *[json.dumps(TINY), json.dumps(SURFACE)],
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")] or [done.stderr]
    return {**json.loads(line.removeprefix("FOUND ")), "disk": folder / "disk"}


def test_checkpoint_survives_the_next_one(found):
    """The folder for temporary files is on another disk, where Lightning copies over the checkpoint that is there."""
    assert found["after"] == found["before"]
    assert f"{found['disk'] / 'model.ckpt'} could not be written (No space left on device)" in found["saving"]
    assert "The file that was there before is kept." in found["saving"]


def test_nothing_half_written_stays(found):
    assert f"{found['disk'] / 'converted.ckpt'} could not be written (No space left on device)" in found["converting"]
    assert "train/good/000.png could not be written (No space left on device)" in found["generating"]
    assert found["files"] == ["filler", "generated", "model.ckpt"]


@pytest.fixture
def small_files():
    """Let no file grow beyond 100 kilobytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_too_large_checkpoint(tmp_path):
    """The same everywhere on Linux, by a limit of the operating system on the size of files."""
    path, io = tmp_path / "new/model.ckpt", WholeCheckpointIO()
    io.save_checkpoint({"epoch": 0}, path)
    with pytest.raises(OSError, match=rf"{path} could not be written \(File too large\)\. The file .* before is kept"):
        io.save_checkpoint({"epoch": 1, "weights": torch.zeros(100_000)}, path)
    assert torch.load(path) == {"epoch": 0}
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(OSError, match=r"other.ckpt could not be written \(File too large\)\. Check that"):
        io.save_checkpoint({"weights": torch.zeros(100_000)}, tmp_path / "other.ckpt")
    assert not (tmp_path / "other.ckpt").exists()


@pytest.mark.usefixtures("small_files")
def test_too_large_result_sheet(tiny, surface, tmp_path):
    """A sheet of noise is larger than the limit; no piece of one stays."""
    from anomalib_transfusion.visualization import ResultSheet

    model = tiny(visualizer=ResultSheet(field_size=(512, 512)))
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, enable_progress_bar=False, logger=False)
    with pytest.raises(OSError, match=r"\.png could not be written \(File too large\)"):
        engine.predict(model, datamodule=surface)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in {".png", ".partial"}]


def test_a_file_that_is_half_written_when_the_process_dies_is_not_taken_for_whole(tmp_path):
    path = tmp_path / "sheet.png"
    Image.new("RGB", (2, 2)).save(path)
    (tmp_path / ".sheet.png.partial").write_bytes(b"half")
    with written_whole(path) as partial:
        Image.new("RGB", (3, 3)).save(partial, format="PNG")
    assert Image.open(path).size == (3, 3)
    assert list(tmp_path.iterdir()) == [path]


class OwnCheckpointIO(TorchCheckpointIO):
    """A user's own way to write checkpoints."""


def test_the_users_way_to_write_checkpoints_is_kept(tiny, surface, tmp_path):
    settings = {"default_root_dir": tmp_path, "max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    own = Engine(plugins=[OwnCheckpointIO()], limit_train_batches=1, limit_val_batches=0, **settings)
    own.fit(tiny(), datamodule=surface)
    assert type(own.trainer.strategy.checkpoint_io) is OwnCheckpointIO
    default = Engine(limit_train_batches=1, limit_val_batches=0, **settings)
    default.fit(tiny(), datamodule=surface)
    assert type(default.trainer.strategy.checkpoint_io) is WholeCheckpointIO
