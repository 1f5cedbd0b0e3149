# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Evaluation, post-processing and pictures by category in the places of a model's own, in a trainer."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer

from .evaluation import CategoryEvaluation
from .pictures import CategoryPictures
from .post_processing import CategoryPostProcessing, statistics_of

__all__ = ["applied_post_processor", "attach", "detach"]


def attach(trainer: Trainer, categories: Sequence[str]) -> None:
    """Evaluate, post-process and draw by category from now on.

    The callbacks of the trainer are changed, and nothing of the model: its state dict, what is exported and what is
    saved of it stay anomalib's own.

    Args:
        trainer: Trainer with a model, before the setup of its callbacks.
        categories: Names of the categories.
    """
    # Here and not above: these may be half imported while anomalib loads its plugins.
    from anomalib.metrics import Evaluator
    from anomalib.visualization import ImageVisualizer

    detach(trainer)
    model = trainer.lightning_module

    def in_place_of(callback: Callback) -> Callback:
        if callback is getattr(model, "post_processor", None):
            return CategoryPostProcessing(callback, categories, statistics_of(model))
        if callback is getattr(model, "evaluator", None) and isinstance(callback, Evaluator):
            return CategoryEvaluation(callback, categories)
        # A subclass knows best where its pictures go.
        if callback is getattr(model, "visualizer", None) and type(callback) is ImageVisualizer:
            return CategoryPictures(callback)
        return callback

    # The list itself: what else holds it sees the change.
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [in_place_of(callback) for callback in callbacks]


def detach(trainer: Trainer) -> None:
    """Put the model's own evaluator, post-processor and visualizer back into a trainer.

    Args:
        trainer: Trainer that :func:`attach` was called with, or any other.
    """

    def own(callback: Callback) -> Callback:
        if isinstance(callback, CategoryPostProcessing):
            return callback.post_processor
        if isinstance(callback, CategoryPictures):
            return callback.visualizer
        return callback.evaluator if isinstance(callback, CategoryEvaluation) else callback

    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [own(callback) for callback in callbacks]


def applied_post_processor(trainer: Trainer, category: str) -> Any:  # noqa: ANN401
    """Return the post-processor with a category's own threshold, which its images get; nothing where it has none.

    Args:
        trainer: Trainer whose test or prediction has begun.
        category: Name of the category.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = next((callback for callback in callbacks if isinstance(callback, CategoryPostProcessing)), None)
    return None if found is None else found.of_category.get(category)
