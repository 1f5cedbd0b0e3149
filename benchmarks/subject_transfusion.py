# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""TransFusion as a subject of the speed benchmarks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anomalib_transfusion import TransFusion
from measure import Setting
from plain_path import plain_copy, plain_reverse_process, plain_synthesis, plain_training_step
from subject import Subject

DEFAULT_TIMESTEPS = 20


class TransFusionSubject(Subject):
    """TransFusion: a pass is one step of the reverse process."""

    model_class = TransFusion
    networks: Mapping[str, Mapping[str, Any]] = {
        "tiny": {
            "timesteps": 4,
            "base_channels": 8,
            "channel_multipliers": (1, 2),
            "num_blocks": 1,
            "attention_levels": (-1,),
        },
        "small": {"base_channels": 8, "num_blocks": 1, "attention_levels": (-1,)},
        "full": {},
    }

    def passes(self, network: Mapping[str, Any]) -> int:
        """Return the network passes of the reverse process."""
        return network.get("timesteps", DEFAULT_TIMESTEPS) - 1

    def shorten(self, model: Any, setting: Setting) -> float:  # noqa: ANN401
        """Leave out the last steps."""
        model.inference_timesteps = model.inference_timesteps[: setting.passes]
        return setting.passes / setting.all_passes

    def flops(self, network: Mapping[str, Any], image_size: int, training: bool) -> float:
        """Count the operations of a training step, or of all passes."""
        return super().flops(network, image_size, training) * (1 if training else self.passes(network))

    def unit(self, model: nn.Module, images: torch.Tensor, training: bool) -> Sequence[torch.Tensor]:
        """Run a pass of the network."""
        del training
        return model.train()(images, images[:, :1], torch.ones(1, device=images.device))

    def to_compile(self, model: Any) -> list[nn.Module]:  # noqa: ANN401
        """Return the network."""
        return [model.network]

    def optimizer(self, lightning: Any) -> torch.optim.Optimizer:  # noqa: ANN401
        """Return AdamW."""
        return torch.optim.AdamW(lightning.model.parameters(), lr=lightning.learning_rate)

    def samples(self, lightning: Any, images: torch.Tensor) -> Any:  # noqa: ANN401
        """Make training samples."""
        return lightning.sampler(images, lightning.model.beta)

    def loss(self, lightning: Any, images: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        """Return the loss of a batch."""
        model, sample = lightning.model, self.samples(lightning, images)
        beta, next_beta = (model.beta[sample.timestep - back].view(-1, 1, 1, 1) for back in (0, 1))
        prediction = model(sample.x_t, sample.previous_mask, sample.timestep)
        return lightning.loss(prediction, sample.target, sample.x_t, beta, next_beta).total

    def plain_samples(self, setting: Setting) -> Callable[[torch.Tensor], object]:
        """Return the plain synthesis."""
        textures = sorted(Path(setting.textures).rglob("*.jpg"))
        beta = torch.linspace(0, 1, DEFAULT_TIMESTEPS, device=setting.device)
        return partial(plain_synthesis, beta=beta, textures=textures, random=np.random.default_rng(0))

    def plain_step(self, setting: Setting, images: torch.Tensor) -> Callable[[], None]:
        """Return a training step of the plain path."""
        lightning = self.build(setting)
        model = plain_copy(lightning.model).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=lightning.learning_rate)
        textures = sorted(Path(setting.textures).rglob("*.jpg"))
        random = np.random.default_rng(0)

        def step() -> None:
            sample = plain_synthesis(images, model.beta, textures, random)
            terms = plain_training_step(model, lightning.loss, sample)
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()

        return step

    def plain_prediction(self, setting: Setting, images: torch.Tensor) -> tuple[Callable[[], object], float]:
        """Return the plain reverse process."""
        model = plain_copy(self.build(setting).model).eval()
        return partial(plain_reverse_process, model, images), self.shorten(model, setting)
