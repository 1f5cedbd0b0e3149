# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Our model gives what the plain path, an independent way to compute the same, gives."""

import pytest
import skimage
import torch

from anomalib_transfusion.models.diffusion_ad.official import export_official
from anomalib_transfusion.models.diffusion_ad.torch_model import DiffusionADModel

from .plain_path import alpha_bar, plain_predict, plain_unet

NETWORK = {
    "base_channels": 32,
    "channel_multipliers": (1, 1, 2),
    "num_blocks": 1,
    "attention_levels": (-2, -1),
    "segmentation_width": 8,
}


def build(**parameters) -> DiffusionADModel:
    """Build a model in which nothing is zero and maps take many values."""
    torch.manual_seed(1)
    model = DiffusionADModel(**{"precision": "single", **NETWORK, **parameters})
    for name, parameter in model.unet.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05 if name.endswith("bias") else parameter[0].numel() ** -0.5)
    model.segmentation.train()
    with torch.no_grad():
        for _ in range(20):
            images = photograph(4, 64, 64)
            model.segmentation(images, (images + 0.3 * torch.randn_like(images)).clamp(-1, 1))
    model.segmentation.output.weight.data.mul_(8)
    return model.eval()


def photograph(batch: int, height: int, width: int) -> torch.Tensor:
    """Cut images out of a photograph."""
    astronaut = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1) / 255
    return torch.stack([astronaut[:, 60 * i : 60 * i + height, 90 : 90 + width] for i in range(batch)])


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
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96)])
@pytest.mark.filterwarnings("ignore:guidance_weight=2.0 moves")
def test_same_maps(height, width, parameters, plain, channels_last):
    model = build(channels_last=channels_last, **parameters)
    images = photograph(3, height, width)
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
