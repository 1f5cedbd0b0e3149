# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Replacement of a model's evaluator, post-processor and visualizer in a trainer by those by category."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer

from .evaluation import CategoryEvaluation
from .pictures import CategoryPictures
from .post_processing import CategoryPostProcessing, statistics_of

__all__ = ["applied_post_processor", "attach", "detach"]


def attach(trainer: Trainer, categories: Sequence[str]) -> None:
    """Make a trainer evaluate, post-process and draw by category.

    Only the callbacks of the trainer are replaced. The model, its state dict, checkpoints and exports are unchanged.

    Args:
        trainer: Trainer with a model, before the setup of its callbacks.
        categories: Names of the categories.
    """
    # Imported here: these may be partially imported while anomalib loads its plugins.
    from anomalib.metrics import Evaluator
    from anomalib.visualization import ImageVisualizer

    detach(trainer)
    model = trainer.lightning_module

    def in_place_of(callback: Callback) -> Callback:
        if callback is getattr(model, "post_processor", None):
            return CategoryPostProcessing(callback, categories, statistics_of(model))
        if callback is getattr(model, "evaluator", None) and isinstance(callback, Evaluator):
            return CategoryEvaluation(callback, categories)
        # Subclasses of anomalib's visualizer choose their own folders.
        if callback is getattr(model, "visualizer", None) and type(callback) is ImageVisualizer:
            return CategoryPictures(callback)
        return callback

    # Changed in place, because others hold the same list.
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [in_place_of(callback) for callback in callbacks]


def detach(trainer: Trainer) -> None:
    """Put the model's own evaluator, post-processor and visualizer back into a trainer.

    Args:
        trainer: Trainer; one that :func:`attach` was not called with stays unchanged.
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
    """Return the post-processor with a category's own threshold; ``None`` if the category has none.

    Args:
        trainer: Trainer whose test or prediction has begun.
        category: Name of the category.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = next((callback for callback in callbacks if isinstance(callback, CategoryPostProcessing)), None)
    return None if found is None else found.of_category.get(category)
