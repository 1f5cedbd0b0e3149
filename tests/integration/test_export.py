# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Exported models give what the model gives."""

import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import ExportType, TorchInferencer
from anomalib.engine import Engine

IMAGES = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def trained(tiny, surface, tmp_path):
    """Return a model with thresholds and normalisation, and its engine."""
    model = tiny()
    engine = Engine(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", devices=1, enable_progress_bar=False)
    engine.fit(model, datamodule=surface)
    return model.eval(), engine


def test_torch(trained, surface_root, tmp_path, monkeypatch):
    # anomalib's inferencer unpickles the whole model, and wants to be told that its source is trusted.
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model, engine = trained
    path = engine.export(model, ExportType.TORCH, export_root=tmp_path)
    inferencer = TorchInferencer(path, device="cpu")
    image = sorted((surface_root / "brick/test/crack").iterdir())[0]
    exported = inferencer.predict(image)
    # Not the engine's prediction: anomalib exports the pre-processor without anti-aliasing.
    with torch.no_grad():
        expected = model(read_image(image, as_tensor=True)[None])
    torch.testing.assert_close(exported.pred_score.squeeze(), expected.pred_score.squeeze())
    torch.testing.assert_close(exported.anomaly_map.squeeze(), expected.anomaly_map.squeeze())


@pytest.mark.parametrize("input_size", [(40, 48), None])
def test_onnx(trained, tmp_path, input_size):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    model, _ = trained
    path = model.to_onnx(tmp_path, input_size=input_size)
    session = onnxruntime.InferenceSession(path)
    with torch.no_grad():
        expected = model(IMAGES)._asdict()
    outputs = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    for output, values in zip(session.get_outputs(), outputs, strict=True):
        torch.testing.assert_close(torch.from_numpy(values), expected[output.name], rtol=0, atol=1e-3)
    # The weights are there once, not once a step.
    parameters = 4 * sum(parameter.numel() for parameter in model.model.parameters())
    stored = sum(onnx.numpy_helper.to_array(array).nbytes for array in onnx.load(path).graph.initializer)
    assert stored < 1.1 * parameters
