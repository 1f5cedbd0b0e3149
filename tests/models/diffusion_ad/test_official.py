# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The authors' files of DiffusionAD, both ways, and files that are none."""

import zipfile
from collections import OrderedDict, defaultdict

import pytest
import torch
from safetensors.torch import save_file

from anomalib_transfusion.models.diffusion_ad.official import (
    export_official,
    import_official,
    infer_architecture,
    read_official,
)
from anomalib_transfusion.models.diffusion_ad.torch_model import DiffusionADModel
from parts import part

from .networks import NETWORK, build, photograph

# What the authors' settings hold, in their types.
SETTINGS = {"img_size": [256, 256], "base_channels": 128, "condition_w": 1, "lr": 1e-4, "arg_num": "1", "flag": True}


@pytest.fixture
def file(tmp_path):
    """A file as the authors' code writes it."""
    path = tmp_path / "params-last.pt"
    content = export_official(build(), 3000, SETTINGS)
    assert type(content["args"]) is defaultdict
    assert not content["args"]["of no setting"]
    torch.save(content, path)
    return path


def test_there_and_back(file):
    checkpoint = read_official(file)
    assert checkpoint.epoch == 3000
    assert checkpoint.arguments == {**SETTINGS, "of no setting": ""}
    architecture = infer_architecture(checkpoint)
    assert architecture == {
        "base_channels": 32,
        "channel_multipliers": (1, 1, 2),
        "num_blocks": 1,
        "attention_levels": (1, 2),
        "num_heads": 4,
        "num_groups": 32,
        "segmentation_width": 8,
    }
    model = part(DiffusionADModel, **architecture, precision="single").eval()
    import_official(checkpoint, model)
    images = photograph(1, 32, 32)
    assert torch.equal(model(images).anomaly_map, build()(images).anomaly_map)


@pytest.mark.parametrize(
    "parameters",
    [
        {"channel_multipliers": (1,), "attention_levels": ()},
        {"channel_multipliers": (1, 2), "num_blocks": 3, "attention_levels": (0,)},
        {"channel_multipliers": (1, 3, 1), "num_blocks": 2, "attention_levels": (0, 2), "segmentation_width": 3},
    ],
)
def test_architectures_are_inferred(parameters, tmp_path):
    torch.save(export_official(build(**parameters)), tmp_path / "params.pt")
    found = infer_architecture(read_official(tmp_path / "params.pt"))
    assert {name: found[name] for name in parameters} == parameters
    import_official(read_official(tmp_path / "params.pt"), part(DiffusionADModel, **found))


def test_the_older_form_of_torch_files(tmp_path):
    torch.save(export_official(build()), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert infer_architecture(read_official(tmp_path / "old.pt"))["base_channels"] == 32


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        """Name what is called."""
        return print, ("it ran",)


@pytest.mark.parametrize("place", ["args", "n_epoch"])
def test_code_in_a_file_is_not_run(tmp_path, place, capsys):
    content = export_official(build())
    content[place] = Evil()
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil.pt could not be read .*it could run code"):
        read_official(tmp_path / "evil.pt")
    assert "it ran" not in capsys.readouterr().out


def test_a_default_that_is_code_is_not_run(tmp_path, capsys):
    content = {**export_official(build()), "args": defaultdict(print)}
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="could not be read"):
        read_official(tmp_path / "evil.pt")
    assert not capsys.readouterr().out


def test_other_files_are_refused(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*gone.pt"):
        read_official(tmp_path / "gone.pt")
    for name, content, found in (
        ("transfusion.pt", OrderedDict({"model.image_proj.weight": torch.zeros(1)}), "model.image_proj.weight"),
        ("lightning.ckpt", {"state_dict": {}, "pytorch-lightning_version": "2.6"}, "pytorch-lightning_version, state"),
        ("list.pt", [1], "list"),
        ("half.pt", {"unet_model_state_dict": {"a": torch.zeros(1)}}, "unet_model_state_dict; expected"),
        ("empty.pt", {"unet_model_state_dict": {}, "seg_model_state_dict": {}}, "seg_model_state_dict, unet_"),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} holds {found}"):
            read_official(tmp_path / name)
    save_file({"unet.a": torch.zeros(1), "other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"holds other, unet\.a; expected"):
        read_official(tmp_path / "other.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{file} could not be read"):
        read_official(file)
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="could not be read"):
        read_official(tmp_path / "text.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("data.pkl", b"}.")
    with pytest.raises(ValueError, match="could not be read"):
        read_official(tmp_path / "zip.pt")


def test_missing_and_surplus_keys_are_named_and_nothing_is_loaded(file):
    checkpoint = read_official(file)
    del checkpoint.unet["middle.1.to_qkv.bias"]
    checkpoint.segmentation["encoder_segment.extra"] = torch.zeros(1)
    checkpoint.unet["out.2.bias"] = torch.zeros(4)
    model = part(DiffusionADModel, **NETWORK)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    message = "missing: middle.1.to_qkv.bias; unexpected: encoder_segment.extra; of another shape: out.2.bias"
    with pytest.raises(ValueError, match=message):
        import_official(checkpoint, model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_file_of_another_network_is_refused(file):
    checkpoint = read_official(file)
    with pytest.raises(ValueError, match=r"down.0.0.weight and encoder_segment.block1.0.weight; .*up.0.0.embed"):
        infer_architecture(
            checkpoint._replace(
                unet={key: value for key, value in checkpoint.unet.items() if key.startswith("up.0.0.embed")},
            ),
        )
    for key in ("up.3.0.in_layers.0.weight", "down.3.0.in_layers.0.weight", "down.5.0.in_layers.2.weight"):
        unet = {name: value for name, value in checkpoint.unet.items() if name != key}
        with pytest.raises(ValueError, match="expected as many modules in each level of both"):
            infer_architecture(checkpoint._replace(unet=unet))


def test_networks_that_the_authors_code_cannot_read_are_not_written():
    for parameters in ({"num_heads": 2}, {"num_groups": 16}):
        with pytest.raises(ValueError, match=r"expected 4 and 32, which the authors' code has built in"):
            export_official(build(**parameters))
