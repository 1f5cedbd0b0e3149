# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""A memory of normal features in TransFusion: how it enters the network and the map, and when it is filled."""

import numpy as np
import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from anomalib.deploy import CompressionType, TorchInferencer
from anomalib.engine import Engine
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion import DemoSurface, TransFusion, TransFusionModel
from anomalib_transfusion.models.transfusion.memory import FillsMemory, covering
from anomalib_transfusion.models.transfusion.unet import ResUNet
from conftest import SURFACE
from parts import part

BACKBONE = "test_efficientnet"
NETWORK = {"base_channels": 8, "channel_multipliers": (1, 2, 2), "num_blocks": 1, "attention_levels": (-1,)}
# Layers of stride 8 and 16 are compared; the network's coarsest level has 4.
PARAMETERS = {"backbone": BACKBONE, "memory_size": 12}


def engine(folder, **arguments):
    settings = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, **arguments}
    return Engine(default_root_dir=folder, **settings)


def with_weights(model):
    """Return a model whose backbone has its random weights as the pretrained ones."""
    backbone = model.model.network.features.backbone
    backbone.load(backbone.network.state_dict())
    return model


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(images):
    """Return a network with features of some images in its memory."""
    torch.manual_seed(0)
    network = part(ResUNet, **NETWORK, **PARAMETERS).eval()
    with torch.no_grad():
        vectors = torch.cat([v.flatten(1).T for v in network.features.embed(1 - 2 * images.roll(1, 0))])
        network.features.memory.fill(vectors.repeat(20, 1), vectors + 0.1, lambda _, number: list(range(number)))
    return network


@torch.no_grad()
def test_without_it_nothing_changes():
    torch.manual_seed(0)
    plain = part(ResUNet, **NETWORK, backbone=BACKBONE).state_dict()
    torch.manual_seed(0)
    extended = part(ResUNet, **NETWORK, **PARAMETERS).state_dict()
    assert all(torch.equal(extended[key], weight) for key, weight in plain.items())
    added = {"features.memory.", "features.memory_projection", "evidence"}
    assert {next(name for name in added if key.startswith(name)) for key in extended.keys() - plain.keys()} == added


@torch.no_grad()
def test_how_it_enters(network, images):
    """The logits of the mask begin at half of three deviations; the same goes into the coarsest level."""
    x_t, mask, timestep = 2 * images - 1, torch.zeros(2, 1, 32, 48), torch.tensor([1, 5])
    network.features.memory_projection.weight.zero_()
    network.features.memory_projection.bias.zero_()
    found = network(x_t, mask, timestep)
    distance = network.features.memory(network.features.backbone(x_t)[-2:])
    assert distance.shape == (2, 1, 4, 6)
    logits = F.interpolate((distance - 3) / 1.5, size=(32, 48), mode="bilinear")
    torch.testing.assert_close(found.memory, torch.sigmoid(logits))
    network.evidence.weight.zero_()
    torch.testing.assert_close(found.mask_logits, network(x_t, mask, timestep).mask_logits + logits)

    seen = []
    network.encoder[2].register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[3]))
    network(x_t, mask, timestep)
    network.features.memory_projection.weight.fill_(2)
    network.features.memory_projection.bias.fill_(1)
    network(x_t, mask, timestep)
    wanted = (2 * (distance - 3) / 1.5 + 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(seen[1] - seen[0], wanted.expand(-1, 16, -1, -1), rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("aggregation", "steps"), [("mean", 3), ("last", 3), ("mean", 1)])
def test_how_it_enters_the_map(network, images, aggregation, steps):
    """The mean of both masks with the weight of the memory, in every step; the reverse process has the network's."""
    parameters = {**NETWORK, **PARAMETERS, "timesteps": 4, "mask_aggregation": aggregation, "precision": "single"}
    model = part(TransFusionModel, **parameters, memory_weight=3, num_inference_steps=steps).eval()
    model.network.load_state_dict(network.state_dict())
    seen, masks = [], []
    model.network.register_forward_hook(lambda _module, _arguments, output: seen.append(output))
    found = model.reverse_process(images, lambda step: masks.append(step.mask))
    both = [(out.mask_logits.sigmoid() + 3 * out.memory) / 4 for out in seen]
    expected = both[-1] if aggregation == "last" else sum(both) / steps
    torch.testing.assert_close(found.mask, expected)
    torch.testing.assert_close(masks[-1], seen[-1].mask_logits.sigmoid())
    model.memory_weight = 0.0
    alone = [out.mask_logits.sigmoid() for out in seen]
    expected = alone[-1] if aggregation == "last" else sum(alone) / steps
    torch.testing.assert_close(model.reverse_process(images).mask, expected)


def test_it_is_filled_once(tiny, surface, tmp_path):
    """Before the first step, by features of the training images; all that comes later has the checkpoint's."""
    model = with_weights(tiny(**PARAMETERS, num_inference_steps=1))
    memory = model.model.network.features.memory
    assert not memory.filled
    first = engine(tmp_path)
    first.fit(model, datamodule=surface)
    assert memory.filled
    kept = {name: value.clone() for name, value in memory.state_dict().items()}
    dataset = surface.train_data
    with torch.no_grad():
        pixels = torch.stack([model.pre_processor.transform(dataset[i].image) for i in range(len(dataset))])
        of_all = torch.cat([v.flatten(1).T for v in model.model.network.features.embed(2 * pixels - 1)])
    back = kept["vectors"] * kept["channel_deviation"] + kept["channel_mean"]
    assert torch.cdist(back, of_all).amin(dim=1).max() < 1e-3
    optimized = {id(p) for group in first.trainer.optimizers[0].param_groups for p in group["params"]}
    assert id(model.model.network.evidence.weight) in optimized

    loaded = TransFusion.load_from_checkpoint(first.best_model_path).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images).anomaly_map, model.eval()(images).anomaly_map)
    resumed = tiny(**PARAMETERS, num_inference_steps=1)
    engine(tmp_path, max_epochs=2).fit(resumed, datamodule=surface, ckpt_path=first.best_model_path)
    again = resumed.model.network.features.memory.state_dict()
    assert all(torch.equal(again[name], value) for name, value in kept.items())


