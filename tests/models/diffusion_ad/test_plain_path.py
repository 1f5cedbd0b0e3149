# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Our model gives what the plain path, an independent way to compute the same, gives."""

import pytest
import torch

from anomalib_transfusion.models.diffusion_ad.official import export_official

from .networks import build, photograph
from .plain_path import alpha_bar, plain_predict, plain_unet


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
