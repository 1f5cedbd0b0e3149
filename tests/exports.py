# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What tests of exports share. An export takes many seconds, so each one is looked at in several ways."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import pytest
import torch

# OpenVINO rounds to bfloat16 by itself on processors that are faster with it.
SINGLE_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


@contextmanager
def onnx_kept(model_class: type, folder: Path) -> Iterator[Path]:
    """Context in which a copy of the ONNX model is kept, as anomalib removes what it converts to OpenVINO.

    Args:
        model_class: Class of the model that is exported.
        folder: Where its ONNX model and the file of its weights are copied to; it must not exist.

    Yields:
        The ONNX model, which is there after an export.
    """
    to_onnx = model_class.to_onnx

    def keeping(self, *arguments, **keywords):
        path = to_onnx(self, *arguments, **keywords)
        shutil.copytree(path.parent, folder)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_class, "to_onnx", keeping)
        yield folder / "model.onnx"


def run_onnx(path: Path, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what ONNX Runtime gives for a batch, by the names of the outputs."""
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: images.numpy()})
    return dict(zip(names, map(torch.from_numpy, values), strict=True))


def normalize_to_the_same(model: torch.nn.Module) -> None:
    """Let a post-processor leave maps and scores, which are in [0, 1], as they are, and threshold them at 0.5."""
    values = {"image_min": 0, "image_max": 1, "pixel_min": 0, "pixel_max": 1}
    for name, value in {**values, "_image_threshold": 0.5, "_pixel_threshold": 0.5}.items():
        getattr(model.post_processor, name).fill_(value)
