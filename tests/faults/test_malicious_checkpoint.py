# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints that would run code when they are unpickled: refused by every way in, and the code does not run."""

import os
import pickle  # noqa: S403
from pathlib import Path

import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from PIL import Image

from anomalib_transfusion import TransFusion
from anomalib_transfusion.cli import convert
from commands import typed


class Malicious:
    """When it is unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        """Return what the unpickler calls."""
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    """Return the path of the trace that the code would leave."""
    return tmp_path / "the_code_has_run"


@pytest.fixture
def checkpoint(tiny, tmp_path, marker):
    """Return a checkpoint that is a whole and fitting one but for what it holds besides."""
    model = tiny()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    content["hyper_parameters"]["dtd_dir"] = Malicious(marker)
    torch.save(content, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def engine(folder):
    return Engine(default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=1, enable_progress_bar=False)


REFUSED = (
    r"cannot be read \(it holds posix.mkdir, which is neither a tensor nor a plain value\)\. .* holds more"
    r" than weights and settings, which is not loaded because it could run code"
)


@pytest.mark.parametrize(
    "use",
    [
        lambda path, _model, _data: TransFusion.load_from_checkpoint(path),
        lambda path, model, data: engine(path.parent).fit(model, datamodule=data, ckpt_path=path),
        lambda path, model, data: engine(path.parent).train(model, datamodule=data, ckpt_path=path),
        lambda path, model, data: engine(path.parent).validate(model, datamodule=data, ckpt_path=path),
        lambda path, model, data: engine(path.parent).test(model, datamodule=data, ckpt_path=path),
        lambda path, model, data: engine(path.parent).predict(model, datamodule=data, ckpt_path=path),
        lambda path, model, _data: engine(path.parent).export(model, ExportType.TORCH, ckpt_path=path),
        lambda path, model, data: Trainer(accelerator="cpu", logger=False, default_root_dir=path.parent).test(
            model,
            datamodule=data,
            ckpt_path=path,
        ),
    ],
    ids=["load", "fit", "train", "validate", "test", "predict", "export", "bare_trainer"],
)
def test_refused_by_every_way_in(use, checkpoint, marker, tiny, surface):
    with pytest.raises(ValueError, match=rf"{checkpoint} {REFUSED}"):
        use(checkpoint, tiny(), surface)
    assert not marker.exists()


def test_refused_on_the_command_line(checkpoint, marker, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    done = typed(
        *["anomalib", "predict", "--model", "TransFusion"],
        *["--data", tmp_path / "image.png", "--ckpt_path", checkpoint, "--trainer.accelerator", "cpu"],
        *["--model.base_channels", "8", "--model.texture_source", "none"],
        folder=tmp_path,
    )
    assert done.returncode != 0
    assert "could run code" in done.stdout + done.stderr
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_authors_checkpoint(save, suffix, marker, tmp_path):
    path = tmp_path / f"official{suffix}"
    save({"model.image_proj.weight": torch.zeros(8, 5, 3, 3), "evil": Malicious(marker)}, path)
    with pytest.raises(ValueError, match=rf"{path} could not be read .* not loaded because it could run code") as error:
        TransFusion.from_official_checkpoint(path)
    # PyTorch advises to load it in the way that would run the code.
    assert "weights_only" not in str(error.value)
    with pytest.raises(ValueError, match=f"{path} could not be read"):
        convert(path, tmp_path / "converted.ckpt")
    assert not marker.exists()
    assert list(tmp_path.iterdir()) == [path]


def test_function_that_a_checkpoint_asks_to_be_called(checkpoint, tiny, tmp_path):
    """Lightning lets a checkpoint name what builds the model; only its own is called."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(tiny())
    trainer.save_checkpoint(checkpoint)
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["_instantiator"] = "os.removedirs"
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match=r"os\.removedirs.*blocked"):
        TransFusion.load_from_checkpoint(checkpoint)
    assert tmp_path.is_dir()


class OldCheckpointIO(TorchCheckpointIO):
    """A user's own, which is left alone: what it loads is the user's choice."""

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        """Load whatever there is."""
        del weights_only
        return super().load_checkpoint(path, map_location, weights_only=False)


def test_the_trace_would_show(checkpoint, marker, tiny, surface, tmp_path):
    """Where a user asks for it, the code does run: the other tests look at the right place."""
    run = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, plugins=[OldCheckpointIO()])
    run.predict(tiny(), dataset=PredictDataset(Path(surface.root) / "brick/test/good"), ckpt_path=checkpoint)
    assert marker.is_dir()
