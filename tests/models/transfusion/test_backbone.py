# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What is not in the paper: features of a pretrained backbone, patches, normalized attention, more first steps."""

import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.data.utils.tiler import Tiler
from anomalib.engine import Engine

from anomalib_transfusion import TransFusion, TransFusionModel
from anomalib_transfusion.models.transfusion.official import export_official
from anomalib_transfusion.models.transfusion.training_sample import TrainingSampler
from anomalib_transfusion.models.transfusion.transparency import transparency_schedule
from anomalib_transfusion.models.transfusion.unet import AttentionBlock, ResUNet
from parts import part

BACKBONE = "test_efficientnet"
NETWORK = {"base_channels": 8, "channel_multipliers": (1, 2, 2), "num_blocks": 2, "attention_levels": (-1,)}


def network(**parameters):
    torch.manual_seed(0)
    return part(ResUNet, **{**NETWORK, **parameters}).eval()


@pytest.fixture
def inputs():
    random = torch.Generator().manual_seed(1)
    x_t, mask = torch.rand(2, 3, 32, 48, generator=random) * 2 - 1, torch.rand(2, 1, 32, 48, generator=random)
    return x_t, (mask > 0.5).float(), torch.tensor([1, 5])


def with_weights(model):
    """Return a model whose backbone has its random weights as the pretrained ones."""
    backbone = model.model.network.features.backbone
    backbone.load(backbone.network.state_dict())
    return model


def engine(folder, **arguments):
    settings = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, **arguments}
    return Engine(default_root_dir=folder, **settings)


def test_without_them_nothing_changes():
    """The other weights are drawn as without a backbone, and the paper's network has no others."""
    plain, extended = network().state_dict(), network(backbone=BACKBONE).state_dict()
    assert not any(
        key.startswith("features.") or "_norm." in key.split("attention")[-1] for key in plain if "attention" in key
    )
    assert all(torch.equal(extended[key], weight) for key, weight in plain.items())
    assert all(key.startswith("features.") for key in extended.keys() - plain.keys())


@torch.no_grad()
def test_features_are_added_behind_the_first_block(inputs):
    """Strides 4, 8 and 16 of the backbone; the levels have 1, 2 and 4: coarser ones are enlarged."""
    model = network(backbone=BACKBONE)
    before, after = [], []
    blocks = model.encoder[2].blocks
    blocks[0].register_forward_hook(lambda _module, _arguments, output: before.append(output))
    blocks[1].register_forward_pre_hook(lambda _module, arguments: after.append(arguments[0]))
    model(*inputs)
    expected = before[0]
    part = model.features
    for features, norm, project, enlargement in zip(
        part.backbone(inputs[0]),
        part.norms,
        part.projections,
        (1, 2, 4),
        strict=True,
    ):
        normal = (features - norm.mean[:, None, None]) / (norm.variance[:, None, None] + 1e-5).sqrt()
        weight, bias = project.weight[:, :, 0, 0], project.bias[:, None, None]
        added = torch.einsum("oc,bchw->bohw", weight, normal) + bias
        expected = expected + added.repeat_interleave(enlargement, 2).repeat_interleave(enlargement, 3)
    torch.testing.assert_close(after[0], expected, rtol=1e-4, atol=1e-5)
    for projection in part.projections:
        projection.weight.zero_()
        projection.bias.zero_()
    for given, wanted in zip(model(*inputs), network()(*inputs), strict=True):
        torch.testing.assert_close(given, wanted)


@torch.no_grad()
def test_layers_go_to_the_level_of_their_stride(inputs):
    model = network(backbone=BACKBONE, backbone_layers=["blocks.0", "blocks.1"], patch_size=2)
    assert (model.features.levels, model.features.enlargements, model.stride) == ([0, 1], [1, 1], 8)
    seen = [[], [], []]
    for level, levels in zip(model.encoder, seen, strict=True):
        level.register_forward_pre_hook(lambda _module, arguments, levels=levels: levels.append(arguments[3]))
    model(*inputs)
    assert [None if value is None else tuple(value.shape[1:]) for [value] in seen] == [(8, 16, 24), (16, 8, 12), None]


