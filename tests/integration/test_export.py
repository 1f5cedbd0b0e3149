# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Exported models give what the model gives."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from PIL import Image

from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from paths import DATASETS, needs_datasets

IMAGES = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
# OpenVINO rounds to bfloat16 by itself on processors that are faster with it.
SINGLE_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def surface(surface_root):
    """Return a data module over the small demo surface, for all tests of this module."""
    from anomalib_transfusion import DemoSurface
    from conftest import SURFACE

    return DemoSurface(root=surface_root, **SURFACE)


@pytest.fixture(scope="module")
def trained(surface, tmp_path_factory):
    """Return a model with thresholds and normalisation."""
    from anomalib_transfusion import TransFusion
    from conftest import TINY

    model = TransFusion(**TINY, pre_processor=TransFusion.configure_pre_processor((32, 32)), visualizer=False)
    folder = tmp_path_factory.mktemp("trained")
    engine = Engine(default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=1, enable_progress_bar=False)
    engine.fit(model, datamodule=surface)
    return model.eval()


@pytest.fixture(scope="module")
def loop(trained, tmp_path_factory):
    """Return the ONNX model for images of any size."""
    return trained.to_onnx(tmp_path_factory.mktemp("loop"))


def expected(model, images):
    """Return what the model gives for a batch, by the names that exported models use."""
    with torch.no_grad():
        return model(images)._asdict()


def run_onnx(path, images):
    """Return what an ONNX model gives for a batch."""
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: images.numpy()})
    return dict(zip(names, map(torch.from_numpy, values), strict=True))


