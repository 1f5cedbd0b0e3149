# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Generated bad input over parameters, tensors and files: an error that names what is wrong, or a correct result."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from PIL import Image
from safetensors.torch import save_file

from anomalib_transfusion import TransFusion, TransFusionModel
from anomalib_transfusion.models.transfusion.loss import Target, TransFusionLoss
from anomalib_transfusion.models.transfusion.official import export_official
from anomalib_transfusion.models.transfusion.unet import Prediction
from anomalib_transfusion.synthesis.foreground import ForegroundMasks
from anomalib_transfusion.synthesis.sources import TextureBank
from conftest import TINY
from parts import part

# How many inputs each test generates; together they are to be 200 at least.
EXAMPLES = {
    "parameters": 200,
    "images": 400,
    "training tensors": 40,
    "losses": 40,
    "official checkpoints": 60,
    "checkpoints": 60,
    "image files": 25,
    "texture and mask files": 40,
}


def generated(name, *strategies):
    """Run a function on generated inputs, and see to it that they were as many as promised."""

    def run(function):
        count = 0

        @settings(
            max_examples=EXAMPLES[name],
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.tuples(*strategies))
        def counted(values):
            nonlocal count
            count += 1
            function(*values)

        counted()
        assert count >= EXAMPLES[name]

    return run


def test_two_hundred():
    assert sum(EXAMPLES.values()) >= 200


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.integers(10**5, 10**30),
    st.floats(width=32),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 0.5, 1, 7, 8, 16, "mean", "last", "root", "none", b"1"]),
    st.text(max_size=4),
    st.complex_numbers(max_magnitude=2),
)
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.lists(st.integers(-2, 3), max_size=4).map(tuple))
COMPONENTS = {"pre_processor", "post_processor", "evaluator", "visualizer"}
names = st.sampled_from(sorted({*TransFusion(base_channels=8).hparams, *COMPONENTS}))


def test_parameters(tiny):
    """A value of any type is refused by name, or gives a model that works."""
    image = torch.rand(2, 3, 20, 18, generator=torch.Generator().manual_seed(0))

    @generated("parameters", names, values)
    def _check(name, value):
        try:
            model = tiny(image_size=(16, 16), **{name: value}).eval()
        except (ValueError, TypeError) as error:
            # What the components of anomalib are is checked by anomalib, and said in types.
            component = name in COMPONENTS
            assert component or f"{name}=" in str(error), (name, value, error)  # noqa: PT017
            assert component or len(str(error)) > len(f"{name}={value!r}"), (name, value, error)  # noqa: PT017
            return
        scores = model.model(torch.nn.functional.interpolate(image, (16, 16))).pred_score
        assert scores.shape == (2,)
        assert scores.isfinite().all()


@pytest.fixture(scope="module")
def network():
    """Return a small network in evaluation mode."""
    torch.manual_seed(0)
    parameters = {name: value for name, value in TINY.items() if name not in {"texture_source", "learning_rate"}}
    return part(TransFusionModel, **parameters).eval()


dtypes = st.sampled_from([torch.float32] * 3 + [torch.uint8, torch.int64, torch.bool, torch.float64, torch.complex64])
sides = st.sampled_from([0, 1, 2, 3, 4, 8])
shapes = st.one_of(
    st.tuples(st.integers(0, 3), st.just(3), sides, sides),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 8]), max_size=5).map(tuple),
)


def test_images(network):
    """Shapes, types and values are checked."""

    @generated("images", shapes, dtypes, st.sampled_from([0.5, 255.0, math.nan, math.inf]))
    def _check(shape, dtype, value):
        images = torch.full(shape, 0.5).to(dtype)
        if images.numel() and dtype.is_floating_point:
            images.view(-1)[-1] = value
        try:
            result = network(images)
        except (ValueError, TypeError) as error:
            fits = len(shape) == 4 and shape[1] == 3 and all(side and side % 2 == 0 for side in shape[2:]) and shape[0]
            if fits and dtype.is_floating_point and value != 0.5:
                assert "have values from" in str(error)  # noqa: PT017
                return
            if shape == (1, 3, 2, 2) and dtype in {torch.float32, torch.float64}:
                # One pixel at the lowest resolution, one channel a group: PyTorch refuses to normalize a single value.
                assert "more than 1 value per channel" in str(error)  # noqa: PT017
                return
            assert not (fits and dtype.is_floating_point)
            assert any(word in str(error) for word in (str(shape), str(dtype), "multiples of 2"))  # noqa: PT017
            return
        # Images in double precision are converted to that of the weights.
        assert dtype in {torch.float32, torch.float64}
        assert result.anomaly_map.shape == (shape[0], 1, *shape[2:])
        assert value == 0.5
        assert result.pred_score.isfinite().all()


def test_what_is_no_tensor(network):
    for images in (None, np.zeros((1, 3, 8, 8), np.float32), [[1.0]], "image.png"):
        with pytest.raises(TypeError, match=r"expected a tensor of shape \(B, 3, H, W\)"):
            network(images)


small_shapes = st.one_of(
    st.sampled_from([(2, 1, 8, 8), (2,)]),
    st.lists(st.sampled_from([1, 2, 3, 8]), max_size=4).map(tuple),
)


def test_training_tensors(network):
    """Of another shape they would be broadcast, or fail deep inside of the network."""
    network.train()
    image = torch.zeros(2, 3, 8, 8)

    @generated("training tensors", small_shapes, small_shapes)
    def _check(mask, timestep):
        arguments = image, torch.zeros(mask), torch.ones(timestep, dtype=torch.long)
        if mask == (2, 1, 8, 8) and timestep == (2,):
            assert network(*arguments).normal.shape == image.shape
            return
        with pytest.raises(ValueError, match=r"(previous_mask|timestep) has shape .*; expected"):
            network(*arguments)

    network.eval()


