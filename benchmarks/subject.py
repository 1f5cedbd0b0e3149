# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Interface of a model for the speed benchmarks; a new model needs a subclass and a line in ``contenders.SUBJECTS``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anomalib_transfusion.synthesis import TextureBank
from measure import Setting


class Subject(ABC):
    """A model for the speed benchmarks, in our implementation and in the plain one of the tests."""

    model_class: Any
    networks: Mapping[str, Mapping[str, Any]]
    """Parameters of the networks by size: ``tiny`` (the tests'), ``small`` (the demo's) and ``full`` (the paper's)."""

    def build(self, setting: Setting, **parameters: Any) -> Any:  # noqa: ANN401
        """Build the model on its device; ``parameters`` override those of the setting."""
        size = (setting.image_size, setting.image_size)
        model = self.model_class(
            pre_processor=self.model_class.configure_pre_processor(size),
            visualizer=False,
            dtd_dir=setting.textures,
            **{**setting.network, **parameters},
        )
        return model.to(setting.device)

    def passes(self, network: Mapping[str, Any]) -> int:
        """Return the number of network passes for an image."""
        del network
        return 1

    def shorten(self, model: nn.Module, setting: Setting) -> float:
        """Let the PyTorch module make as many passes as the setting has; return the share of the whole work."""
        del model, setting
        return 1.0

    def make_samples(self, setting: Setting) -> Callable[[torch.Tensor], object]:
        """Return our synthesis of whole training samples, ready to run on images."""
        lightning = self.build(setting)
        lightning.sampler.prepare()
        return lambda images: self.samples(lightning, images)

    def generator(self, setting: Setting) -> Callable[[torch.Tensor], object]:
        """Return our generator of anomalies, without timesteps and noise."""
        textures = TextureBank.from_folder(setting.textures, (setting.image_size, setting.image_size))
        return self.build(setting).sampler.make_generator(textures)

    def flops(self, network: Mapping[str, Any], image_size: int, training: bool) -> float:
        """Count the floating point operations of a unit, with its gradients in training, without running it."""
        size = (image_size, image_size)
        model = self.model_class(
            pre_processor=self.model_class.configure_pre_processor(size),
            visualizer=False,
            **network,
        )
        model.model.to("meta").train(training)
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            outputs = self.unit(model.model, torch.zeros(1, 3, *size, device="meta"), training)
            if training:
                torch.stack([output.sum() for output in outputs]).sum().backward()
        return float(counter.get_total_flops())

    @abstractmethod
    def unit(self, model: nn.Module, images: torch.Tensor, training: bool) -> Sequence[torch.Tensor]:
        """Run the networks for a unit: a sample of a training step, or an image."""

    @abstractmethod
    def to_compile(self, model: nn.Module) -> list[nn.Module]:
        """Return the networks of the PyTorch module."""

    @abstractmethod
    def optimizer(self, lightning: Any) -> torch.optim.Optimizer:  # noqa: ANN401
        """Return the optimizer of a training."""

    @abstractmethod
    def samples(self, lightning: Any, images: torch.Tensor) -> Any:  # noqa: ANN401
        """Make training samples of normal images, as ``training_step`` does."""

    @abstractmethod
    def loss(self, lightning: Any, images: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        """Return the loss of a batch of normal images, as ``training_step`` does."""

    @abstractmethod
    def plain_samples(self, setting: Setting) -> Callable[[torch.Tensor], object]:
        """Return the plain path's synthesis of whole training samples."""

    @abstractmethod
    def plain_step(self, setting: Setting, images: torch.Tensor) -> Callable[[], None]:
        """Return a training step of the plain path, from normal images to the optimizer's step."""

    @abstractmethod
    def plain_prediction(self, setting: Setting, images: torch.Tensor) -> tuple[Callable[[], object], float]:
        """Return the prediction of the plain path, and the share of the whole work that it does."""
