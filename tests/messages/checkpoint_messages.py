# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages about checkpoints, exports and files that are written."""

from pathlib import Path

import pytest
import torch
from anomalib.data.utils.tiler import Tiler
from anomalib.deploy import CompressionType
from message_table import Message, in_module

from anomalib_transfusion import TransFusion, TransFusionModel
from anomalib_transfusion.files import written_whole
from anomalib_transfusion.models.loop_export import _tidy
from anomalib_transfusion.models.transfusion.official import export_official
from anomalib_transfusion.training.checkpoints import WholeCheckpointIO
from conftest import NETWORK
from parts import part


def official(tmp_path, without=(), **changed):
    """Read a checkpoint of the authors that is not what it should be."""
    state = export_official(part(TransFusionModel, **NETWORK).network)
    state = {key: value for key, value in state.items() if not key.startswith(without)}
    return read_official(tmp_path, {**state, **{f"model.{key}.weight": value for key, value in changed.items()}})


def read_official(tmp_path, content):
    """Read a checkpoint of the authors that holds something."""
    path = tmp_path / "official.pkl"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    return TransFusion.from_official_checkpoint(path)


def read(tmp_path, content):
    """Read a checkpoint of anomalib that holds something."""
    path = tmp_path / "model.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    return WholeCheckpointIO().load_checkpoint(path)


def export_with_tiles(tiny, tmp_path):
    model = tiny()
    model.model.tiler = Tiler(16, 16)
    model.to_onnx(tmp_path)


def compared_without_labels(tiny, tmp_path):
    tiny(post_processor=False).to_openvino(tmp_path, compression_type=CompressionType.INT8_ACQ)


def exported_without_a_loop(tmp_path):
    """What the exporter writes where it loses the loop: a graph without one."""
    onnx = pytest.importorskip("onnx")
    floats = onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(name, floats, [1]) for name in ("input", "output")]
    node = onnx.helper.make_node("Identity", ["input"], ["output"])
    graph = onnx.helper.make_graph([node], "main", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    _tidy(tmp_path / "model.onnx", 3, unroll=False)


def write_below_a_file(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with written_whole(tmp_path / "file/sheet.png") as partial:
        partial.write_bytes(b"a picture")


# fmt: off
CHECKPOINTS = [
    *in_module(
        "models/transfusion/official.py",
        Message("There is no checkpoint {}", lambda: TransFusion.from_official_checkpoint("gone.pkl"),
                FileNotFoundError, "gone.pkl", "expected a file that the authors' code saved", "Check the path"),
        Message("{} could not be read as a state dict", lambda tmp_path: read_official(tmp_path, b"<html>404</html>"),
                ValueError, "official.pkl", "a state dict of tensors", "Download it again"),
        Message("{} holds {}", lambda tmp_path: read_official(tmp_path, [torch.zeros(1)]), ValueError,
                "official.pkl holds list", "a state dict of tensors as the authors' code saves it",
                "Pass the file of the weights"),
        Message(
            "This is a checkpoint of the authors' RGB-D model",
            lambda tmp_path: official(tmp_path, image_proj_rgb=torch.zeros(1)),
            ValueError,
            "model.image_proj_rgb.weight",
            "has no counterpart here",
            "Pass one of their model for color images",
        ),
        Message(
            "The key {}image_proj.weight is missing",
            lambda tmp_path: read_official(tmp_path, {"conv1.weight": torch.zeros(1)}),
            ValueError,
            "its keys are conv1.weight",
            "model.image_proj.weight is missing",
            "Pass one of theirs",
        ),
        Message(
            "{}image_proj.weight has {} input channels",
            lambda tmp_path: official(tmp_path, image_proj=torch.zeros(8, 3, 3, 3)),
            ValueError,
            "has 3 input channels",
            "expected 5",
            "Pass a checkpoint of a network with all of them",
        ),
        Message("The encoder has {} blocks", lambda tmp_path: official(tmp_path, without=("model.down.2.",)),
                ValueError, "[1, 0] blocks a level", "expected as many in each level", "Download it again"),
        Message(
            "The checkpoint does not fit",
            lambda tmp_path: official(tmp_path, without=("model.up.1.",), extra=torch.zeros(1)),
            ValueError,
            "unexpected: model.extra.weight",
            "missing: model.up.1.",
            "Leave the parameters of the network to the checkpoint",
        ),
        Message(
            "This network has positional_encoding={}",
            lambda: export_official(part(TransFusionModel, **NETWORK, previous_mask=False).network),
            ValueError,
            "previous_mask=False",
            "the authors' always has both",
            "Train one with both",
        ),
        Message(
            "This network has {}, but the authors' has",
            lambda: export_official(part(TransFusionModel, **NETWORK, patch_size=2).network),
            ValueError,
            "patch_size=2",
            "the authors' has pixels",
            "Train one without them",
        ),
    ),
    *in_module(
        "training/compatibility.py",
        Message(
            "The checkpoint is damaged",
            lambda tiny: tiny().on_load_checkpoint({"state_dict": {"model.network.a": 0}, "hyper_parameters": [1]}),
            ValueError,
            "cannot convert dictionary",
            "its hyper-parameters are not readable",
            "Use another one",
        ),
        Message(
            "This is a checkpoint of another model",
            lambda tiny: tiny().on_load_checkpoint({"state_dict": {"backbone.weight": torch.zeros(1)}}),
            ValueError,
            "backbone.weight",
            "none of its weights belongs to TransFusion's network",
            "Pass a checkpoint of TransFusion",
        ),
        Message(
            "The checkpoint was trained with",
            lambda tiny: tiny(timesteps=5).on_load_checkpoint({
                "state_dict": tiny().state_dict(),
                "hyper_parameters": {**tiny().hparams},
            }),
            ValueError,
            "this model has timesteps=5",
            "trained with timesteps=4",
            "--model.timesteps",
        ),
    ),
    *in_module(
        "models/graph_export.py",
        Message("The model works on tiles", export_with_tiles, ValueError,
                "tiles of 16x16 pixels", "cannot be exported to ONNX or OpenVINO", "Set model.model.tiler = None"),
        Message("compression_type=INT8_ACQ compares predicted labels", compared_without_labels, ValueError,
                "post_processor=False", "expected a post-processor", "Build the model with one, or use INT8_PTQ"),
    ),
    *in_module(
        "models/loop_export.py",
        Message("PyTorch {} did not keep", exported_without_a_loop, RuntimeError,
                "model.onnx was not written", "did not keep the reverse process as a loop", "Pass unroll=True"),
    ),
    *in_module(
        "files.py",
        Message("The checkpoint {} cannot be read", lambda tmp_path: read(tmp_path, b"<html>404</html>"), ValueError,
                "model.ckpt cannot be read", "weights and settings", "Use another checkpoint, or write it anew"),
        Message("it holds {}, not a dictionary", lambda tmp_path: read(tmp_path, [1]), ValueError,
                "it holds list", "not a dictionary", "Use another checkpoint, or write it anew"),
        Message(
            "damaged parts: {}",
            lambda tmp_path: read(tmp_path, {"pytorch-lightning_version": "2.6", "state_dict": 5}),
            ValueError,
            "state_dict=5",
            "damaged parts",
            "Use another checkpoint, or write it anew",
        ),
        Message(
            "{} could not be written",
            write_below_a_file,
            # The class that belongs to the number of the error; OSError() chooses it.
            FileExistsError,
            str(Path("file/sheet.png")),
            "could not be written (File exists)",
            "Check that the disk has space and that the folder is writable",
        ),
    ),
]
# fmt: on
