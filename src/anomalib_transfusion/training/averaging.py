# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Restriction of Lightning's weight averaging to trained modules, so that thresholds are not averaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

__all__ = ["AveragesLearned", "averaged_weights", "averaging_of", "share_unlearned"]


def averaging_of(trainer: Trainer) -> WeightAveraging | None:
    """Return the trainer's callback that averages weights, such as ``EMAWeightAveraging``, or ``None``."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, WeightAveraging)), None)


@contextmanager
def averaged_weights(pl_module: LightningModule) -> Iterator[None]:
    """Have the averaged weights in a model in training, as a validation has, where weights are averaged."""
    averaging = averaging_of(pl_module.trainer)
    if averaging is None or averaging._average_model is None:  # noqa: SLF001
        yield
        return
    averaging._swap_models(pl_module)  # noqa: SLF001
    try:
        yield
    finally:
        averaging._swap_models(pl_module)  # noqa: SLF001


def share_unlearned(pl_module: LightningModule) -> None:
    """Give the averaged model, where there is one, what a model in training has that is not learned."""
    callbacks: list[Callback] = pl_module.trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, AveragesLearned):
            callback.share(pl_module)


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
        self.share(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the threshold that validation found with the averaged weights to the averaged model."""
        del trainer
        self.share(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the averaged model; Lightning has copied its weights to the model by now."""
        del trainer, pl_module
        self.averaging._average_model = None  # noqa: SLF001

    @torch.no_grad()
    def share(self, pl_module: LightningModule) -> None:
        """Copy what is not learned from the model in training to the averaged one.

        Args:
            pl_module: The model in training.
        """
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
