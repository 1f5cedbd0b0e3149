# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Misses and false alarms of a model: how they depend on size, contrast and position of the defect, with pictures.

    python benchmarks/failures.py --checkpoint model.ckpt --root datasets/MVTecAD --category bottle

An image counts as detected if its score is above all but five percent of the good images' scores.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from anomalib.models import AnomalibModule
from matplotlib.figure import Figure

import record
from anomalib_transfusion.benchmark.detection import GOOD, Detections, Found
from anomalib_transfusion.benchmark.pictures import DPI, QUALITY
from anomalib_transfusion.benchmark.tables import markdown_of
from anomalib_transfusion.files import written_whole
from passes import load_data, load_model, trained_parser

FALSE_ALARMS = 0.05
RING_PIXELS = 5
SIZES = (0, 25, 100, 400, np.inf)
CONTRASTS = (0, 5, 10, 20, 40, 256)
# Half a gray level of 8 bits: beyond rounding.
UNCHANGED = 0.5 / 255
COLUMNS = 4
INCHES = 1.35
KINDS_OF_FAILURE = {
    "missed, hardly any contrast": lambda table: table[~table.detected & (table.contrast < CONTRASTS[2])],
    "missed, small": lambda table: table[~table.detected & (table.area < SIZES[2])],
    "missed, at the border": lambda table: table[~table.detected & table.border],
    "missed, none of these": lambda table: table[
        ~table.detected & ~table.border & (table.area >= SIZES[2]) & (table.contrast >= CONTRASTS[2])
    ],
    "detected for the wrong reason": lambda table: table[table.detected & ~table.hit],
}


def predict(model: AnomalibModule, data: AnomalibDataModule, device: str, folder: Path) -> Found:
    """Run a model on all test images."""
    model.visualizer, model.evaluator = None, Evaluator()
    detections = Detections()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "default_root_dir": folder}
    engine = Engine(callbacks=[detections], accelerator="gpu" if device == "cuda" else device, devices=1, **quiet)
    engine.test(model, datamodule=data, verbose=False)
    return detections.found


def describe(found: Found) -> pd.DataFrame:
    """Describe every image with a defect.

    Returns:
        A row for each image: ``place`` (its index), ``kind``, ``score``, ``area`` of the defect in pixels, ``contrast``
        in gray levels of 8 bits against a ring around it, ``border``: whether it touches the image border,
        ``detected``: whether the score is above the threshold, ``hit``:
        whether the largest value of the map lies on the defect or within the ring, ``changed``: whether the reverse
        process changed any pixel of the defect, which it does where a mask is above 0.5.
    """
    good = found.kinds == GOOD
    threshold = np.quantile(found.scores[torch.from_numpy(good)].numpy(), 1 - FALSE_ALARMS)
    rows = []
    for place in np.flatnonzero(~good):
        mask = found.masks[place].numpy().astype(np.uint8)
        if not mask.any():
            continue
        grown = cv2.dilate(mask, np.ones((2 * RING_PIXELS + 1,) * 2, np.uint8)).astype(bool)
        inside, ring = mask.astype(bool), grown & ~mask.astype(bool)
        gray = 255 * found.images[place].mean(dim=0).numpy()
        edge = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
        score = float(found.scores[place])
        rows.append({
            "place": place,
            "kind": found.kinds[place],
            "score": score,
            "area": int(inside.sum()),
            "contrast": abs(gray[inside].mean() - gray[ring].mean()) if ring.any() else 0.0,
            "border": bool(edge.any()),
            "detected": score > threshold,
            "hit": bool(grown.flat[int(found.maps[place].argmax())]),
            "changed": bool(changed_pixels(found, place)[inside].any()),
        })
    return pd.DataFrame(rows)


def changed_pixels(found: Found, place: np.integer) -> np.ndarray:
    """Return the mask of pixels that the reverse process changed, bool, ``(H, W)``."""
    assert found.reconstructions is not None
    change = (found.reconstructions[place] - found.images[place]).abs().amax(dim=0)
    return (change > UNCHANGED).numpy()


