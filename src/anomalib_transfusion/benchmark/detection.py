# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Anomaly maps and scores of all test images, and the metrics of each category and kind of defect."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.metrics import AUPRO, AUROC, F1Max
from anomalib.models import AnomalibModule
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torchvision.transforms.v2 import Normalize

from .metrics import ALL, KIND, NUM_CATEGORIES, by_category

__all__ = ["ALL", "GOOD", "Detections", "Found", "columns_of", "denormalize", "measure"]

GOOD = "good"


class Found(NamedTuple):
    """Test images and the predictions of a model for them, on the CPU.

    Attributes:
        images: Images in [0, 1], without the model's normalization, ``(N, 3, H, W)``.
        masks: True masks, bool, ``(N, H, W)``.
        kinds: ``good``, or the name of the folder of the defect, ``(N,)``.
        maps: Anomaly maps in the model's own units, ``(N, H, W)``.
        scores: Scores in the same units, ``(N,)``.
        reconstructions: Reconstructions in [0, 1], ``(N, 3, H, W)``; ``None`` if the model makes none.
        categories: Category of each image, ``(N,)``; ``None`` for data without categories.
    """

    images: torch.Tensor
    masks: torch.Tensor
    kinds: np.ndarray
    maps: torch.Tensor
    scores: torch.Tensor
    reconstructions: torch.Tensor | None
    categories: np.ndarray | None = None

    def of_each_category(self) -> dict[str, "Found"]:
        """Return the results for each category; an empty dictionary for data without categories."""
        if self.categories is None:
            return {}
        places = {str(name): torch.from_numpy(self.categories == name) for name in dict.fromkeys(self.categories)}
        return {
            name: Found(
                self.images[place],
                self.masks[place],
                self.kinds[place.numpy()],
                self.maps[place],
                self.scores[place],
                None if self.reconstructions is None else self.reconstructions[place],
            )
            for name, place in places.items()
        }


class Detections(Callback):
    """Callback that collects a model's own scores and maps in a test, before the post-processor changes them."""

    def __init__(self) -> None:
        self._batches: list[Found] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the results of an earlier test."""
        del trainer, pl_module
        self._batches = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch. The trainer's callbacks come before the model's, so the post-processor has not seen it."""
        del trainer, batch, batch_idx, dataloader_idx
        found: Any = outputs
        model: Any = pl_module
        size = found.image.shape[-2:]
        # Batches of good images may have no masks.
        absent = found.gt_mask is None
        masks = torch.zeros(len(found.image), *size) if absent else found.gt_mask.cpu().reshape(-1, *size)
        kinds = [
            Path(path).parent.name if defective else GOOD
            for path, defective in zip(found.image_path, found.gt_label.tolist(), strict=True)
        ]
        reconstructions = getattr(model, "reconstruction", None)
        self._batches.append(
            Found(
                images=denormalize(model, found.image.cpu()),
                masks=masks.bool(),
                kinds=np.array(kinds),
                maps=found.anomaly_map.float().cpu().reshape(-1, *size),
                scores=found.pred_score.float().cpu().flatten(),
                reconstructions=None if reconstructions is None else reconstructions.float().cpu(),
                categories=None if getattr(found, "category", None) is None else np.array(found.category),
            ),
        )

    @property
    def found(self) -> Found:
        """Results for all images."""
        parts = zip(*self._batches, strict=True)
        images, masks, kinds, maps, scores, reconstructions, categories = (list(part) for part in parts)
        whole = None if any(part is None for part in reconstructions) else torch.cat(reconstructions)
        return Found(
            torch.cat(images),
            torch.cat(masks),
            np.concatenate(kinds),
            torch.cat(maps),
            torch.cat(scores),
            whole,
            None if any(part is None for part in categories) else np.concatenate(categories),
        )


