# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The authors' checkpoints: both ways, refused where they do not fit, and used by the engine and the command line."""

from pathlib import Path

import pytest
import torch
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from safetensors.torch import load_file, save_file

from anomalib_transfusion import TransFusion
from anomalib_transfusion.models.transfusion.official import export_official, infer_architecture, read_official
from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from anomalib_transfusion.models.transfusion.unet import ResUNet
from commands import typed
from conftest import NETWORK
from parts import part
from paths import REFERENCE, needs_reference


@pytest.fixture
def state():
    """A small state dict under the authors' keys."""
    torch.manual_seed(0)
    return export_official(
        part(ResUNet, **NETWORK),
    )


@pytest.fixture
def official(state, tmp_path):
    """The same as a file, as the authors publish it."""
    path = tmp_path / "bottle_model.pkl"
    torch.save(state, path)
    return path


def test_both_ways_and_both_formats(state, official, tmp_path):
    save_file(state, tmp_path / "bottle.safetensors")
    for path in (official, tmp_path / "bottle.safetensors"):
        exported = export_official(TransFusion.from_official_checkpoint(path).model.network)
        assert set(exported) == set(state)
        assert all(torch.equal(exported[key], state[key]) for key in state)
        save_file(exported, tmp_path / "again.safetensors")


def test_full_size_both_ways(tmp_path):
    """54,559,431 parameters; the shapes are those of the published network."""
    torch.manual_seed(0)
    state = export_official(part(TransFusionModel).network)
    assert state["model.image_proj.weight"].shape == (64, 5, 3, 3)
    assert state["model.middle.attn.projection.weight"].shape == (1536, 512)
    assert state["model.up.14.res.conv1.weight"].shape == (64, 128, 3, 3)
    assert state["model.down.8.conv.weight"].shape == (256, 256, 3, 3)
    buffers = ("running_mean", "running_var", "num_batches_tracked", "inv_freq")
    assert sum(tensor.numel() for key, tensor in state.items() if not key.endswith(buffers)) == 54_559_431
    torch.save(state, tmp_path / "full.pkl")
    model = TransFusion.from_official_checkpoint(tmp_path / "full.pkl")
    exported = export_official(model.model.network)
    assert set(exported) == set(state)
    assert all(torch.equal(exported[key], state[key]) for key in state)
    assert infer_architecture(state) == {
        "base_channels": 64,
        "channel_multipliers": (1, 2, 4, 8),
        "num_blocks": 2,
        "attention_levels": (2, 3),
    }


@needs_reference
def test_published_evaluation_is_a_matter_of_parameters():
    path = REFERENCE / "official_tiny.safetensors"
    paper = TransFusion.from_official_checkpoint(path).model
    published = TransFusion.from_official_checkpoint(path, start_timestep=18, mask_divisor=19).model
    assert paper.inference_timesteps == list(range(19, 0, -1))
    assert published.inference_timesteps == list(range(18, 0, -1))
    assert len(load_file(path)) == 322


def test_trains_on_predicts_saves_and_exports(official, surface, tmp_path):
    pre_processor = TransFusion.configure_pre_processor((32, 32))
    model = TransFusion.from_official_checkpoint(
        official,
        texture_source="none",
        timesteps=4,
        pre_processor=pre_processor,
        visualizer=False,
    )
    before = model.model.network.input_projection.weight.clone()
    engine = Engine(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", devices=1, enable_progress_bar=False)
    engine.fit(model, datamodule=surface)
    assert not torch.equal(before, model.model.network.input_projection.weight)
    assert engine.predict(model, datamodule=surface)
    loaded = TransFusion.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path)
    assert torch.equal(loaded.model.network.input_projection.weight, model.model.network.input_projection.weight)
    exported = engine.export(model, ExportType.TORCH, export_root=tmp_path)
    assert exported.is_file()


