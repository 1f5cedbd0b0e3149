# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What a model finds: maps and scores of all test images, and the metrics of each kind of defect."""

from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.metrics import AUPRO, AUROC, F1Max
from anomalib.models import AnomalibModule
from torchvision.transforms.v2 import Normalize

GOOD = "good"
ALL = "all"


class Found(NamedTuple):
    """Test images and what a model found in them, on the CPU.

    Attributes:
        images: In [0, 1], whatever the model normalises them to, ``(N, 3, H, W)``.
        masks: True masks, ``(N, H, W)``.
        kinds: Folder of each image: ``good`` or the name of its defect.
        maps: Anomaly maps in the model's own units, ``(N, H, W)``.
        scores: Scores in these, ``(N,)``.
        reconstructions: In [0, 1], ``(N, 3, H, W)``, where the model makes them.
        images_per_second: From pre-processed images to maps, without the first batch where there are more.
    """

    images: torch.Tensor
    masks: torch.Tensor
    kinds: np.ndarray
    maps: torch.Tensor
    scores: torch.Tensor
    reconstructions: torch.Tensor | None
    images_per_second: float


def read_batches(model: AnomalibModule, data: AnomalibDataModule) -> list[ImageBatch]:
    """Read all test images once, as the model's pre-processor gives them."""
    data.prepare_data()
    data.setup()
    batches = []
    for batch in data.test_dataloader():
        model.pre_processor.on_test_batch_start(None, model, batch, 0)  # type: ignore[union-attr,arg-type]
        batches.append(batch)
    return batches


@torch.no_grad()
def predict(model: AnomalibModule, data: AnomalibDataModule, device: torch.device) -> Found:
    """Run a model on all test images; scores and maps are its own, before the post-processor clips them."""
    model = model.to(device).eval()
    batches = read_batches(model, data)
    maps, scores, reconstructions, seconds = [], [], [], []
    for batch in batches:
        images = batch.image.to(device)
        synchronize(device)
        start = perf_counter()
        if hasattr(model.model, "predict"):
            result, process = model.model.predict(images)
            reconstructions.append(((process.reconstruction + 1) / 2).clamp(0, 1).float().cpu())
        else:
            result = model.model(images)
        synchronize(device)
        seconds.append(perf_counter() - start)
        maps.append(result.anomaly_map.float().cpu().reshape(-1, *images.shape[-2:]))
        scores.append(result.pred_score.float().cpu().flatten())
    timed = slice(1 if len(batches) > 1 else 0, None)
    paths = [Path(path) for batch in batches for path in batch.image_path]
    # Of a good image there is no mask.
    masks = [
        torch.zeros(len(batch.image), *maps[0].shape[-2:]) if batch.gt_mask is None else batch.gt_mask
        for batch in batches
    ]
    return Found(
        images=denormalize(model, torch.cat([batch.image for batch in batches])),
        masks=torch.cat(masks).reshape(len(paths), *maps[0].shape[-2:]).bool(),
        kinds=np.array([path.parent.name for path in paths]),
        maps=torch.cat(maps),
        scores=torch.cat(scores),
        reconstructions=torch.cat(reconstructions) if reconstructions else None,
        images_per_second=sum(len(batch.image) for batch in batches[timed]) / sum(seconds[timed]),
    )


def denormalize(model: AnomalibModule, images: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation of a model's pre-processor, for people to look at the images ``(N, 3, H, W)``."""
    transform = model.pre_processor.transform  # type: ignore[union-attr]
    for normalize in reversed(extract_transforms_by_type(transform, Normalize)):
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (normalize.mean, normalize.std))
        images = images * std + mean
    return images.clamp(0, 1)


def measure(found: Found) -> dict[str, dict[str, float]]:
    """Compute the metrics of each kind of defect against the good images, and of all.

    Returns:
        For each kind, and for ``all``: image AUROC, pixel AUROC, AUPRO, and the best F1 of images.
    """
    kinds = sorted(set(found.kinds) - {GOOD})
    results = {}
    # Outside of [0, 1], the metrics take values for logits, and a sigmoid makes large distances all the same.
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
            metric.update(batch)
            results[kind][name] = float(metric.compute())
    return results


def _to_unit(values: torch.Tensor) -> torch.Tensor:
    """Bring values to [0, 1]; their order, which is all that the metrics look at, stays."""
    low, high = values.min().double(), values.max().double()
    return ((values.double() - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)).float()


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
