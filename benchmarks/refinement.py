# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What DRDC's parts are worth on a checkpoint: base model, refinement, both; the category; fine defects; the cost.

    python benchmarks/refinement.py --checkpoint drdc.ckpt                                  # the demo's three surfaces
    python benchmarks/refinement.py --checkpoint drdc.ckpt --root datasets/MVTecAD --categories screw cookie

Each category's test images are evaluated with their true category, with what the category head tells, with the null
category, and with a wrong one (the next of the model's). A fine defect covers less than a hundredth of its image. The
scores are the model's own, before a post-processor. ``--size tiny`` tries the script on networks that were not trained.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from anomalib.data import ImageBatch
from torch.utils.flop_counter import FlopCounterMode

import record
from anomalib_transfusion import Drdc
from anomalib_transfusion.models.drdc.category import UNKNOWN
from anomalib_transfusion.models.drdc.heatmaps import bound, box_mean
from passes import METRICS, load_data, load_model, measure, read_batches, trained_parser

FINE = 0.01
PARTS = ("base", "refinement", "both")
TOLD = ("true", "head", "null", "wrong")
TINY = {
    "backbone": "test_efficientnet",
    "feature_stride": 8,
    "hidden_dim": 8,
    "num_layers": 1,
    "timesteps": (12,),
    "cell_sizes": (8,),
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "num_blocks": 1,
}
# Scores and maps of each batch.
Found = list[tuple[torch.Tensor, torch.Tensor]]


def load_drdc(options: argparse.Namespace) -> Drdc:
    """Read the checkpoint; without one, ``--size tiny`` stands for networks that were not trained."""
    model = load_model(options, Drdc, {"categories": options.categories, **TINY})
    backbone = model.model.base.backbone
    if options.checkpoint is None:
        backbone.load(backbone.network.state_dict())
    return model


def index_of(told: str, true: int, number: int) -> int:
    """Return the index of the category that the model is told; the head decides where it is unknown."""
    return {"true": true, "head": UNKNOWN, "null": number, "wrong": (true + 1) % number}[told]


@torch.no_grad()
def evaluate(model: Drdc, batches: list[ImageBatch], index: int) -> tuple[dict[str, Found], torch.Tensor]:
    """Evaluate all images of a category as those of the category with an index.

    Returns:
        Scores and maps of each part, and the categories that the images were taken for.
    """
    network = model.model
    device = network.statistics.device
    found: dict[str, Found] = {part: [] for part in PARTS}
    taken = []
    for batch in batches:
        categories = torch.full((len(batch.image),), index, device=device)
        result, parts = network.predict(batch.image.to(device), categories)
        taken.append(parts.categories.cpu())
        for part, maps in {"base": parts.base_map, "refinement": parts.refinement}.items():
            smooth = bound(box_mean(maps, network.filter_size)).cpu()
            found[part].append((smooth.amax(dim=(1, 2, 3)), smooth))
        found["both"].append((result.pred_score.cpu(), result.anomaly_map.cpu()))
    return found, torch.cat(taken)


def of_kind(batches: list[ImageBatch], found: Found, fine: bool) -> tuple[list[ImageBatch], Found]:
    """Keep good images and those whose defects are fine, or those whose are not."""
    kept_batches, kept = [], []
    for batch, (scores, maps) in zip(batches, found, strict=True):
        good = ~batch.gt_label.bool()
        share = batch.gt_mask.flatten(1).float().mean(dim=1)
        keep = good | ((share < FINE) == fine)
        if keep.any():
            image, label, mask = batch.image[keep], batch.gt_label[keep], batch.gt_mask[keep]
            kept_batches.append(ImageBatch(image=image, gt_label=label, gt_mask=mask))
            kept.append((scores[keep], maps[keep]))
    return kept_batches, kept


def rows_of(model: Drdc, category: str, batches: list[ImageBatch]) -> Iterator[dict[str, Any]]:
    """Yield the metrics of a category: all defects by part and told category, fine and other ones by part."""
    true, number = model.names.names.index(category), len(model.names)
    for told in TOLD if number > 1 else TOLD[:1]:
        found, taken = evaluate(model, batches, index_of(told, true, number))
        hits = (taken == true).float()
        labels = torch.cat([batch.gt_label for batch in batches]).bool()
        right = {"right_on_good": hits[~labels].mean().item(), "right_on_defective": hits[labels].mean().item()}
        for part in PARTS:
            yield {"category": category, "told": told, "part": part, "defects": "all", **right} | measure(
                batches,
                found[part],
            )
        if told != "true":
            continue
        for part, fine in product(PARTS, (True, False)):
            kept = of_kind(batches, found[part], fine)
            # Not every category has defects of both kinds.
            if any(batch.gt_label.any() for batch in kept[0]):
                defects = "fine" if fine else "other"
                yield {"category": category, "told": told, "part": part, "defects": defects} | measure(*kept)


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the rows of all categories that differ by nothing else."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["told"], row["defects"], row["part"]), []).append(row)
    result = []
    for (told, defects, part), group in sorted(groups.items()):
        named = {"told": told, "defects": defects, "part": part, "categories": len(group)}
        names = [name for name in group[0] if isinstance(group[0][name], float)]
        result.append(named | {name: fmean(row[name] for row in group) for name in names})
    return result


@torch.no_grad()
def cost(model: Drdc, batch: torch.Tensor, rounds: int = 5) -> dict[str, Any]:
    """Measure an image's passes and floating point operations, and images per second of a batch and of one image."""
    network = model.model
    network.predict(batch[:1])
    with FlopCounterMode(display=False) as counter:
        network.predict(batch[:1])
    result = {"passes": network.refinement.num_passes, "gflop_per_image": counter.get_total_flops() / 1e9}
    for name, images in {"images_per_second": batch, "images_per_second_one_at_a_time": batch[:1]}.items():
        seconds = []
        for _ in range(rounds):
            start = perf_counter()
            network.predict(images)
            seconds.append(perf_counter() - start)
        result[name] = len(images) / sorted(seconds)[rounds // 2]
    return result


def main() -> None:
    """Measure and write."""
    parser = trained_parser(__doc__, record.RESULTS)
    parser.add_argument("--categories", nargs="+", default=["brick", "gravel", "grass"])
    parser.add_argument("--name", default="refinement", help="name of the result")
    options = parser.parse_args()
    model = load_drdc(options)
    if unknown := [name for name in options.categories if name not in model.names.names]:
        parser.error(f"{unknown[0]!r} is none of the model's categories; choose of {', '.join(model.names.names)}.")
    device = torch.device(options.device)
    # Nothing is trained: the counter of operations would look for gradients.
    model.to(device).requires_grad_(requires_grad=False)
    path = record.result_path(options.output, options.name, device)
    rows: list[dict[str, Any]] = []
    result = {"benchmark": path.stem, "finished": False, **record.header(device), "rows": rows}
    result["checkpoint"] = str(options.checkpoint)
    batches: list[ImageBatch] = []
    for category in options.categories:
        options.category = category
        with TemporaryDirectory() as folder:
            batches = read_batches(model, load_data(options, Path(folder)))
        rows.extend(rows_of(model, category, batches))
        record.write(path, result)
    result["cost"] = cost(model, batches[0].image.to(device))
    result["means"] = means(rows)
    result["finished"] = True
    record.write(path, result)
    lines = [
        [f"{row['told']}, {row['defects']} defects, {row['part']}", str(row["categories"])]
        + [f"{100 * row[name]:.1f}" for name in METRICS]
        for row in result["means"]
    ]
    closing = [", ".join(f"{name} {value:.4g}" for name, value in result["cost"].items()), f"Written to {path}"]
    record.show(path.stem, ["category told", "categories", *METRICS.values()], lines, closing)


if __name__ == "__main__":
    main()