def denormalize(model: AnomalibModule, images: torch.Tensor) -> torch.Tensor:
    """Undo the normalization of a model's pre-processor on images ``(N, 3, H, W)``, and clip them to [0, 1]."""
    transform = model.pre_processor.transform  # type: ignore[union-attr]
    for normalize in reversed(extract_transforms_by_type(transform, Normalize)):
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (normalize.mean, normalize.std))
        images = images * std + mean
    return images.clamp(0, 1)


def measure(found: Found) -> dict[str, dict[str, float]]:
    """Compute the metrics of each kind of defect against the good images, and of all.

    Returns:
        For each kind, and for ``all``: number of images, image AUROC, pixel AUROC, AUPRO, and the best F1 of images.
        Metrics are absent if the ground truth has only one class.
    """
    kinds = sorted(set(found.kinds) - {GOOD})
    results: dict[str, dict[str, float]] = {}
    # The metrics apply a sigmoid to values outside of [0, 1], which would saturate for large distances.
    scores, maps = _to_unit(found.scores), _to_unit(found.maps)
    for kind in [ALL, *kinds]:
        chosen = torch.from_numpy(np.isin(found.kinds, kinds if kind == ALL else [kind]) | (found.kinds == GOOD))
        batch = ImageBatch(
            image=found.images[chosen],
            gt_label=torch.from_numpy(found.kinds != GOOD)[chosen],
            gt_mask=found.masks[chosen],
            pred_score=scores[chosen],
            anomaly_map=maps[chosen],
        )
        metrics: dict[str, Any] = {
            "image_AUROC": AUROC(fields=["pred_score", "gt_label"]),
            "image_F1Max": F1Max(fields=["pred_score", "gt_label"]),
            "pixel_AUROC": AUROC(fields=["anomaly_map", "gt_mask"]),
            "pixel_AUPRO": AUPRO(fields=["anomaly_map", "gt_mask"]),
        }
        results[kind] = {"images": int(chosen.sum())}
        for name, metric in metrics.items():
            truth = getattr(batch, metric.fields[-1])
            # With a single class in the ground truth, the value of a metric is meaningless.
            if truth.any() and not truth.all():
                metric.update(batch)
                results[kind][name] = float(metric.compute())
    return results


def columns_of(found: Found) -> dict[str, float]:
    """Compute the metrics, and return them as columns of a row.

    Args:
        found: Results of a model.

    Returns:
        ``METRIC`` of all defects, and ``kind.NAME.METRIC`` of each kind. Where there are categories, ``METRIC`` is the
        mean over them, each has ``METRIC_CATEGORY`` and ``kind.CATEGORY/NAME.METRIC``, and if a category has no
        value, ``METRIC_num_categories`` is the number of categories in the mean.
    """
    categories = found.of_each_category()
    if not categories:
        results = measure(found)
        return {**_overall(results), **_of_kinds(results, "")}
    measured = {category: measure(part) for category, part in categories.items()}
    columns: dict[str, float] = {}
    for metric in dict.fromkeys(name for results in measured.values() for name in _overall(results)):
        values = {name: _overall(results)[metric] for name, results in measured.items() if metric in _overall(results)}
        columns[metric] = sum(values.values()) / len(values)
        columns |= {by_category(metric, name): value for name, value in values.items()}
        if len(values) < len(measured):
            columns[by_category(metric, NUM_CATEGORIES)] = len(values)
    for category, results in measured.items():
        columns |= _of_kinds(results, f"{category}/")
    return columns


def _overall(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the metrics of all defects."""
    return {metric: value for metric, value in results[ALL].items() if metric != "images"}


def _of_kinds(results: dict[str, dict[str, float]], category: str) -> dict[str, float]:
    """Return the columns of the kinds of defects."""
    return {
        f"{KIND}{category}{kind}.{metric}": value
        for kind, values in results.items()
        if kind != ALL
        for metric, value in values.items()
    }


def _to_unit(values: torch.Tensor) -> torch.Tensor:
    """Bring values to [0, 1]; their order, which is all that the metrics look at, stays."""
    low, high = values.min().double(), values.max().double()
    return ((values.double() - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)).float()
