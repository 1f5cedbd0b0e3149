# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Our model gives what the plain path, an independent way to compute the same, gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from torch import nn

from anomalib_transfusion.models.transfusion.loss import TransFusionLoss
from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from anomalib_transfusion.models.transfusion.transparency import forward_process, transparency_schedule
from anomalib_transfusion.synthesis.sources import PHOTOGRAPHS
from parts import part
from paths import REFERENCE, needs_reference
from plain_path import plain_copy, plain_network, plain_reverse_process, plain_synthesis, plain_training_step

TEXTURES = [Path(skimage.__file__).parent / "data" / name for name in PHOTOGRAPHS[:4]]
NETWORK = {"base_channels": 16, "channel_multipliers": (1, 2, 2), "num_blocks": 1, "attention_levels": (-2, -1)}


def build(seed: int = 1, **parameters) -> TransFusionModel:
    """Build a model whose masks are neither all zero nor all one."""
    torch.manual_seed(seed)
    model = part(TransFusionModel, **{"timesteps": 6, "precision": "single", **NETWORK, **parameters})
    model.network.mask_head.conv.weight.data.mul_(20)
    return model


def photograph(batch: int, height: int, width: int) -> torch.Tensor:
    """Cut images out of a photograph."""
    astronaut = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1) / 255
    return torch.stack([astronaut[:, 60 * i : 60 * i + height, 90 : 90 + width] for i in range(batch)])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (20, 96)])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"mask_aggregation": "last", "filter_size": 3, "discriminative_weight": 0.5},
        {"start_timestep": 4, "mask_divisor": 5, "positional_encoding": False},
        {"num_inference_steps": 2, "previous_mask": False, "schedule": "quadratic"},
    ],
)
def test_same_maps(height, width, parameters):
    model = build(**parameters).eval()
    images = photograph(3, height, width)
    predictions, process = model.predict(images)
    mask, reconstruction, anomaly_map = plain_reverse_process(plain_copy(model), images)
    assert 0.05 < (process.mask > 0.5).float().mean() < 0.95, "masks of one value would hide differences"
    torch.testing.assert_close(process.mask, mask, rtol=0, atol=1e-4)
    torch.testing.assert_close(process.reconstruction, reconstruction, rtol=0, atol=1e-4)
    torch.testing.assert_close(predictions.anomaly_map, anomaly_map, rtol=0, atol=1e-4)


def test_modules_of_ours_are_not_run():
    model = build().eval()
    copied = plain_copy(model)
    called = []
    for module in copied.modules():
        module.register_forward_pre_hook(lambda module, _: called.append(type(module)))
    plain_reverse_process(copied, photograph(1, 32, 32))
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.GroupNorm, nn.BatchNorm2d, nn.Identity)
    assert called
    assert set(called) <= set(layers)


def losses(steps: int, **parameters) -> tuple[list[float], list[float]]:
    """Train our model and the plain path from the same weights, on the same samples."""
    ours = build(**parameters).train()
    plain = plain_copy(ours).train()
    loss = part(TransFusionLoss)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-4) for model in (ours, plain)]
    random = np.random.default_rng(0)
    history: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps):
        sample = plain_synthesis(photograph(4, 32, 32), ours.beta, TEXTURES, random)
        beta, next_beta = (ours.beta[sample.timestep - back].view(-1, 1, 1, 1) for back in (0, 1))
        prediction = ours(sample.x_t, sample.previous_mask, sample.timestep)
        terms = (
            loss(prediction, sample.target, sample.x_t, beta, next_beta),
            plain_training_step(plain, loss, sample),
        )
        for term, optimizer, values in zip(terms, optimizers, history, strict=True):
            optimizer.zero_grad()
            term.total.backward()
            optimizer.step()
            values.append(term.total.item())
    return history


def test_same_losses():
    ours, plain = losses(8)
    assert ours == pytest.approx(plain, abs=1e-3)
    assert len(set(ours)) == 8


@pytest.mark.slow
def test_same_losses_for_200_steps():
    ours, plain = losses(200)
    assert ours == pytest.approx(plain, abs=1e-3)
    assert np.mean(ours[-20:]) < 0.9 * np.mean(ours[:20])


def test_same_gradients():
    ours = build().train()
    plain = plain_copy(ours)
    inputs = (photograph(2, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32), torch.tensor([1, 4]))
    for prediction in (ours(*inputs), plain_network(plain.network, *inputs)):
        sum(head.square().mean() for head in prediction).backward()
    gradients = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        wanted = gradients[name].grad
        # Sums over many pixels: what rounding leaves is in proportion to the largest of a tensor, not to each element.
        atol = 2e-5 * max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=atol, msg=name)


def test_samples_follow_the_paper():
    images, beta = photograph(6, 64, 64), transparency_schedule(6, "linear")
    random = np.random.default_rng(1)
    anomalous = last = 0
    for _ in range(15):
        sample = plain_synthesis(images, beta, TEXTURES, random, rotation_probability=0)
        target, opaque = sample.target, sample.timestep == 5
        torch.testing.assert_close(target.normal, images * 2 - 1)
        strength = beta[sample.timestep].view(-1, 1, 1, 1)
        x_t = forward_process(target.normal, target.anomaly, target.mask, strength)
        torch.testing.assert_close(sample.x_t, x_t, rtol=0, atol=1e-6)
        assert target.mask[3:].sum() == sample.previous_mask[3:].sum() == target.anomaly[3:].abs().sum() == 0
        assert sample.previous_mask[opaque].sum() == 0
        assert target.anomaly[(target.mask == 0).expand_as(target.anomaly)].abs().sum() == 0
        assert target.anomaly.abs().max() <= 1
        assert set(target.mask.unique().tolist()) <= {0.0, 1.0}
        anomalous += int(target.mask[:3].flatten(1).any(1).sum())
        last += int(opaque.sum())
    assert anomalous > 30
    assert 5 < last < 35


def test_rotation_takes_all_of_a_sample_along():
    images, beta = torch.ones(2, 3, 64, 64), transparency_schedule(2, "linear")
    sample = plain_synthesis(images, beta, TEXTURES, np.random.default_rng(3), rotation_probability=1)
    outside = (sample.target.normal == 0).all(dim=1, keepdim=True)
    assert outside.any()
    assert sample.x_t[outside.expand(-1, 3, -1, -1)].abs().sum() == 0
    x_t = forward_process(sample.target.normal, sample.target.anomaly, sample.target.mask, torch.ones(1))
    torch.testing.assert_close(sample.x_t, x_t, rtol=0, atol=1e-6)


@needs_reference
def test_areas_of_masks_are_the_published_ones():
    published = json.loads((REFERENCE / "official_mask_statistics.json").read_text())
    random = np.random.default_rng(0)
    beta = transparency_schedule(20, "linear")
    areas = []
    for _ in range(100):
        sample = plain_synthesis(torch.zeros(8, 3, 112, 112), beta, (), random, rotation_probability=0)
        areas += sample.target.mask[:4].mean(dim=(1, 2, 3)).tolist()
    mean, deviation = np.mean(areas), np.std(areas) / len(areas) ** 0.5
    assert mean == pytest.approx(published["mask_area_fraction"]["mean"], abs=4 * deviation)
