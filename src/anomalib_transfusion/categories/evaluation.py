# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Metrics by category, and their means over the categories."""

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .batch import positions_by_category, select
from .processes import from_all_processes, join

if TYPE_CHECKING:
    from anomalib.metrics import Evaluator

__all__ = ["CategoryEvaluation"]

logger = logging.getLogger(__name__)

#: The classes (whether anomalous) in the ground truth so far, by metric and category.
_Classes = dict[tuple[str, str], set[bool]]


class CategoryEvaluation(Callback):
    """Replaces a model's evaluator, and computes its metrics for each category.

    The metric ``NAME`` is logged for each category as ``NAME_CATEGORY``, and under its own name as the mean over the
    categories. Each category's value is the one that the evaluator gives for that category's images alone, on several
    processes as well.

    A category has no value if its images (for a metric of pixels, their pixels) are all normal or all anomalous. If
    a category has no value, the number of categories in the mean is logged as ``NAME_num_categories``, and a warning
    names the categories that are missing.

    Args:
        evaluator: The model's evaluator; its metrics are copied, not used.
        categories: Names of the categories.
    """

    def __init__(self, evaluator: "Evaluator", categories: Sequence[str]) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.categories = tuple(categories)
        self._metrics: list[dict[str, Any]] = []
        self._classes: _Classes = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the evaluator choose the device of its metrics."""
        self.evaluator.setup(trainer, pl_module, stage)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the metrics of the validation."""
        del trainer
        self._begin(self.evaluator.val_metrics, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the metrics of the test."""
        del trainer
        self._begin(self.evaluator.test_metrics, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics of the categories that the batch has images of."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        self._update(batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics of the categories that the batch has images of."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        self._update(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics of the validation."""
        self._log(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics of the test."""
        self._log(trainer, pl_module)

    def _begin(self, metrics: Any, pl_module: LightningModule) -> None:  # noqa: ANN401
        """Make a metric for each category."""
        self._classes = {}
        self._metrics = []
        for metric in metrics:
            copies = {category: copy.deepcopy(metric).to(pl_module.device) for category in self.categories}
            for each in copies.values():
                each.reset()
            self._metrics.append(copies)

    def _update(self, batch: Any) -> None:  # noqa: ANN401
        """Update each category's metrics with its images.

        Raises:
            TypeError: If the batch does not know the categories of its images.
        """
        positions = positions_by_category(batch)
        if not positions:
            msg = (
                f"A batch of {type(batch).__name__} has no categories, but the metrics are computed by category; a "
                "CategoryBatch was expected. Leave the data module's collate function as it is (external_collate_fn)."
            )
            raise TypeError(msg)
        for category, where in positions.items():
            part = select(batch, where)
            for copies in self._metrics:
                metric = copies[category]
                metric.update(part)
                seen = self._classes.setdefault((metric.name, category), set())
                for field in metric.fields:
                    truth = getattr(part, field, None) if field.startswith("gt_") else None
                    if truth is not None and len(seen) < 2:
                        seen.update({True} if truth.bool().any() else (), {False} if not truth.bool().all() else ())

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log each category's values and their means."""
        classes: _Classes = {}
        for seen in from_all_processes(self._classes):
            for key, values in seen.items():
                classes.setdefault(key, set()).update(values)
        without: dict[str, list[str]] = {}
        for copies in self._metrics:
            name = next(iter(copies.values())).name
            found = {}
            for category, metric in copies.items():
                value = _value(metric, classes.get((name, category), set()))
                if value is not None:
                    found[category] = value
                    _log_value(trainer, pl_module, f"{name}_{category}", value)
            if not any(metric.update_called for metric in copies.values()):
                # No ground truth for this metric, such as masks.
                continue
            if found:
                mean = torch.stack([value.detach().cpu().double() for value in found.values()]).mean()
                _log_value(trainer, pl_module, name, mean.float())
            missing = [category for category in copies if category not in found]
            if missing:
                _log_value(trainer, pl_module, f"{name}_num_categories", torch.tensor(float(len(found))))
                without[name] = missing
        self._metrics = []
        if trainer.is_global_zero and not trainer.sanity_checking:
            for name, missing in without.items():
                logger.warning(
                    "%s is the mean over %d of %d categories: %s has no value, for want of normal and anomalous images "
                    "with ground truth. Add such images for a mean over all.",
                    name,
                    len(self.categories) - len(missing),
                    len(self.categories),
                    ", ".join(missing),
                )


def _value(metric: Any, classes: set[bool]) -> torch.Tensor | None:  # noqa: ANN401
    """Return a category's value; None without images of both classes. Every process must call this."""
    join(metric)
    judges = any(field.startswith("gt_") for field in metric.fields)
    if not metric.update_called or (judges and len(classes) < 2):
        return None
    return metric.compute()


def _log_value(trainer: Trainer, pl_module: LightningModule, name: str, value: torch.Tensor) -> None:
    """Log a value that is equal in all processes, reduced by the maximum, since a mean could round it."""
    if trainer.barebones:
        # Lightning logs nothing in barebones mode; anomalib's evaluator sets the metrics in the same way.
        trainer.callback_metrics[name] = value
        trainer.logged_metrics[name] = value
        return
    pl_module.log(name, value.to(pl_module.device), on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")
