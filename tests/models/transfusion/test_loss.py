# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The loss terms against sums written out, and the facts of the recipe that live in them."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from anomalib_transfusion.models.transfusion.loss import Target, TransFusionLoss, ssim_loss
from anomalib_transfusion.models.transfusion.unet import Prediction
from parts import part

BETA, NEXT_BETA = torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 0.25)


@pytest.fixture
def case():
    """Two by two pixels, so that every sum can be written out."""
    target = Target(
        normal=torch.full((1, 3, 2, 2), 0.2),
        anomaly=torch.tensor([[0.8, 0.0], [0.0, 0.0]]).expand(1, 3, 2, 2),
        mask=torch.tensor([[1.0, 0.0], [0.0, 0.0]]).view(1, 1, 2, 2),
    )
    prediction = Prediction(
        anomaly=torch.full((1, 3, 2, 2), 0.3),
        normal=torch.full((1, 3, 2, 2), 0.1),
        mask_logits=torch.tensor([[2.0, -1.0], [1.0, -2.0]]).view(1, 1, 2, 2),
    )
    return prediction, target, torch.full((1, 3, 2, 2), 0.4)


def compute(case, **weights):
    prediction, target, x_t = case
    return part(TransFusionLoss, **weights)(prediction, target, x_t, BETA, NEXT_BETA)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_mask_term(case):
    """Focal loss with alpha 0.25 and gamma 2, five times, and smooth L1 of the probability."""
    focal, smooth = [], []
    for logit, truth in ((2.0, 1), (-1.0, 0), (1.0, 0), (-2.0, 0)):
        p = sigmoid(logit)
        right, alpha = (p, 0.25) if truth else (1 - p, 0.75)
        focal.append(alpha * (1 - right) ** 2 * -math.log(right))
        smooth.append(0.5 * (p - truth) ** 2)
    assert compute(case).mask.item() == pytest.approx(5 * sum(focal) / 4 + sum(smooth) / 4, rel=1e-5)
    assert compute(case, focal_weight=0).mask.item() == pytest.approx(sum(smooth) / 4, rel=1e-5)


def test_anomaly_term_aims_at_beta_times_the_anomaly(case):
    # One pixel aims at 0.5 * 0.8, three at 0.
    expected = ((0.3 - 0.5 * 0.8) ** 2 + 3 * 0.3**2) / 4
    assert compute(case).anomaly.item() == pytest.approx(expected, rel=1e-5)


def test_normal_term_is_ssim_and_l1(case):
    prediction, target, _ = case
    expected = ssim_loss(prediction.normal, target.normal).item() + 0.1
    assert compute(case).normal.item() == pytest.approx(expected, rel=1e-5)


def test_consistency_term(case):
    # The step changes beta from 0.5 to 0.25. Predicted masks are on in the first and the third pixel, the true one in
    # the first: x - 0.25 / 0.5 * anomaly + 0.25 * normal.
    def step(on, anomaly, normal):
        return 0.4 - 0.5 * on * anomaly + 0.25 * on * normal

    predicted = [step(on, 0.3, 0.1) for on in (1, 0, 1, 0)]
    actual = [step(on, 0.5 * 0.8, 0.2) for on in (1, 0, 0, 0)]
    expected = sum((a - b) ** 2 for a, b in zip(predicted, actual, strict=True)) / 4
    assert compute(case).consistency.item() == pytest.approx(expected, rel=1e-5)


def test_total_and_switched_off_terms(case):
    losses = compute(case)
    assert losses.total.item() == pytest.approx(sum(loss.item() for loss in losses[1:]), rel=1e-6)
    for name in ("normal", "mask", "anomaly", "consistency"):
        without = compute(case, **{f"{name}_weight": 0.0})
        assert getattr(without, name).item() == 0
        expected = losses.total.item() - getattr(losses, name).item()
        assert without.total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "name",
    ["normal_weight", "mask_weight", "anomaly_weight", "consistency_weight", "focal_weight"],
)
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_impossible_weights(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        part(TransFusionLoss, **{name: value})


def test_ssim_agrees_with_scikit_image():
    """Window 11x11, sigma 1.5, dynamic range 2, zero padding."""
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (40, 48)).astype(np.float32)
    b = (0.6 * a + 0.4 * rng.uniform(-1, 1, a.shape)).astype(np.float32)
    # scikit-image reflects at the border: far outside of the pixels that are compared, if they lie in a frame of zeros.
    frame = 10
    _, similarity = structural_similarity(
        np.pad(a, frame),
        np.pad(b, frame),
        win_size=11,
        gaussian_weights=True,
        sigma=1.5,
        truncate=3.4,
        use_sample_covariance=False,
        data_range=2.0,
        full=True,
    )
    expected = 1 - similarity[frame:-frame, frame:-frame].mean()
    assert 0.1 < expected < 0.9
    assert ssim_loss(torch.tensor(a)[None, None], torch.tensor(b)[None, None]).item() == pytest.approx(
        expected,
        abs=1e-5,
    )


def test_loss_is_computed_in_full_precision_under_autocast():
    generator = torch.Generator().manual_seed(0)
    normal = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    mask = (torch.rand(2, 1, 16, 16, generator=generator) > 0.7).float()
    target = Target(normal, normal.flip(3) * mask, mask)
    prediction = Prediction(normal * 0.9, normal * 0.8, mask - 0.3)
    beta = torch.full((2, 1, 1, 1), 0.5)
    expected = part(TransFusionLoss)(prediction, target, normal, beta, beta / 2).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = part(TransFusionLoss)(prediction, target, normal, beta, beta / 2).total
    assert actual.dtype == torch.float32
    assert actual.item() == expected.item()