def test_other_files_are_refused(state, official, tmp_path):
    def refused(name, content, message):
        path = tmp_path / name
        torch.save(content, path) if not isinstance(content, bytes) else path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            TransFusion.from_official_checkpoint(path)

    refused("truncated.pkl", official.read_bytes()[:2000], "could not be read")
    refused("truncated.safetensors", b"\x00" * 20, "could not be read")
    refused("text.pkl", b"<html>404</html>", "could not be read")
    refused("empty.pkl", b"", "could not be read")
    refused("list.pkl", [torch.zeros(1)], "holds list, not a state dict")
    refused("resnet.pkl", {"conv1.weight": torch.zeros(1)}, "image_proj.weight is missing.*conv1.weight")
    rgbd = {**state, "model.image_proj_rgb.weight": torch.zeros(1), "model.up.2.attn_d.output.bias": torch.zeros(1)}
    refused("rgbd.pkl", rgbd, "RGB-D.*image_proj_rgb.weight.*attn_d.output.bias")
    gray = {**state, "model.image_proj.weight": torch.zeros(8, 3, 3, 3)}
    refused("gray.pkl", gray, "3 input channels; expected 5")
    missing = {key: value for key, value in state.items() if key != "model.up.1.res.conv1.weight"}
    refused("missing.pkl", missing, "missing: model.up.1.res.conv1.weight")
    refused("more.pkl", {**state, "model.extra": torch.zeros(1)}, "unexpected: model.extra")
    shape = {**state, "model.final.weight": torch.zeros(1, 8, 3, 3)}
    refused("shape.pkl", shape, "of another shape: model.final.weight")
    with pytest.raises(FileNotFoundError, match=r"gone\.pkl"):
        TransFusion.from_official_checkpoint(tmp_path / "gone.pkl")


class Malicious:
    """Would make a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        """Name the function that unpickling is to call."""
        return (Path.touch, (self.path,))


def test_no_code_of_a_pickle_is_run(state, tmp_path):
    torch.save({**state, "model.final.bias": Malicious(tmp_path / "run")}, tmp_path / "malicious.pkl")
    with pytest.raises(ValueError, match=r"more than tensors.*could run code"):
        read_official(tmp_path / "malicious.pkl")
    assert not (tmp_path / "run").exists()


def test_convert_and_test_on_the_command_line(official, surface_root, tmp_path):
    done = typed("anomalib-transfusion", "convert", official, "bottle.ckpt", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bottle.ckpt").is_file()
    loaded = TransFusion.load_from_checkpoint(tmp_path / "bottle.ckpt")
    assert torch.equal(loaded.model.network.anomaly_head.weight, torch.load(official)["model.final.weight"])
    tested = typed(
        *["anomalib", "test", "--model", "TransFusion", "--ckpt_path", "bottle.ckpt"],
        *["--model.base_channels", 8, "--model.channel_multipliers", "[1,2]", "--model.num_blocks", 1],
        *["--model.attention_levels", "[-1]", "--model.num_inference_steps", 1, "--model.visualizer", "false"],
        *["--data", "DemoSurface", "--data.root", surface_root, "--data.image_size", 64, "--data.num_workers", 0],
        *["--data.num_train_images", 16, "--data.num_test_images", 2, "--data.num_defect_images", 1],
        *["--trainer.accelerator", "cpu"],
        folder=tmp_path,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "image_AUROC" in tested.stdout

    again = typed("anomalib-transfusion", "convert", official, "bottle.ckpt", folder=tmp_path)
    assert (again.returncode, again.stderr.strip()) == (
        1,
        "anomalib-transfusion: bottle.ckpt exists; choose another name, or pass --overwrite true.",
    )
    assert typed("anomalib-transfusion", "convert", official, "no/folder.ckpt", folder=tmp_path).returncode == 1
    broken = typed("anomalib-transfusion", "convert", "bottle.ckpt", "other.ckpt", folder=tmp_path)
    assert broken.returncode == 1
    assert "Traceback" not in broken.stderr
    assert sorted(path.name for path in tmp_path.glob("*.ckpt*")) == ["bottle.ckpt"]
