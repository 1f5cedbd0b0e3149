# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Evaluation and post-processing by category in the places of a model's own, in a trainer."""

from collections.abc import Sequence

from anomalib.metrics import Evaluator
from lightning.pytorch import Callback, Trainer

from .evaluation import CategoryEvaluation
from .post_processing import CategoryPostProcessing, statistics_of

__all__ = ["attach", "detach"]


def attach(trainer: Trainer, categories: Sequence[str]) -> None:
    """Evaluate and post-process by category from now on.

    The callbacks of the trainer are changed, and nothing of the model: its state dict, what is exported and what is
    saved of it stay anomalib's own.

    Args:
        trainer: Trainer with a model, before the setup of its callbacks.
        categories: Names of the categories.
    """
    detach(trainer)
    model = trainer.lightning_module

    def in_place_of(callback: Callback) -> Callback:
        if callback is getattr(model, "post_processor", None):
            return CategoryPostProcessing(callback, categories, statistics_of(model))
        if callback is getattr(model, "evaluator", None) and isinstance(callback, Evaluator):
            return CategoryEvaluation(callback, categories)
        return callback

    # The list itself: what else holds it sees the change.
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [in_place_of(callback) for callback in callbacks]


def detach(trainer: Trainer) -> None:
    """Put the model's own evaluator and post-processor back into a trainer.

    Args:
        trainer: Trainer that :func:`attach` was called with, or any other.
    """

    def own(callback: Callback) -> Callback:
        if isinstance(callback, CategoryPostProcessing):
            return callback.post_processor
        return callback.evaluator if isinstance(callback, CategoryEvaluation) else callback

    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [own(callback) for callback in callbacks]
