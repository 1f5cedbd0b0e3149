# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Exported models give what the model gives."""

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import Folder
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from PIL import Image

from anomalib_transfusion import DemoSurface, TransFusion
from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from conftest import SURFACE, TINY
from exports import SINGLE_PRECISION, normalize_to_the_same, onnx_kept, run_onnx
from paths import DATASETS, needs_datasets

IMAGES = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))


def build(**parameters):
    """Build a small model."""
    pre_processor = TransFusion.configure_pre_processor((32, 32))
    return TransFusion(**{"pre_processor": pre_processor, "visualizer": False, **TINY, **parameters})


@pytest.fixture(scope="module")
def surface(surface_root):
    """Return a data module over the small demo surface, for all tests of this module."""
    return DemoSurface(root=surface_root, **SURFACE)


@pytest.fixture(scope="module")
def trained(surface, tmp_path_factory):
    """Return a model with thresholds and normalization."""
    seed_everything(4)
    model = build()
    folder = tmp_path_factory.mktemp("trained")
    engine = Engine(default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=1, enable_progress_bar=False)
    engine.fit(model, datamodule=surface)
    return model.eval()


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Return the ONNX and the OpenVINO model for images of any size."""
    folder = tmp_path_factory.mktemp("loop")
    with onnx_kept(type(trained), folder / "onnx") as onnx_path:
        return onnx_path, trained.to_openvino(folder)


@pytest.fixture(scope="module")
def loop(exported):
    """Return the ONNX model for images of any size."""
    return exported[0]


@pytest.fixture(scope="module")
def quantized(trained, surface, tmp_path_factory):
    """Return a model of two steps, which is quantized after training, with its ONNX and OpenVINO models."""
    model = build(num_inference_steps=2)
    model.model.load_state_dict(trained.model.state_dict())
    normalize_to_the_same(model.eval())
    folder = tmp_path_factory.mktemp("quantized")
    with pytest.MonkeyPatch.context() as patch, onnx_kept(type(model), folder / "onnx") as onnx_path:
        patch.chdir(folder)
        kind = CompressionType.INT8_PTQ
        return model, onnx_path, model.to_openvino(folder, compression_type=kind, datamodule=surface)


def expected(model, images):
    """Return what the model gives for a batch, by the names that exported models use."""
    with torch.no_grad():
        return model(images)._asdict()


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


def test_onnx_of_fixed_size(trained, surface, tmp_path):
    """In single precision, in which runtimes have all operations; weights and modes of the model are left as they were.

    Training goes on afterwards.
    """
    model = build()
    model.load_state_dict(trained.state_dict())
    # Not in single precision as well.
    model.double().model.network.input_projection.weight.data += 1e-12
    before = [weight.clone() for weight in model.parameters()]
    modes = {name: part.training for name, part in model.named_modules()}
    path = model.to_onnx(tmp_path, input_size=(40, 48))
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert {name: part.training for name, part in model.named_modules()} == modes
    given, wanted = run_onnx(path, IMAGES), expected(trained, IMAGES)
    assert_alike(given, wanted)
    torch.testing.assert_close(given["anomaly_map"], wanted["anomaly_map"], rtol=0, atol=1e-4)
    shape = onnxruntime.InferenceSession(path).get_inputs()[0].shape
    # The batch stays open.
    assert isinstance(shape[0], str)
    assert shape[1:] == [3, 40, 48]
    engine = Engine(logger=False, default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", devices=1)
    engine.fit(model.float(), datamodule=surface)


@needs_datasets
def test_real_images(trained, exported):
    """Maps and scores of photographs of magnetic tiles, through ONNX Runtime and OpenVINO."""
    loop, openvino_path = exported
    openvino = OpenVINOInferencer(openvino_path, device="CPU", config=SINGLE_PRECISION)
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


def test_steps_are_one_loop_or_written_out(trained, loop, quantized):
    """The loop holds the network once; written out, it is there once a step, and the result is the same.

    The steps are written out for tools that quantize.
    """
    [scan] = [node for node in onnx.load(loop).graph.node if node.op_type == "Scan"]
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    convolutions = sum(node.op_type == "Conv" for node in body.node)
    assert convolutions == sum(isinstance(module, torch.nn.Conv2d) for module in trained.model.modules())

    model, unrolled, _ = quantized
    nodes = onnx.load(unrolled).graph.node
    assert "Scan" not in {node.op_type for node in nodes}
    assert sum(node.op_type == "Conv" for node in nodes) == 2 * convolutions
    assert_alike(run_onnx(unrolled, IMAGES), expected(model, IMAGES))
    # Two steps and three are not the same by chance.
    two, three = (of.model(IMAGES[:, :, :32, :32]).anomaly_map for of in (model, trained))
    assert not torch.allclose(two, three)
    # Training goes on after an export.
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_one_step_is_no_loop(trained, tmp_path):
    """It is exported as it is, for images and batches of any size."""
    model = build(num_inference_steps=1)
    model.load_state_dict(trained.state_dict())
    path = model.eval().to_onnx(tmp_path)
    nodes = onnx.load(path).graph.node
    assert "Scan" not in {node.op_type for node in nodes}
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.model.modules())
    assert sum(node.op_type == "Conv" for node in nodes) == convolutions
    for images in (IMAGES, IMAGES[:1, :, :33, :40]):
        assert_alike(run_onnx(path, images), expected(model, images))


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


def check_openvino(model, path, atol, bytes_each):
    """Assert that an OpenVINO model gives what the model gives, and how large it is.

    Maps are without the normalization, which stretches the little that this network knows, and its differences.
    """
    inferencer = OpenVINOInferencer(path, device="CPU", config=SINGLE_PRECISION)
    file = path.parent / "image.png"
    Image.fromarray((255 * IMAGES[0].permute(1, 2, 0).numpy()).round().astype(np.uint8)).save(file)
    image = read_image(file, as_tensor=True)
    wanted = expected(model, image[None])
    for given in (inferencer.predict(kind) for kind in (str(file), file, image, image.numpy())):
        np.testing.assert_allclose(given.anomaly_map, wanted["anomaly_map"], rtol=0, atol=atol)
        np.testing.assert_allclose(given.pred_score, wanted["pred_score"], rtol=0, atol=atol)
    stored = path.with_suffix(".bin").stat().st_size
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    assert stored < 1.1 * parameters * bytes_each


@pytest.mark.parametrize(
    ("compression", "atol"),
    [
        (None, 1e-4),
        pytest.param(CompressionType.FP16, 1e-3, marks=pytest.mark.slow),
        pytest.param(CompressionType.INT8, 2e-2, marks=pytest.mark.slow),
    ],
)
def test_openvino(trained, tmp_path, compression, atol):
    model = build(post_processor=False)
    model.model.load_state_dict(trained.model.state_dict())
    path = model.eval().to_openvino(tmp_path, compression_type=compression)
    check_openvino(model, path, atol, 2 if compression else 4)


def test_openvino_quantized_after_training(quantized):
    model, _, path = quantized
    check_openvino(model, path, 2e-2, 2)


def test_calibration_resizes_images_of_other_sizes(trained, tmp_path):
    """The exporter alone stops: such images fit neither the graph nor one batch."""
    generator = np.random.default_rng(0)
    for index, size in enumerate([(40, 48, 3), (64, 30, 3), (33, 33, 3), (50, 70, 3)]):
        file = tmp_path / f"parts/{('good', 'good', 'more', 'bad')[index]}/{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(file)
    data = Folder(
        name="parts",
        root=tmp_path / "parts",
        normal_dir="good",
        normal_test_dir="more",
        abnormal_dir="bad",
        val_split_mode="same_as_test",
        eval_batch_size=4,
        num_workers=0,
    )
    model = build(post_processor=False, num_inference_steps=1)
    model.model.load_state_dict(trained.model.state_dict())
    path = model.eval().to_openvino(
        tmp_path,
        input_size=(32, 32),
        compression_type=CompressionType.INT8_PTQ,
        datamodule=data,
    )
    small = torch.nn.functional.interpolate(IMAGES, (32, 32))
    given = openvino.Core().compile_model(path, "CPU", SINGLE_PRECISION)(small.numpy())["anomaly_map"]
    np.testing.assert_allclose(given, expected(model, small)["anomaly_map"], rtol=0, atol=2e-2)
    assert data.val_augmentations is None
    assert {item.image.shape[-2:] for item in data.val_data} == {(33, 33), (50, 70)}