def shares(table: pd.DataFrame, by: Any) -> pd.DataFrame:  # noqa: ANN401
    """Return how many of each group are detected, have the map's peak on the defect, and are changed on the defect."""
    groups = table.groupby(by, observed=True)
    return pd.DataFrame({
        "images": groups.size(),
        "detected, %": (100 * groups["detected"].mean()).round(0).astype(int),
        "peak on the defect, %": (100 * groups["hit"].mean()).round(0).astype(int),
        "changed by the reverse process, %": (100 * groups["changed"].mean()).round(0).astype(int),
    })


def draw(found: Found, rows: dict[str, list[int]], path: Path) -> None:
    """Draw images with the outline of the defect, and their maps beside them, a row for each kind of failure."""
    limits = float(found.maps.min()), float(np.quantile(found.maps.amax(dim=(1, 2)).numpy(), 0.95))
    figure = Figure(figsize=(2 * COLUMNS * INCHES, (INCHES + 0.3) * len(rows)), layout="constrained")
    for part, (name, places) in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        part.suptitle(name, fontsize=9, fontweight="bold", x=0.005, ha="left")
        line = part.subplots(1, 2 * COLUMNS)
        for number, place in enumerate(places):
            picture, anomaly_map = line[2 * number : 2 * number + 2]
            picture.imshow(found.images[place].permute(1, 2, 0))
            if found.masks[place].any():
                picture.contour(found.masks[place].float(), levels=[0.5], colors="red", linewidths=0.7)
            anomaly_map.imshow(found.maps[place], vmin=limits[0], vmax=limits[1], cmap="inferno")
            picture.set_title(f"{found.kinds[place]}: {found.scores[place]:.2f}", fontsize=7, loc="left", pad=2)
        for axis in line:
            axis.set_axis_off()
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=DPI, format="jpg", pil_kwargs={"quality": QUALITY})


def choose(found: Found, table: pd.DataFrame) -> dict[str, list[int]]:
    """Choose the images of each kind of failure, spread over what there is, and the worst false alarms."""
    rows = {}
    for name, select in KINDS_OF_FAILURE.items():
        failed = select(table).sort_values("score")
        if len(failed):
            chosen = np.linspace(0, len(failed) - 1, min(COLUMNS, len(failed))).round().astype(int)
            rows[f"{name} ({len(failed)})"] = failed.place.iloc[chosen].tolist()
    good = np.flatnonzero(found.kinds == GOOD)
    worst = good[np.argsort(-found.scores[good].numpy(), kind="stable")][:COLUMNS]
    return rows | {"false alarms, the highest scores of good images": worst.tolist()}


def write_page(table: pd.DataFrame, category: str, picture: Path, path: Path, command: str) -> None:
    """Write tables and picture as a page."""
    parts = {
        "All": shares(table, pd.Series("all defects", index=table.index, name="")),
        "By kind": shares(table, "kind"),
        "By area of the defect, pixels": shares(table, pd.cut(table.area, SIZES)),
        "By contrast to its surroundings, gray levels": shares(table, pd.cut(table.contrast, CONTRASTS, right=False)),
        "By place": shares(table, table.border.map({True: "touches the border", False: "does not"})),
    }
    lines = [f"# Failures on {category}", "", f"    {command}", ""]
    lines += [f"A defect is detected above the score of {100 * (1 - FALSE_ALARMS):.0f} % of the good images.", ""]
    for title, frame in parts.items():
        lines += [f"## {title}", "", markdown_of(frame), ""]
    lines += ["## Pictures", "", f"![Image and map of missed defects and of false alarms]({picture.name})", ""]
    with written_whole(path) as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    """Predict, describe, draw and write."""
    options = trained_parser(__doc__, record.ROOT / "results" / "quality").parse_args()
    device = torch.device(options.device)
    with TemporaryDirectory() as folder:
        found = predict(load_model(options), load_data(options, Path(folder)), options.device, Path(folder))
    table = describe(found)
    path = record.result_path(options.output, f"failures-{options.category}", device).with_suffix(".md")
    draw(found, choose(found, table), path.with_suffix(".jpg"))
    write_page(table, options.category, path.with_suffix(".jpg"), path, record.header(device)["command"])
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
