# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Our model gives what the plain path, an independent way to compute the same, gives."""

import copy

import cv2
import numpy as np
import pytest
import torch

from anomalib_transfusion.models.diffusion_ad.loss import DiffusionADLoss, Target
from anomalib_transfusion.models.diffusion_ad.official import export_official
from parts import part
from plain_diffusion_ad import alpha_bar, plain_loss, plain_predict, plain_synthesis, plain_unet

from .networks import build, photograph


def states(model):
    """Return the weights in the authors' layout."""
    official = export_official(model)
    return official["unet_model_state_dict"], official["seg_model_state_dict"]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("parameters", "plain"),
    [
        ({}, {}),
        ({"guidance_weight": 2.0, "small_timestep": 120, "big_timestep": 650}, {"w": 2.0, "t_s": 120, "t_b": 650}),
        ({"guidance_weight": 0.0}, {"w": 0.0}),
        ({"noise_scales": "small", "small_timestep": 300}, {"w": 0.0, "t_s": 300}),
        # The guide alone: with this weight the estimate of the small scale has no share.
        ({"noise_scales": "big"}, {"w": 1 / (1 - alpha_bar(200))}),
        ({"num_blocks": 2, "channel_multipliers": (1, 2), "attention_levels": (0,)}, {}),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 32)])
@pytest.mark.filterwarnings("ignore:guidance_weight=2.0 moves")
def test_same_maps(height, width, parameters, plain, channels_last):
    model = build(channels_last=channels_last, **parameters)
    images = photograph(2, height, width)
    torch.manual_seed(0)
    noise = torch.randn(2, *images.shape)
    used = {"both": noise, "small": noise[:1], "big": noise[1:]}[parameters.get("noise_scales", "both")]
    if parameters.get("guidance_weight") == 0:
        used = used[:1]
    predictions, denoised = model.predict(images, used)
    expected = plain_predict(*states(model), images, *noise, **plain)
    assert expected.anomaly_map.std() > 0.02, "maps of one value would hide differences"
    torch.testing.assert_close(denoised.reconstruction, expected.reconstruction, rtol=0, atol=1e-4)
    torch.testing.assert_close(predictions.anomaly_map, expected.anomaly_map, rtol=0, atol=1e-4)
    torch.testing.assert_close(predictions.pred_score, expected.score, rtol=0, atol=1e-4)


def test_same_noise_at_other_timesteps_of_one_batch():
    model = build()
    x = torch.randn(3, 3, 32, 64)
    with torch.no_grad():
        ours = model.unet(x, torch.tensor([0, 321, 999]))
        unet, _ = states(model)
        expected = torch.cat([plain_unet(unet, part, t) for part, t in zip(x.split(1), (0, 321, 999), strict=True)])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def official_gradients(model):
    """Return the gradients in the authors' layout."""
    gradients = copy.deepcopy(model)
    for gradient, parameter in zip(gradients.parameters(), model.parameters(), strict=True):
        gradient.data = parameter.grad
    return states(gradients)


def test_same_training_step(tmp_path):
    """Loss, gradients and running statistics of the published loss, on samples of the plain synthesis."""
    # In double precision: in single, rounding alone exceeds the bound on some processors.
    model = build(noise_seed=None).double().train()
    random = np.random.default_rng(3)
    cv2.imwrite(str(tmp_path / "texture.png"), random.integers(0, 256, (90, 70, 3), dtype=np.uint8))
    images = photograph(4, 64, 32)
    sample = plain_synthesis(images, [tmp_path / "texture.png"], random)
    assert sample.label.tolist() == [1, 1, 0, 0]
    assert torch.equal(sample.images[2:], images[2:])
    changed = (sample.images - images).abs().amax(dim=1, keepdim=True) > 0
    assert changed.any()
    assert not (changed & (sample.mask == 0)).any()
    torch.manual_seed(0)
    timestep, noise = model.draw_diffusion(images)
    sample = sample._replace(images=sample.images.double(), mask=sample.mask.double())
    noise = noise.double()
    unet, segmentation = ({name: weight.clone() for name, weight in state.items()} for state in states(model))
    for state in (unet, segmentation):
        for name, weight in state.items():
            weight.requires_grad_(weight.is_floating_point() and "running" not in name)
    expected = plain_loss(unet, segmentation, sample, timestep, noise)
    expected[0].backward()
    # Twice the mean over the scales is their sum.
    loss = part(DiffusionADLoss, noise_weight=2.0, focal_from_logits=False)
    target = Target(noise, sample.mask, sample.label)
    terms = loss(model(sample.images, timestep, noise), target)
    terms.total.backward()
    assert [term.item() for term in terms] == pytest.approx([term.item() for term in expected], rel=1e-4)
    assert min(terms).item() > 1e-4
    for ours, theirs in zip(official_gradients(model), (unet, segmentation), strict=True):
        for name, weight in theirs.items():
            if weight.requires_grad:
                bound = 2e-3 * weight.grad.abs().max().item() + 1e-5
                torch.testing.assert_close(ours[name], weight.grad, rtol=0, atol=bound, msg=name)
            elif "running" in name:
                torch.testing.assert_close(states(model)[1][name], weight, rtol=1e-4, atol=1e-5)
