# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The losses of DiffusionAD by arithmetic, and where they must have a gradient."""

import math

import pytest
import torch

from anomalib_transfusion.models.diffusion_ad.loss import (
    DiffusionADLoss,
    Prediction,
    Target,
    cross_entropy,
    focal_loss,
    noise_loss,
)
from parts import part


def test_noise_loss_is_a_mean_over_scales_and_normal_samples():
    noise = torch.zeros(2, 3, 3, 4, 5)
    prediction = noise.clone()
    prediction[0, 0], prediction[1, 0], prediction[0, 1], prediction[:, 2] = 1, 2, 3, 100
    assert noise_loss(prediction, noise, torch.tensor([0.0, 0, 1])).item() == pytest.approx((1 + 4 + 9 + 0) / 4)


def test_an_anomalous_sample_trains_no_noise():
    prediction = torch.ones(2, 2, 3, 2, 2, requires_grad=True)
    noise_loss(prediction, torch.zeros_like(prediction), torch.tensor([0.0, 1])).backward()
    assert prediction.grad[:, 0].all()
    assert not prediction.grad[:, 1].any()


@pytest.mark.parametrize("from_logits", [False, True])
def test_focal_loss_by_hand(from_logits):
    logit, target = 0.7, 0.25
    probability = 1 / (1 + math.exp(-logit))
    entropy = -(target * math.log(probability) + (1 - target) * math.log(1 - probability))
    expected = 0.3 * (1 - math.exp(-entropy)) ** 2 * entropy
    found = focal_loss(cross_entropy(torch.tensor(logit), torch.tensor(target), from_logits), 0.3, 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_pixel_that_is_wrong_with_certainty_is_trained():
    """By the published form it is not: its probability is 1 in single precision."""
    slopes = []
    for from_logits in (True, False):
        logits = torch.tensor([25.0], requires_grad=True)
        focal_loss(cross_entropy(logits, torch.zeros(1), from_logits), 0.5, 4.0).sum().backward()
        slopes.append(logits.grad.item())
    assert slopes == [pytest.approx(0.5, rel=0.01), 0]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
def test_gradients_are_finite_where_the_loss_is_zero(gamma):
    logits = torch.tensor([200.0, -200.0, 0.0], requires_grad=True)
    focal_loss(cross_entropy(logits, torch.tensor([1.0, 0, 0.5]), from_logits=True), 0.5, gamma).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_weights():
    torch.manual_seed(0)
    noise, logits = torch.randn(2, 2, 3, 8, 8), torch.randn(2, 1, 8, 8)
    prediction = Prediction(torch.zeros_like(noise), torch.zeros(2, 3, 8, 8), logits)
    target = Target(noise, torch.rand(2, 1, 8, 8), torch.tensor([0.0, 1]))
    plain = part(DiffusionADLoss, noise_weight=1.0, focal_weight=1.0, smooth_l1_weight=1.0)(prediction, target)
    default = part(DiffusionADLoss)(prediction, target)
    assert default.focal.item() == pytest.approx(5 * plain.focal.item())
    assert plain.noise.item() == pytest.approx(noise[:, 0].square().mean().item())
    assert default.total.item() == pytest.approx((plain.noise + 5 * plain.focal + plain.smooth_l1).item())
    published = part(DiffusionADLoss, noise_weight=2.0)(prediction, target)
    assert published.noise.item() == pytest.approx(noise[:, 0].square().mean(dim=(1, 2, 3)).sum().item())