def test_each_vector_that_is_kept_is_the_farthest_from_those_before():
    vectors = 5 + torch.randn(300, 20, generator=torch.Generator().manual_seed(0))
    chosen = covering(vectors, 40)
    distances = torch.cdist(vectors.double(), vectors.double())
    for count in range(1, 40):
        nearest = distances[:, chosen[:count]].amin(dim=1)
        assert nearest[chosen[count]] == pytest.approx(nearest.max().item(), rel=1e-4)
    assert sorted(covering(vectors[:8], 8)) == list(range(8))


def test_what_is_rare_is_kept(tiny, category, tmp_path):
    """A label on one of 16 images, in 16 of its 256 vectors, of which two are drawn at random."""
    path = sorted((category / "train/good").glob("*"))[5]
    image = np.array(Image.open(path).convert("RGB"))
    image[32:40, 24:32] = np.indices((8, 8)).sum(axis=0)[..., None] // 2 % 2 * 255
    Image.fromarray(image).save(path)
    data = DemoSurface(root=category.parent, **SURFACE)
    model = with_weights(tiny((128, 128), backbone=BACKBONE, memory_size=12))
    engine(tmp_path, max_epochs=-1, max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    features = model.model.network.features
    images = torch.stack([model.pre_processor.transform(item.image) for item in data.train_data])
    with torch.no_grad():
        vectors = features.embed(2 * images - 1)
    assert vectors.shape[-2:] == (16, 16)
    labeled = features.memory.normalized(vectors[5, :, 7:11, 5:9].flatten(1).T)
    assert torch.cdist(features.memory.vectors, labeled).min() < 1e-3


def test_held_out_vectors_stay_held_out():
    """The order is the same each time, other for each image, and an eleventh of each is held out."""
    network = part(ResUNet, **NETWORK, **PARAMETERS).eval()
    images = torch.rand(3, 3, 80, 88, generator=torch.Generator().manual_seed(1))

    def found():
        with torch.no_grad():
            return list(FillsMemory._vectors(network.features, iter([images[:2], images[2:]])))

    first, second = found(), found()
    for (vectors, candidates, held_out), again in zip(first, second, strict=True):
        assert vectors.shape == (110, sum(network.features.backbone.channels[-2:]))
        assert len(held_out) == 10
        assert sorted([*candidates.tolist(), *held_out.tolist()]) == list(range(110))
        assert torch.equal(held_out, again[2])
        assert torch.equal(candidates, again[1])
    assert not torch.equal(first[0][2], first[1][2])


def test_of_tiles_where_the_network_sees_tiles(tiny, surface, tmp_path):
    """At the border of a tile features are others than in the whole image, and those of tiles are compared."""
    model = with_weights(tiny((64, 64), **PARAMETERS))
    tiles = TilerConfigurationCallback(enable=True, tile_size=32, stride=32)
    engine(tmp_path, max_epochs=-1, max_steps=1, limit_val_batches=0, callbacks=[tiles]).fit(model, datamodule=surface)
    features = model.model.network.features
    images = torch.stack([model.pre_processor.transform(item.image) for item in surface.train_data])
    whole = 2 * images - 1
    of_tiles = torch.cat([whole[:, :, row : row + 32, column : column + 32] for row in (0, 32) for column in (0, 32)])

    def distances(seen):
        with torch.no_grad():
            vectors = features.embed(seen).permute(0, 2, 3, 1).flatten(0, 2)
        # Without the matrix product, in which small distances are lost.
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(features.memory.vectors, features.memory.normalized(vectors), compute_mode=mode).amin(dim=1)

    assert distances(of_tiles).max() < 1e-3
    assert distances(whole).max() > 0.1


def test_its_choice_leaves_no_trace(tiny, surface, tmp_path):
    """Batches and anomalies are those of a training without a memory."""
    seen = []
    for number, parameters in enumerate(({}, {"memory_size": 12})):
        model = with_weights(tiny(backbone=BACKBONE, **parameters))
        drawn = []
        model.model.register_forward_pre_hook(lambda _module, arguments, drawn=drawn: drawn.append(arguments[0]))
        torch.manual_seed(0)
        engine(tmp_path / str(number)).fit(model, datamodule=surface)
        seen.append(drawn[0])
    assert torch.equal(*seen)


@pytest.mark.parametrize(
    ("trained", "present", "message"),
    [
        ({**PARAMETERS}, {"backbone": BACKBONE}, "trained with memory_size=12, but this model has memory_size=0"),
        ({"backbone": BACKBONE}, {**PARAMETERS}, "trained with memory_size=0, but this model has memory_size=12"),
    ],
)
def test_checkpoints_of_others_are_refused(tiny, trained, present, message):
    model = tiny(**trained)
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    with pytest.raises(ValueError, match=message):
        tiny(**present).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("passes", [None, 1])
def test_exports(tmp_path, tiny, surface, passes):
    """ONNX and OpenVINO give the maps of PyTorch, as a loop over the timesteps and with one."""
    onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    model = with_weights(tiny(**PARAMETERS, num_inference_steps=passes, patch_size=1 if passes is None else 2))
    engine(tmp_path, max_epochs=-1, max_steps=1, limit_val_batches=0).fit(model, datamodule=surface)
    model.post_processor = None
    model.eval()
    size = (32, 32)
    images = torch.rand(2, 3, *size)
    wanted = model(images)
    path = model.to_openvino(tmp_path, input_size=size)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(model.to_onnx(tmp_path, input_size=size))
    [onnx_map] = session.run(["anomaly_map"], {session.get_inputs()[0].name: images.numpy()})
    for found in (compiled(images.numpy())["anomaly_map"], onnx_map):
        torch.testing.assert_close(torch.from_numpy(found), wanted.anomaly_map, rtol=0, atol=1e-3)


@pytest.fixture
def fitted(tmp_path, tiny, surface):
    """Return a model of one pass after a step of training and a validation."""
    model = with_weights(tiny(**PARAMETERS, num_inference_steps=1))
    engine(tmp_path, max_epochs=-1, max_steps=1).fit(model, datamodule=surface)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("compression", "atol"), [(CompressionType.FP16, 5e-3), (CompressionType.INT8, 3e-2)])
def test_compressed_exports(tmp_path, fitted, surface, compression, atol):
    """The vectors that are compared with are kept well enough in 16 and in 8 bits."""
    openvino = pytest.importorskip("openvino")
    images = next(iter(surface.test_dataloader())).image
    images = F.interpolate(images, fitted.input_size)
    wanted = fitted(images)
    path = fitted.to_openvino(tmp_path, input_size=fitted.input_size, compression_type=compression)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = torch.from_numpy(compiled(images.numpy())["anomaly_map"])
    torch.testing.assert_close(found, wanted.anomaly_map, rtol=0, atol=atol)


@pytest.mark.slow
def test_torch_export(tmp_path, fitted, monkeypatch):
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    image = torch.rand(3, *fitted.input_size)
    wanted = fitted(image[None])
    given = TorchInferencer(fitted.to_torch(tmp_path), device="cpu").predict(image)
    torch.testing.assert_close(given.anomaly_map, wanted.anomaly_map[0], rtol=0, atol=1e-4)
