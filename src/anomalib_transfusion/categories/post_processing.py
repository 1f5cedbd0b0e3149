# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds and normalization by category."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torchmetrics import Metric

from .batch import merge, positions_by_category, select
from .processes import from_all_processes, join

__all__ = ["CategoryPostProcessing", "Statistics", "statistics_of"]

logger = logging.getLogger(__name__)

#: Buffers of the post-processor for each category, by name: scalars on the CPU.
Statistics = dict[str, dict[str, torch.Tensor]]

#: Key that stands for all categories without values of their own.
_POOLED = ""

_STATISTICS: WeakKeyDictionary[LightningModule, Statistics] = WeakKeyDictionary()


def statistics_of(model: LightningModule) -> Statistics:
    """Return the values of each category that a model's validation found or its checkpoint contained."""
    return _STATISTICS.setdefault(model, {})


class CategoryPostProcessing(Callback):
    """Replaces a model's post-processor, and finds and applies threshold and normalization for each category.

    A copy of the post-processor for each category sees only the images of that category. The post-processor itself
    still sees all images and finds the pooled values. These are in the model's state dict and in exported models, and
    are applied to batches without categories and to categories without validation images.

    Args:
        post_processor: The model's post-processor, a callback of any class.
        categories: Names of the categories.
        statistics: Values by category, changed in place at the end of a validation.
    """

    def __init__(self, post_processor: Any, categories: Sequence[str], statistics: Statistics) -> None:  # noqa: ANN401
        super().__init__()
        self.post_processor = post_processor
        self.categories = tuple(categories)
        self.statistics = statistics
        #: Post-processors of the categories with values of their own, during a test or a prediction.
        self.of_category: dict[str, Any] = {}
        self._seen: dict[str, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the post-processor prepare itself."""
        self.post_processor.setup(trainer, pl_module, stage)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make a copy of the post-processor for each category."""
        self.post_processor.on_validation_start(trainer, pl_module)
        self.of_category = {category: self._copy(pl_module) for category in self.categories}
        self._seen = dict.fromkeys(self.categories, 0)
        for copied in self.of_category.values():
            for metric in _metrics(copied):
                metric.reset()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        *args,
        **kwargs,
    ) -> None:
        """Pass the batch to the post-processor, and each category's images to the category's copy."""
        for category, positions in positions_by_category(outputs).items():
            part = select(outputs, positions)
            self.of_category[category].on_validation_batch_end(trainer, pl_module, part, *args, **kwargs)
            self._seen[category] += len(positions)
        self.post_processor.on_validation_batch_end(trainer, pl_module, outputs, *args, **kwargs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the values of each category that has images, and the pooled ones."""
        seen = from_all_processes(self._seen)
        for category, copied in self.of_category.items():
            if not any(process.get(category) for process in seen):
                continue
            for metric in _metrics(copied):
                join(metric)
            copied.on_validation_epoch_end(trainer, pl_module)
            self.statistics[category] = {name: value.detach().cpu().clone() for name, value in _state(copied).items()}
        self.of_category = {}
        self.post_processor.on_validation_epoch_end(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the values of each category."""
        self.post_processor.on_test_start(trainer, pl_module)
        self._take_values(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the values of each category."""
        self.post_processor.on_predict_start(trainer, pl_module)
        self._take_values(trainer, pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        *args,
        **kwargs,
    ) -> None:
        """Post-process each category's images with its values."""
        self._apply("on_test_batch_end", trainer, pl_module, outputs, *args, **kwargs)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        *args,
        **kwargs,
    ) -> None:
        """Post-process each category's images with its values."""
        self._apply("on_predict_batch_end", trainer, pl_module, outputs, *args, **kwargs)

    def _copy(self, pl_module: LightningModule) -> Any:  # noqa: ANN401
        """Copy the post-processor without the model, to which a method that Lightning sets on it refers."""
        return copy.deepcopy(self.post_processor, {id(pl_module): pl_module})

    def _take_values(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make a post-processor for each category that has values, and name the others."""
        self.of_category = {}
        for category, values in self.statistics.items():
            self.of_category[category] = self._copy(pl_module)
            load(self.of_category[category], values)
        without = [category for category in self.categories if category not in self.of_category]
        if without and trainer.is_global_zero:
            logger.warning(
                "There are no thresholds of their own for the categories %s: the model was not validated on their "
                "images. The pooled thresholds of all images serve them. Validate the model on them first, as training "
                "with val_split_mode same_as_test or from_test does.",
                ", ".join(without),
            )

    def _apply(
        self,
        hook: str,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        *args,
        **kwargs,
    ) -> None:
        """Call a hook of each category's post-processor with its images, and put the results into the batch."""
        # Categories without values of their own share the pooled ones.
        shared: dict[str, list[int]] = {}
        for category, positions in positions_by_category(outputs).items():
            shared.setdefault(category if category in self.of_category else _POOLED, []).extend(positions)
        if len(shared) < 2:
            post_processor = self.of_category.get(next(iter(shared), _POOLED), self.post_processor)
            getattr(post_processor, hook)(trainer, pl_module, outputs, *args, **kwargs)
            return
        parts = [(positions, select(outputs, positions)) for positions in shared.values()]
        for category, (_, part) in zip(shared, parts, strict=True):
            post_processor = self.of_category.get(category, self.post_processor)
            getattr(post_processor, hook)(trainer, pl_module, part, *args, **kwargs)
        merge(outputs, parts)


def load(post_processor: Any, values: Mapping[str, torch.Tensor]) -> None:  # noqa: ANN401
    """Give a post-processor the values of a category.

    Raises:
        ValueError: If the names of the values differ from those of the post-processor.
    """
    own = _state(post_processor)
    if own.keys() != values.keys():
        msg = (
            f"The thresholds by category have the values {', '.join(values)}, but the post-processor "
            f"{type(post_processor).__name__} has {', '.join(own)}. Use the post-processor that the model was trained "
            "with."
        )
        raise ValueError(msg)
    for name, value in own.items():
        value.copy_(values[name])


def _state(post_processor: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
    """Return the values that a post-processor keeps in checkpoints."""
    return post_processor.state_dict() if isinstance(post_processor, nn.Module) else {}


def _metrics(post_processor: Any) -> list[Metric]:  # noqa: ANN401
    """Return the metrics of a post-processor."""
    modules = post_processor.modules() if isinstance(post_processor, nn.Module) else ()
    return [module for module in modules if isinstance(module, Metric)]
