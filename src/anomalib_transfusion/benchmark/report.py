# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Write the report of one or several benchmarks: Markdown, CSV and PNG."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from anomalib_transfusion.files import written_whole

from .categories import CLASS_SEPARATED, MULTI_CLASS, trainings
from .comparison import commands, differences, kinds
from .load import load
from .metrics import METRICS
from .plots import plot_categories, plot_throughput
from .tables import (
    ABSENT,
    CategoryTable,
    bold_best,
    category_table,
    costs,
    markdown,
    markdown_of,
    percent,
    sentence,
)

__all__ = ["report"]

SETTINGS = f"{MULTI_CLASS}: one model for all categories. {CLASS_SEPARATED}: one model a category."


def report(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Make tables and plots from the results of benchmarks.

    Args:
        runs: The ``output_dir`` of benchmarks, or their ``results.csv``; those of anomalib's own benchmark as well.
        output: Folder to write into. By default the folder ``report`` beside the first results.

    Returns:
        The report, ``report.md``.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder has no results.
        ValueError: If a file is no such table, or there is no row in any of them.
    """
    frame = load(runs)
    if output is None:
        output = (runs[0] if runs[0].is_dir() else runs[0].parent) / "report"
    output.mkdir(parents=True, exist_ok=True)
    tables = {
        (dataset, metric): category_table(rows, metric)
        for dataset, rows in frame.groupby("dataset", sort=False)
        for metric in METRICS
    }
    parts = ["# Benchmark", _origin(frame, runs), "## All data sets", _overview(tables, frame, output)]
    for dataset, rows in frame.groupby("dataset", sort=False):
        parts += [f"## {dataset}", *_dataset(str(dataset), rows, tables, output), *_pictures(rows, output)]
    failed = frame[frame["status"] == "failed"]
    if len(failed):
        lines = [
            f"- {row.model} on {row.trained_on} ({row.dataset}, seed {row.seed}): {' '.join(str(row.error).split())}"
            for row in trainings(failed).itertuples()
        ]
        parts += ["## Failed", "\n".join(lines)]
    if lines := commands(frame):
        parts += ["## Commands", "\n".join(lines)]
    path = output / "report.md"
    with written_whole(path) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _write_table(frame: pd.DataFrame, path: Path, index: bool = True) -> None:
    """Write a table as CSV."""
    with written_whole(path) as partial:
        frame.to_csv(partial, index=index)


def _origin(frame: pd.DataFrame, runs: Sequence[Path]) -> str:
    """Describe the origin of the numbers: files, seeds, device and versions."""
    lines = [
        f"From {', '.join(f'`{run}`' for run in runs)}. AUROC and AUPRO are in percent; the best of a row is bold.",
    ]
    if len(frame["seed"].unique()) > 1:
        lines.append("Several seeds are given as mean ± sample standard deviation.")
    for column, what in (("device", "Device"), ("version_anomalib", "anomalib"), ("version_torch", "torch")):
        if column in frame and frame[column].notna().any():
            lines.append(f"{what}: {', '.join(map(str, frame[column].dropna().unique()))}.")
    return " ".join(lines)


def _overview(tables: dict[tuple[str, str], CategoryTable], frame: pd.DataFrame, output: Path) -> str:
    """Write the table in the shape of the paper's Table 3: models against data sets, and their average."""
    datasets = list(frame["dataset"].unique())
    columns: dict[str, dict[str, float | None]] = {}
    for metric in ("image_AUROC", "pixel_AUPRO"):
        of_metric = {}
        for dataset in datasets:
            table = tables[dataset, metric]
            if table.has_values:
                of_metric[f"{dataset} {sentence(METRICS[metric])}"] = {
                    model: table.mean(model).mean for model in table.models
                }
        columns |= of_metric
        if len(of_metric) > 1:
            models = set.intersection(
                *({m for m, value in column.items() if value is not None} for column in of_metric.values()),
            )
            average = {m: sum(column[m] or 0 for column in of_metric.values()) / len(of_metric) for m in models}
            columns[f"Average {sentence(METRICS[metric])}"] = {**average}
    summary = pd.DataFrame(columns, index=list(frame["model"].unique())).rename_axis("model")
    _write_table(summary, output / "summary.csv")
    shown = []
    for column in summary:
        values = [None if pd.isna(value) else float(value) for value in summary[column]]
        shown.append(bold_best([percent(value) for value in values], values))
    rows = [list(row) for row in zip(map(str, summary.index), *shown, strict=True)]
    text = markdown(["", *summary.columns], rows)
    return (
        f"{text}\n\nMeans over categories, as in the last rows of the tables below; here the best of a column is bold."
    )


def _dataset(
    dataset: str,
    rows: pd.DataFrame,
    tables: dict[tuple[str, str], CategoryTable],
    output: Path,
) -> list[str]:
    """Write the tables and plots of one data set."""
    parts = [SETTINGS] if (rows["setting"] == MULTI_CLASS).any() else []
    for metric, name in METRICS.items():
        table = tables[dataset, metric]
        if not table.has_values:
            continue
        _write_table(table.frame(), output / f"{_file_name(dataset)}_{metric}.csv", index=False)
        body = [
            [category, *bold_best([cell.text for cell in cells], [cell.mean for cell in cells])]
            for category, cells in table.rows()
        ]
        parts += [f"### {sentence(name)}", markdown(["", *table.models], body), _about_mean(table)]
    parts += _beyond(rows)
    table = tables[dataset, "image_AUROC"]
    if table.has_values:
        picture = f"{_file_name(dataset)}_image_AUROC.png"
        plot_categories(table, "image AUROC", f"Image AUROC on {dataset}", output / picture)
        parts.append(f"![Image AUROC of each model on each category of {dataset}]({picture})")
    cost = costs(rows)
    if len(cost.columns) and len(cost):
        _write_table(cost, output / f"{_file_name(dataset)}_cost.csv")
        body = [[str(model), *(_short(value) for value in cost.loc[model])] for model in cost.index]
        note = "Means over the trainings that finished."
        if "peak_memory_of" in rows and rows["peak_memory_of"].notna().any():
            note += f" The memory is the {' or the '.join(rows['peak_memory_of'].dropna().unique())}."
        parts += ["### Cost", markdown(["", *cost.columns], body), note]
    if table.has_values and "images per second" in cost:
        means = pd.Series({model: table.mean(model).mean for model in table.models}, dtype=float)
        points = (
            pd.DataFrame({"throughput": cost["images per second"], "accuracy": means}).reindex(table.models).dropna()
        )
        if len(points):
            picture = f"{_file_name(dataset)}_throughput.png"
            plot_throughput(points, "image AUROC", f"Accuracy against throughput on {dataset}", output / picture)
            parts.append(f"![Mean image AUROC against images per second on {dataset}]({picture})")
    return parts


def _beyond(rows: pd.DataFrame) -> list[str]:
    """Write the tables of the kinds of defects and of the differences from a baseline, where the rows have them."""
    parts = []
    for category, some in rows.groupby("category", sort=False):
        for metric, name in METRICS.items():
            table = kinds(some, metric)
            if len(table) and metric in {"image_AUROC", "pixel_AUPRO"}:
                parts += [f"### {sentence(name)} by kind of defect, {category}", markdown_of(table)]
    baselines = rows["baseline"].dropna().unique() if "baseline" in rows else []
    for baseline, setting in ((baseline, setting) for baseline in baselines for setting in rows["setting"].unique()):
        name = f"{baseline}, {setting}" if setting else baseline
        table = differences(rows[(rows["baseline"] == baseline) & (rows["setting"] == setting)], name)
        parts += [
            f"### Differences from {name}",
            markdown_of(table),
            "Means over the trainings in %, ± half of their range. Differences in points between trainings of the same "
            "category and seed, in brackets their range.",
        ]
    return parts


def _pictures(rows: pd.DataFrame, output: Path) -> list[str]:
    """Copy the pictures of the rows beside the report, and show them."""
    parts = []
    drawn = rows.dropna(subset=["picture"]) if "picture" in rows else rows[:0]
    for row in drawn.itertuples():
        source = Path(row.run) / row.picture
        if source.is_file():
            with written_whole(output / source.name) as partial:
                shutil.copyfile(source, partial)
            title = f"{row.model} on {row.category}, seed {row.seed}: best, median and worst cases"
            parts += [f"### {title}", f"![{title}]({source.name})"]
    return parts


def _about_mean(table: CategoryTable) -> str:
    """Describe which categories the mean is over."""
    common = table.common
    if len(common) == len(table.categories):
        return f"The mean is over all {len(common)} categories."
    if not common:
        return "There is no category that every model finished, and so no mean."
    return (
        f"The mean is over the {len(common)} of {len(table.categories)} categories that every model with a result "
        f"finished: {', '.join(common)}."
    )


def _short(value: float) -> str:
    """Format a number with three significant digits."""
    if pd.isna(value):
        return ABSENT
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _file_name(name: str) -> str:
    """Turn a name into one for files."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
