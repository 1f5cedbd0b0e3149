# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Lightning's averaging of weights, beside what is in a model's state and must not be averaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

__all__ = ["AveragesLearned", "averaged_weights", "averaging_of", "share_unlearned"]


def averaging_of(trainer: Trainer) -> WeightAveraging | None:
    """Return the callback among a trainer's that averages weights, such as Lightning's ``EMAWeightAveraging``."""
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
    """Keeps Lightning's :class:`WeightAveraging` to what is learned: weights, and the statistics that belong to them.

    It averages all buffers, those of the post-processor as well. A threshold that is not a number before the first
    validation would never be one afterwards, and the validation that finds it sets that of the model in training alone.
    Weights that are frozen would gather rounding errors. And it goes on when the training has ended: a test of a
    checkpoint on the same trainer would have the weights that were not averaged.

    Args:
        averaging: The callback, which stands before this one.
    """

    def __init__(self, averaging: WeightAveraging) -> None:
        super().__init__()
        self.averaging = averaging

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ANN401
        """After an update, give the averaged model what is not learned."""
        del trainer, args
        self.share(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the averaged model the threshold that was found with its weights."""
        del trainer
        self.share(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the averaged model, whose weights the model has by now."""
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
    """Tell whether a module has parameters of its own that are trained; its statistics then belong to these."""
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return parameters and buffers of a module itself."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