@torch.no_grad()
def test_patches(inputs):
    """Each 2x2 pixels of a channel are four channels of the network, and the other way round behind it."""
    model = network(patch_size=2)
    assert model.stride == 8
    seen, heads = [], []
    model.input_projection.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    model.mask_head.register_forward_hook(lambda _module, _arguments, output: heads.append(output))
    prediction = model(*inputs)
    assert seen[0].shape == (2, 20, 16, 24)
    for row in (0, 1):
        for column in (0, 1):
            for channel, whole in ((0, inputs[0][:, 0]), (2, inputs[0][:, 2]), (3, inputs[1][:, 0])):
                assert torch.equal(seen[0][:, 4 * channel + 2 * row + column], whole[:, row::2, column::2])
            assert torch.equal(prediction.mask_logits[:, 0, row::2, column::2], heads[0][:, 2 * row + column])
    assert [tuple(head.shape) for head in prediction] == [(2, 3, 32, 48), (2, 3, 32, 48), (2, 1, 32, 48)]


@torch.no_grad()
def test_normalized_attention():
    torch.manual_seed(0)
    block = AttentionBlock(8, qk_norm=True)
    x = torch.randn(2, 8, 3, 4)
    tokens = x.flatten(2).transpose(1, 2)
    query, key, value = (tokens @ block.projection.weight.T + block.projection.bias).chunk(3, dim=-1)
    query, key = (
        (part - part.mean(-1, keepdim=True)) / (part.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        for part in (query, key)
    )
    weights = (query @ key.transpose(1, 2) / 8**0.5).softmax(dim=-1)
    expected = tokens + (weights @ value) @ block.output.weight.T + block.output.bias
    torch.testing.assert_close(block(x).flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)
    # However large queries and keys become, their products stay.
    block.projection.weight[:16] *= 1e6
    block.projection.bias[:16] *= 1e6
    torch.testing.assert_close(block(x).flatten(2).transpose(1, 2), expected, rtol=1e-3, atol=1e-3)


def test_first_step_share():
    beta = transparency_schedule(20, "linear")
    images = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def timesteps(**parameters):
        torch.manual_seed(0)
        sampler = part(TrainingSampler, dtd_dir="unused", texture_source="none", rotation_probability=0, **parameters)
        sampler.build((8, 8))
        return sampler(images, beta).timestep

    assert set(timesteps(first_step_share=1).tolist()) == {19}
    assert set(timesteps(first_step_share=1, start_timestep=18).tolist()) == {18}
    half = timesteps(first_step_share=0.5)
    assert 0.45 < (half == 19).float().mean() < 0.62
    assert set(half.tolist()) == set(range(1, 20))
    assert (timesteps() == 19).float().mean() < 0.1


def test_trains_and_its_checkpoint_needs_no_weights(tiny, surface, surface_root, tmp_path):
    """A backbone without pretrained weights: whatever asked for them would fail."""
    parameters = {"backbone": "mobilenetv2_035", "patch_size": 2, "qk_norm": True, "num_inference_steps": 1}
    with pytest.raises(OSError, match="mobilenetv2_035"):
        engine(tmp_path).fit(tiny(**parameters), datamodule=surface)
    model = with_weights(tiny(**parameters))
    backbone = model.model.network.features.backbone
    frozen = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    first = engine(tmp_path)
    first.fit(model, datamodule=surface)
    optimized = {id(p) for group in first.trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in model.model.parameters()} - {id(p) for p in backbone.parameters()}
    assert all(torch.equal(frozen[name], tensor) for name, tensor in backbone.state_dict().items())
    assert model.model.network.features.norms[0].batches == 4

    loaded = TransFusion.load_from_checkpoint(first.best_model_path).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images).anomaly_map, model.eval()(images).anomaly_map)
    fresh = tiny(**parameters)
    [batch, *_] = engine(tmp_path).predict(
        fresh,
        dataset=PredictDataset(surface_root / "brick/test/good"),
        ckpt_path=first.best_model_path,
    )
    assert torch.isfinite(batch.anomaly_map).all()
    engine(tmp_path, max_epochs=2).fit(tiny(**parameters), datamodule=surface, ckpt_path=first.best_model_path)