def assert_alike(given, wanted):
    """Assert that maps and scores are close, and that nothing is missing."""
    assert set(given) == {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
    for name, values in given.items():
        torch.testing.assert_close(values, wanted[name], rtol=0, atol=1e-3)


def test_torch(trained, surface_root, tmp_path, monkeypatch):
    # anomalib's inferencer unpickles the whole model, and wants to be told that its source is trusted.
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    inferencer = TorchInferencer(trained.to_torch(tmp_path), device="cpu")
    file = sorted((surface_root / "brick/test/crack").iterdir())[0]
    # Not the engine's prediction: anomalib exports the pre-processor without anti-aliasing.
    wanted = expected(trained, read_image(file, as_tensor=True)[None])
    picture = Image.open(file).convert("RGB")
    for image in (file, str(file), picture, np.array(picture), read_image(file, as_tensor=True)):
        given = inferencer.predict(image)
        torch.testing.assert_close(given.pred_score.squeeze(), wanted["pred_score"].squeeze())
        torch.testing.assert_close(given.anomaly_map.squeeze(), wanted["anomaly_map"].squeeze())


def test_onnx_of_any_size(trained, loop):
    assert_alike(run_onnx(loop, IMAGES), expected(trained, IMAGES))
    smaller = IMAGES[:1, :, :33, :40]
    assert_alike(run_onnx(loop, smaller), expected(trained, smaller))


def test_onnx_of_fixed_size(trained, tmp_path):
    path = trained.to_onnx(tmp_path, input_size=(40, 48))
    assert_alike(run_onnx(path, IMAGES), expected(trained, IMAGES))
    shape = onnxruntime.InferenceSession(path).get_inputs()[0].shape
    # The batch stays open.
    assert isinstance(shape[0], str)
    assert shape[1:] == [3, 40, 48]


@needs_datasets
def test_real_images(trained, loop, tmp_path, monkeypatch):
    """Maps and scores of photographs of magnetic tiles, through ONNX Runtime and OpenVINO."""
    monkeypatch.chdir(tmp_path)
    openvino = OpenVINOInferencer(trained.to_openvino(tmp_path), device="CPU", config=SINGLE_PRECISION)
    for kind in ("good", "crack", "blowhole"):
        file = sorted((DATASETS / "MVTecAD/magnetic_tile/test" / kind).iterdir())[0]
        image = read_image(file, as_tensor=True)[None]
        wanted = expected(trained, image)
        assert_alike(run_onnx(loop, image), wanted)
        given = openvino.predict(file)
        np.testing.assert_allclose(given.anomaly_map, wanted["anomaly_map"], rtol=0, atol=1e-3)
        np.testing.assert_allclose(given.pred_score, wanted["pred_score"], rtol=0, atol=1e-3)


def test_weights_are_stored_once(trained, loop):
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    stored = sum(onnx.numpy_helper.to_array(array).nbytes for array in onnx.load(loop).graph.initializer)
    assert 4 * parameters <= stored < 1.1 * 4 * parameters


def test_steps_are_one_loop_or_written_out(trained, loop, tiny, tmp_path):
    """The loop holds the network once; written out, it is there once a step, and the result is the same."""
    [scan] = [node for node in onnx.load(loop).graph.node if node.op_type == "Scan"]
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    convolutions = sum(node.op_type == "Conv" for node in body.node)
    assert convolutions == sum(isinstance(module, torch.nn.Conv2d) for module in trained.model.modules())

    model = tiny(num_inference_steps=2)
    model.load_state_dict(trained.state_dict())
    unrolled = model.eval().to_onnx(tmp_path, unroll=True)
    nodes = onnx.load(unrolled).graph.node
    assert "Scan" not in {node.op_type for node in nodes}
    assert sum(node.op_type == "Conv" for node in nodes) == 2 * convolutions
    assert_alike(run_onnx(unrolled, IMAGES), expected(model, IMAGES))
    # Two steps and three are not the same by chance.
    assert not torch.allclose(expected(model, IMAGES)["anomaly_map"], expected(trained, IMAGES)["anomaly_map"])
    # Training goes on after an export.
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_channels_last_memory_keeps_the_loop(trained, tiny, tmp_path):
    model = tiny(channels_last=True)
    model.load_state_dict(trained.state_dict())
    path = model.eval().to_onnx(tmp_path)
    assert "Scan" in {node.op_type for node in onnx.load(path).graph.node}
    assert_alike(run_onnx(path, IMAGES), expected(trained, IMAGES))


@pytest.mark.slow
def test_a_loop_that_the_exporter_loses_is_an_error(tiny, tmp_path):
    """Where the first of the exporter's ways fails, here by strides that change, the second writes the steps out."""

    class Restless(TransFusionModel):
        """A model whose mask comes back from a step in another memory format."""

        def _exported_step(self, *arguments):
            x_t, mask, mask_sum = super()._exported_step(*arguments)
            return x_t.contiguous(memory_format=torch.channels_last), mask, mask_sum

    model = tiny().eval()
    model.model.__class__ = Restless
    with pytest.raises(RuntimeError, match=r"did not keep the reverse process as a loop.*unroll=True"):
        model.to_onnx(tmp_path, input_size=(32, 32))
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.parametrize(
    ("compression", "atol"),
    [
        (None, 1e-4),
        pytest.param(CompressionType.FP16, 1e-3, marks=pytest.mark.slow),
        pytest.param(CompressionType.INT8, 2e-2, marks=pytest.mark.slow),
        (CompressionType.INT8_PTQ, 2e-2),
    ],
)
def test_openvino(trained, surface, tiny, tmp_path, monkeypatch, compression, atol):
    """Maps without the normalisation, which stretches the little that this network knows, and its differences."""
    monkeypatch.chdir(tmp_path)
    model = tiny(post_processor=False)
    model.model.load_state_dict(trained.model.state_dict())
    path = model.eval().to_openvino(tmp_path, compression_type=compression, datamodule=surface)
    inferencer = OpenVINOInferencer(path, device="CPU", config=SINGLE_PRECISION)
    Image.fromarray((255 * IMAGES[0].permute(1, 2, 0).numpy()).round().astype(np.uint8)).save("image.png")
    image = read_image("image.png", as_tensor=True)
    wanted = expected(model, image[None])
    for given in (inferencer.predict(kind) for kind in ("image.png", tmp_path / "image.png", image, image.numpy())):
        np.testing.assert_allclose(given.anomaly_map, wanted["anomaly_map"], rtol=0, atol=atol)
        np.testing.assert_allclose(given.pred_score, wanted["pred_score"], rtol=0, atol=atol)
    stored = path.with_suffix(".bin").stat().st_size
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    assert stored < 1.1 * parameters * (2 if compression else 4)
