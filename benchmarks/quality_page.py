# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What a person reads of the quality benchmark: a page with tables, and a picture of the cases of each kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import record
from anomalib_transfusion.files import written_whole
from defects import ALL, GOOD, Found

METRICS = {
    "image_AUROC": "image AUROC",
    "image_F1Max": "image F1",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "AUPRO",
}
COLUMN_INCHES = 1.7
DPI = 80
QUALITY = 82


def draw_cases(found: Found, path: Path) -> Path:
    """Draw the best, the median and the worst case of each kind, by score, with the score beside it.

    The best case of a defect has the highest score, that of a good image the lowest.
    """
    cases = []
    for kind in sorted(set(found.kinds), key=lambda kind: (kind == GOOD, kind)):
        places = np.flatnonzero(found.kinds == kind)
        order = places[np.argsort(found.scores[places].numpy(), kind="stable")]
        order = order if kind == GOOD else order[::-1]
        chosen = (order[0], order[len(order) // 2], order[-1])
        cases += [(kind, what, place) for what, place in zip(("best", "median", "worst"), chosen, strict=True)]
    columns = ["image and true outline", "anomaly map"] + (
        ["reconstruction"] if found.reconstructions is not None else []
    )
    # Equal for all images, so that a person sees how far a defect stands out.
    limits = float(found.maps.min()), float(np.quantile(found.maps.amax(dim=(1, 2)).numpy(), 0.95))
    # Beside each other: three cases of a kind in a row.
    rows, wide = len(cases) // 3, 3 * len(columns)
    figure = Figure(figsize=(COLUMN_INCHES * wide, (COLUMN_INCHES + 0.25) * rows), layout="constrained")
    axes = figure.subplots(rows, wide, squeeze=False)
    for number, (kind, what, place) in enumerate(cases):
        first, *others = axes[number // 3, number % 3 * len(columns) :][: len(columns)]
        first.imshow(found.images[place].permute(1, 2, 0))
        if found.masks[place].any():
            first.contour(found.masks[place].float(), levels=[0.5], colors="red", linewidths=0.8)
        first.set_title(f"{kind}, {what}: {found.scores[place]:.3f}", fontsize=8)
        others[0].imshow(found.maps[place], vmin=limits[0], vmax=limits[1], cmap="inferno")
        if found.reconstructions is not None:
            others[1].imshow(found.reconstructions[place].permute(1, 2, 0))
        if number < 3:
            for axis, title in zip(others, columns[1:], strict=True):
                axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=DPI, format="jpg", pil_kwargs={"quality": QUALITY})
    return path


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the page."""
    done = [row for row in result["rows"] if row["status"] == "done"]
    settings, device = result["settings"], result["device"]
    lines = [
        f"# Detection quality on {path.stem.split('-')[0]}",
        "",
        f"On {device['name']}, {settings['image_size']} px; {record.versions_of(result)}.",
        "",
        *_commands(done),
        "",
        f"TransFusion: {settings['transfusion']}. Patchcore: {settings['patchcore']}. The best F1 over all "
        "thresholds; scores and maps before the post-processor.",
        "",
    ]
    if done:
        lines += ["## All defects", "", _overall(done), ""]
        for metric in ("image_AUROC", "pixel_AUPRO"):
            lines += [f"## {METRICS[metric]} by kind of defect", "", _by_kind(done, metric), ""]
    lines += [f"- {row['model']}, seed {row['seed']}, failed: {row['error']}" for row in result["rows"] if row["error"]]
    for row in done:
        lines += [
            f"## {row['model']}, seed {row['seed']}: best, median and worst cases",
            "",
            f"![]({row['pictures']})",
            "",
        ]
    with written_whole(path) as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")


def _commands(rows: list[dict[str, Any]]) -> list[str]:
    """Say what was run by which command, in lines of code."""
    runs: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        runs.setdefault((row["command"], row["threads"]), []).append(f"{row['model']} {row['seed']}")
    return [
        line
        for (command, threads), trained in runs.items()
        for line in (f"    # {', '.join(trained)}; threads: {threads}", f"    {command}")
    ]


def _overall(rows: list[dict[str, Any]]) -> str:
    """Make the table of all defects: a row a model, means over the seeds."""
    frame = pd.DataFrame([
        {
            "model": row["model"],
            **{title: 100 * row["metrics"][ALL][name] for name, title in METRICS.items()},
            "training, min": row["training_seconds"] / 60,
            "epochs": row["epochs"],
            "images/s": row["images_per_second"],
            "parameters, million": row["parameters"] / 1e6,
        }
        for row in rows
    ])
    grouped = frame.groupby("model", sort=False)
    table = grouped.mean().round(2).astype(str)
    spread = grouped.std()
    for title in METRICS.values():
        many = spread[title].notna()
        table.loc[many, title] += " ± " + spread.loc[many, title].round(2).astype(str)
    table.insert(0, "seeds", grouped.size())
    return str(table.to_markdown())


def _by_kind(rows: list[dict[str, Any]], metric: str) -> str:
    """Make a table of a metric: a row a model, a column a kind."""
    frame = pd.DataFrame([
        {"model": row["model"], **{kind: 100 * values[metric] for kind, values in row["metrics"].items()}}
        for row in rows
    ])
    return str(frame.groupby("model", sort=False).mean().round(2).to_markdown())