@pytest.mark.parametrize("memory_size", [0, 8])
def test_tiles_and_compilation(inputs, memory_size):
    torch.manual_seed(0)
    parameters = {"backbone": BACKBONE, "patch_size": 2, "memory_size": memory_size}
    model = part(TransFusionModel, **NETWORK, timesteps=4, precision="single", **parameters).eval()
    images = (inputs[0] + 1) / 2
    if memory_size:
        with torch.no_grad():
            vectors = model.network.features.embed(inputs[0].roll(5, 3)).permute(0, 2, 3, 1).flatten(0, 2)
        model.network.features.memory.fill(vectors.repeat(10, 1), vectors + 0.1, lambda _, count: list(range(count)))
    whole = model(images[:, :, :16, :16]).anomaly_map
    model.tiler = Tiler(16, 16)
    process = model.reverse_process(images)
    model.tiler = None
    alone = model.reverse_process(images[:, :, :16, :16])
    torch.testing.assert_close(process.mask[:, :, :16, :16], alone.mask)
    model.network.compile(backend="eager")
    torch.testing.assert_close(model(images[:, :, :16, :16]).anomaly_map, whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_evaluates_in_other_precisions(inputs, dtype):
    torch.manual_seed(0)
    model = part(TransFusionModel, **NETWORK, timesteps=4, precision="single", backbone=BACKBONE, qk_norm=True).eval()
    images = (inputs[0] + 1) / 2
    expected = model(images).anomaly_map
    assert torch.isfinite(expected).all()
    atol = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float64: 1e-4}[dtype]
    torch.testing.assert_close(model.to(dtype)(images).anomaly_map.float(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("trained", "present", "message"),
    [
        ({"backbone": BACKBONE}, {}, f"trained with backbone={BACKBONE}, but this model has backbone=None"),
        ({}, {"backbone": BACKBONE}, f"trained with backbone=None, but this model has backbone={BACKBONE}"),
        ({"backbone": "resnet18"}, {"backbone": BACKBONE}, f"with backbone=resnet18, but .* backbone={BACKBONE}"),
        ({}, {"patch_size": 2}, "trained with patch_size=1, but this model has patch_size=2"),
        ({}, {"qk_norm": True}, "trained with qk_norm=False, but this model has qk_norm=True"),
        (
            {"backbone": BACKBONE, "backbone_layers": ["blocks.1"]},
            {"backbone": BACKBONE, "backbone_layers": ["blocks.2"]},
            r"trained with backbone_layers=\('blocks.1',\)",
        ),
    ],
)
def test_checkpoints_of_other_networks_are_refused(tiny, trained, present, message):
    """Those of before there were these parameters as well: they had the paper's network."""
    model = tiny(**trained)
    hparams = dict(model.hparams)
    old = {key: value for key, value in hparams.items() if key not in {"patch_size", "qk_norm", "backbone"}}
    same = {key: tuple(value) if isinstance(value, list) else value for key, value in trained.items()}
    for kept in [hparams] if trained else [hparams, old]:
        checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": kept}
        with pytest.raises(ValueError, match=message):
            tiny(**present).on_load_checkpoint(checkpoint)
        tiny(**same).on_load_checkpoint(checkpoint)


def test_sides_must_be_multiples_of_patches_and_strides():
    model = part(TransFusionModel, **NETWORK, patch_size=3).eval()
    with pytest.raises(ValueError, match=r"16x16 pixels .* multiples of 12\. The nearest sizes are 12x12 or 24x24"):
        model(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="multiples of 16"):
        part(TransFusionModel, **NETWORK, backbone=BACKBONE).eval()(torch.rand(1, 3, 24, 24))


def test_the_authors_have_none_of_them():
    for parameters in ({"patch_size": 2}, {"qk_norm": True}, {"backbone": BACKBONE}):
        with pytest.raises(ValueError, match="Train one without them"):
            export_official(network(**parameters))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 48), None])
def test_exports(tmp_path, tiny, size):
    """As a loop over the timesteps; the backbone is in it, and its weights are there once."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = with_weights(tiny(backbone=BACKBONE, patch_size=2, qk_norm=True, channel_multipliers=(1, 2, 2))).eval()
    session = onnxruntime.InferenceSession(model.to_onnx(tmp_path, input_size=size))
    names = [output.name for output in session.get_outputs()]
    for images in (torch.rand(2, 3, 32, 48), *([torch.rand(1, 3, 48, 64)] if size is None else [])):
        values = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images.numpy()}), strict=True))
        wanted = model(images).anomaly_map.numpy()
        assert abs(values["anomaly_map"] - wanted).max() < 1e-3