def test_losses():
    """The same for what the loss compares."""
    fitting = [(2, 3, 8, 8), (2, 3, 8, 8), (2, 1, 8, 8)] * 2

    @generated("losses", st.integers(0, 7), st.lists(st.sampled_from([1, 2, 3, 8]), max_size=4).map(tuple))
    def _check(place, shape):
        shapes = [*fitting, (2, 1, 1, 1), (2, 1, 1, 1)]
        fits = shapes[place] == shape
        shapes[place] = shape
        tensors = [torch.full(shape, 0.5) for shape in shapes]
        arguments = Prediction(*tensors[:3]), Target(*tensors[3:6]), torch.zeros(2, 3, 8, 8), *tensors[6:]
        if fits:
            assert part(TransFusionLoss)(*arguments).total.isfinite()
            return
        with pytest.raises(ValueError, match=r"has shape .*; expected"):
            part(TransFusionLoss)(*arguments)


# What happens to a file: it ends early, a few bits are turned, or it is something else altogether.
damages = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 0.999)),
    st.tuples(st.just("turn"), st.lists(st.floats(0, 0.999), min_size=1, max_size=4)),
    st.tuples(st.just("replace"), st.binary(max_size=64)),
)


def damaged(content, damage):
    """Return the content of a file after its damage."""
    kind, where = damage
    if kind == "cut":
        return content[: int(where * len(content))]
    if kind == "replace":
        return where
    result = bytearray(content)
    for place in where:
        result[int(place * len(content))] ^= 0x41
    return bytes(result)


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_official_checkpoints(network, suffix, tmp_path):
    path = tmp_path / f"official{suffix}"
    state = export_official(network.network)
    {".pkl": torch.save, ".safetensors": save_file}[suffix](state, path)
    content = path.read_bytes()

    @generated("official checkpoints", damages)
    def _check(damage):
        path.write_bytes(damaged(content, damage))
        try:
            model = TransFusion.from_official_checkpoint(path, timesteps=4, visualizer=False)
        except ValueError as error:
            assert str(path) in str(error) or "model." in str(error)  # noqa: PT017
            return
        # Turned bits within the weights of safetensors cannot be noticed; the network is the right one all the same.
        assert {name: tensor.shape for name, tensor in export_official(model.model.network).items()} == {
            name: tensor.shape for name, tensor in state.items()
        }


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    """Return the file and the content of a checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    model = TransFusion(**TINY, visualizer=False, pre_processor=TransFusion.configure_pre_processor((16, 16)))
    model.model.load_state_dict(network.state_dict())
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path, path.read_bytes()


def test_checkpoints(checkpoint, tmp_path):
    """Damaged files, and files whose content is not what it should be."""
    content = checkpoint[1]
    path = tmp_path / "model.ckpt"
    junk = st.sampled_from([None, 3, "text", [], {}, [1, 2], {"a": 1}, math.nan])
    changes = st.tuples(st.sampled_from(["drop", "junk"]), st.integers(0, 10**6), junk)

    @generated("checkpoints", st.one_of(damages, changes))
    def _check(change):
        if change[0] in {"drop", "junk"}:
            saved = torch.load(io.BytesIO(content), weights_only=True)
            top = list(saved)
            inner = [(key, name) for key in ("state_dict", "hyper_parameters") for name in saved[key]]
            places = [(saved, name) for name in top * 4] + [(saved[key], name) for key, name in inner]
            holder, name = places[change[1] % len(places)]
            holder.pop(name) if change[0] == "drop" else holder.__setitem__(name, change[2])
            torch.save(saved, path)
        else:
            path.write_bytes(damaged(content, change))
        try:
            model = TransFusion.load_from_checkpoint(path).eval()
        except (ValueError, TypeError, RuntimeError) as error:
            said = ("checkpoint", "=", "state_dict", "transform", "Invalid version")
            assert any(word in str(error) for word in said), (change, error)  # noqa: PT017
            return
        assert model.model(torch.zeros(1, 3, 16, 16)).pred_score.shape == (1,)


def picture(size=(24, 20)):
    """Return the content of a PNG."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_image_files(tiny, tmp_path):
    path = tmp_path / "images/image.png"
    path.parent.mkdir()
    content = picture()
    model = tiny(image_size=(16, 16))

    @generated("image files", damages)
    def _check(damage):
        path.write_bytes(damaged(content, damage))
        engine = Engine(
            default_root_dir=tmp_path / "results",
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
        )
        try:
            [batch] = engine.predict(model, dataset=PredictDataset(path.parent))
        except ValueError as error:
            assert f"The image {path} cannot be read" in str(error)  # noqa: PT017
            return
        assert batch.anomaly_map.isfinite().all()


def test_texture_and_mask_files(tmp_path):
    content = picture()
    for folder in ("textures", "masks"):
        (tmp_path / folder).mkdir()
    texture, mask = tmp_path / "textures/0.png", tmp_path / "masks/0.png"

    def read_texture():
        return TextureBank.from_folder(texture.parent, 16).sample(1)

    def read_mask():
        return ForegroundMasks.from_folder(mask.parent, 16).lookup(["good/0.png"])

    @generated("texture and mask files", st.sampled_from([(texture, read_texture, 3), (mask, read_mask, 1)]), damages)
    def _check(kind, damage):
        path, read, channels = kind
        path.write_bytes(damaged(content, damage))
        try:
            result = read()
        except ValueError as error:
            assert str(Path(path)) in str(error)  # noqa: PT017
            return
        assert result.shape == (1, channels, 16, 16)
        assert 0 <= result.min() <= result.max() <= 1
