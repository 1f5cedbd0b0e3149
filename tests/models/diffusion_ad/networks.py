# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Small models with weights that differ from zero, as a trained one has."""

import skimage
import torch

from anomalib_transfusion.models.diffusion_ad.torch_model import DiffusionADModel
from parts import part

NETWORK = {
    "base_channels": 32,
    "channel_multipliers": (1, 1, 2),
    "num_blocks": 1,
    "attention_levels": (-2, -1),
    "segmentation_width": 8,
    # The same on every machine.
    "precision": "single",
}


def build(**parameters) -> DiffusionADModel:
    """Build a model in which nothing is zero and maps take many values."""
    torch.manual_seed(1)
    model = part(DiffusionADModel, **{**NETWORK, **parameters})
    for name, parameter in model.unet.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05 if name.endswith("bias") else parameter[0].numel() ** -0.5)
    images = photograph(4, 64, 64)
    with torch.no_grad():
        # The statistics of one batch, as many would leave them.
        norms = [module for module in model.segmentation.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        model.segmentation.train()(images, (images + 0.3 * torch.randn_like(images)).clamp(-1, 1))
        for norm in norms:
            norm.momentum = 0.1
        model.segmentation.output.weight.mul_(2)
    return model.eval()


def photograph(batch: int, height: int, width: int) -> torch.Tensor:
    """Cut images out of a photograph."""
    astronaut = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1) / 255
    return torch.stack([astronaut[:, 60 * i : 60 * i + height, 90 : 90 + width] for i in range(batch)])
