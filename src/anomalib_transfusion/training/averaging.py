# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Restriction of Lightning's weight averaging to trained modules, so that thresholds are not averaged."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

__all__ = ["AveragesLearned", "averaging_of"]


def averaging_of(trainer: Trainer) -> WeightAveraging | None:
    """Return the trainer's callback that averages weights, such as ``EMAWeightAveraging``, or ``None``."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, WeightAveraging)), None)


class AveragesLearned(Callback):
    """Restricts Lightning's :class:`WeightAveraging` to trained weights and the buffers of the same modules.

    ``WeightAveraging`` averages all buffers, including those of the post-processor: a threshold that is NaN before the
    first validation would stay NaN, and validation sets only the threshold of the model in training. Frozen weights
    would accumulate rounding errors. It also stays active after training, so that a later test of a checkpoint on the
    same trainer would use other weights; this callback ends that.

    Args:
        averaging: The averaging callback, which must come before this one in the trainer's list.
    """

    def __init__(self, averaging: WeightAveraging) -> None:
        super().__init__()
        self.averaging = averaging

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ANN401
        """Copy the untrained modules to the averaged model after an update."""
        del trainer, args
        self._share(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the threshold that validation found with the averaged weights to the averaged model."""
        del trainer
        self._share(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the averaged model; Lightning has copied its weights to the model by now."""
        del trainer, pl_module
        self.averaging._average_model = None  # noqa: SLF001

    @torch.no_grad()
    def _share(self, pl_module: LightningModule) -> None:
        """Copy parameters and buffers of untrained modules from the model in training to the averaged one."""
        averaged = self.averaging._average_model  # noqa: SLF001
        if averaged is None:
            return
        for target, source in zip(averaged.module.modules(), pl_module.modules(), strict=True):
            if not _learns(source):
                for mine, theirs in zip(_tensors(target), _tensors(source), strict=True):
                    mine.copy_(theirs)


def _learns(module: nn.Module) -> bool:
    """Tell whether a module itself has trained parameters, in which case its buffers are averaged as well."""
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return the parameters and buffers of a module without those of its submodules."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
