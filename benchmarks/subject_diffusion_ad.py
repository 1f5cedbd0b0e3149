# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DiffusionAD as a subject of the speed benchmarks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anomalib_transfusion import DiffusionAD
from anomalib_transfusion.models.diffusion_ad.official import export_official
from measure import Setting
from plain_diffusion_ad import plain_loss, plain_predict, plain_synthesis
from subject import Subject

PUBLISHED_RATES = 1e-4, 1e-5


class OneScaleAtATime(nn.Module):
    """The reconstruction network, run on the noise scales of a batch one after the other.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: torch.Tensor, timestep: torch.Tensor, channels_last: bool = False) -> torch.Tensor:
        """Predict the noise, half a batch at a time."""
        halves = zip(x_t.chunk(2), timestep.chunk(2), strict=True)
        return torch.cat([self.network(x, t, channels_last=channels_last) for x, t in halves])


class DiffusionADSubject(Subject):
    """DiffusionAD: two passes of the reconstruction network and one of the segmentation network."""

    model_class = DiffusionAD
    networks: Mapping[str, Mapping[str, Any]] = {
        "tiny": {
            "base_channels": 32,
            "channel_multipliers": (1, 2),
            "num_blocks": 1,
            "attention_levels": (-1,),
            "segmentation_width": 2,
        },
        "small": {
            "base_channels": 32,
            "channel_multipliers": (1, 1, 2, 2),
            "num_blocks": 1,
            "attention_levels": (-1,),
            "segmentation_width": 16,
        },
        "full": {},
    }

    def build(self, setting: Setting, one_scale_at_a_time: bool = False, **parameters: Any) -> Any:  # noqa: ANN401
        """Build the model; its noise scales are in one batch unless told otherwise."""
        lightning = super().build(setting, **parameters)
        if one_scale_at_a_time:
            lightning.model.unet = OneScaleAtATime(lightning.model.unet)
        return lightning

    def unit(self, model: Any, images: torch.Tensor, training: bool) -> Sequence[torch.Tensor]:  # noqa: ANN401
        """Run both networks."""
        return model(images, *model.draw_diffusion(images)) if training else model(images)

    def to_compile(self, model: Any) -> list[nn.Module]:  # noqa: ANN401
        """Return both networks."""
        return [model.unet, model.segmentation]

    def optimizer(self, lightning: Any) -> torch.optim.Optimizer:  # noqa: ANN401
        """Return Adam with a rate for each network."""
        model = lightning.model
        rates = lightning.learning_rate, lightning.segmentation_learning_rate
        groups = zip((model.unet, model.segmentation), rates, strict=True)
        return torch.optim.Adam([{"params": network.parameters(), "lr": rate} for network, rate in groups])

    def samples(self, lightning: Any, images: torch.Tensor) -> Any:  # noqa: ANN401
        """Make training samples."""
        return lightning.sampler(images, lightning.model)

    def loss(self, lightning: Any, images: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        """Return the loss of a batch."""
        sample = self.samples(lightning, images)
        prediction = lightning.model(sample.images, sample.timestep, sample.target.noise)
        return lightning.loss(prediction, sample.target).total

    def plain_samples(self, setting: Setting) -> Callable[[torch.Tensor], object]:
        """Return the plain synthesis."""
        textures = sorted(Path(setting.textures).rglob("*.jpg"))
        return partial(plain_synthesis, textures=textures, random=np.random.default_rng(0))

    def plain_states(self, setting: Setting) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return copies of the weights of both networks in the authors' layout."""
        official = export_official(self.build(setting).model)
        unet, segmentation = (
            {name: weight.detach().clone().to(setting.device) for name, weight in official[key].items()}
            for key in ("unet_model_state_dict", "seg_model_state_dict")
        )
        return unet, segmentation

    def plain_step(self, setting: Setting, images: torch.Tensor) -> Callable[[], None]:
        """Return a training step of the plain path, with an optimizer for each network."""
        states, optimizers = self.plain_states(setting), []
        for state, rate in zip(states, PUBLISHED_RATES, strict=True):
            trained = [weight for name, weight in state.items() if weight.is_floating_point() and "running" not in name]
            optimizers.append(torch.optim.Adam([weight.requires_grad_() for weight in trained], lr=rate))
        make = self.plain_samples(setting)
        bounds = ((0, 300), (300, 1000))

        def step() -> None:
            sample: Any = make(images)
            timestep = [torch.randint(*bound, (len(images),), device=images.device) for bound in bounds]
            noise = [torch.randn_like(images) for _ in bounds]
            loss, *_ = plain_loss(*states, sample, timestep, noise)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()

        return step

    def plain_prediction(self, setting: Setting, images: torch.Tensor) -> tuple[Callable[[], object], float]:
        """Return the plain prediction, with noise that is drawn anew."""
        states = self.plain_states(setting)
        return lambda: plain_predict(*states, images, *(torch.randn_like(images) for _ in range(2))), 1.0
