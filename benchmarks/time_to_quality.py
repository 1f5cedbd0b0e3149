# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Detection quality against the minutes of training, from benchmarks whose trainings had different times.

    for minutes in 2 5 10; do
        anomalib benchmark --config configs/benchmark/minutes.yaml --set training_minutes=$minutes
    done
    python benchmarks/time_to_quality.py runs/benchmark/minutes/magnetic_tile-*

A point is the mean over seeds; bars reach from the lowest to the highest. Writes a plot, a table, and its rows as
a CSV file, which a later call takes beside new folders:

    python benchmarks/time_to_quality.py results/quality/time.csv runs/benchmark/minutes/magnetic_tile-25
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from anomalib_transfusion.benchmark import metrics
from anomalib_transfusion.benchmark.plots import COLORS, DPI, MARKERS
from anomalib_transfusion.benchmark.tables import markdown_of
from anomalib_transfusion.files import written_whole

SHOWN = ("image_AUROC", "pixel_AUPRO")
ABOUT = ("device", "threads", "version_torch")
KEPT = ["name", "folder", "seed", "fit_duration", "steps", *SHOWN, *ABOUT, "commit", "command"]


def read(paths: list[Path]) -> pd.DataFrame:
    """Return the finished rows of the benchmarks in some folders, and of earlier CSV files of this script.

    Raises:
        SystemExit: If there are no results, or none of them has finished rows.
    """
    tables = []
    for given in paths:
        path = given if given.suffix == ".csv" else given / "results.csv"
        if not path.is_file():
            msg = f"There is no {path}; expected output folders of anomalib benchmark, or a CSV file of this script."
            raise SystemExit(msg)
        table = pd.read_csv(path, dtype={"commit": str, "version_torch": str})
        if "status" in table:
            table = table[table["status"] == "done"]
        tables.append(table if "folder" in table else table.assign(folder=given.name))
    rows = pd.concat(tables, ignore_index=True)
    if rows.empty:
        msg = f"No row of {', '.join(map(str, paths))} is done; run the benchmark first."
        raise SystemExit(msg)
    # Later ones replace those of an earlier file.
    return rows[KEPT].drop_duplicates(["name", "folder", "seed"], keep="last")


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each model and folder: minutes, steps and seeds, and mean, lowest and highest of each metric."""
    groups = rows.groupby(["name", "folder"], sort=False)
    summary = pd.DataFrame({"minutes": groups["fit_duration"].mean() / 60, "steps": groups["steps"].mean()})
    summary["seeds"] = groups["seed"].nunique()
    for metric in SHOWN:
        for kind in ("mean", "min", "max"):
            summary[f"{metric} {kind}"] = 100 * groups[metric].agg(kind)
    return summary.reset_index().sort_values(["name", "minutes"], kind="stable")


def plot(summary: pd.DataFrame, path: Path) -> None:
    """Draw a line for each model, one panel for each metric."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    panels = figure.subplots(1, len(SHOWN))
    for axes, metric in zip(panels, SHOWN, strict=True):
        for number, (name, points) in enumerate(summary.groupby("name", sort=False)):
            mean, low, high = (points[f"{metric} {kind}"] for kind in ("mean", "min", "max"))
            axes.errorbar(
                points["minutes"],
                mean,
                yerr=[mean - low, high - mean],
                color=COLORS[number % len(COLORS)],
                marker=MARKERS[number % len(MARKERS)],
                capsize=3,
                label=name,
            )
        axes.set_xlabel("minutes of training")
        axes.set_ylabel(f"{metrics.METRICS[metric]} (%)")
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E5E5E5", linewidth=0.8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with written_whole(path) as part:
        figure.savefig(part, dpi=DPI, format=path.suffix[1:])


def table(summary: pd.DataFrame) -> str:
    """Return the table in Markdown; of several seeds, the mean and the lowest."""
    shown = pd.DataFrame({"minutes": summary["minutes"].map("{:.1f}".format)})
    shown["steps"] = summary["steps"].map("{:.0f}".format)
    shown["seeds"] = summary["seeds"].astype(str)
    for metric in SHOWN:
        mean, low = (summary[f"{metric} {kind}"].map("{:.1f}".format) for kind in ("mean", "min"))
        shown[metrics.METRICS[metric]] = mean.where(summary["seeds"] == 1, mean + " (lowest " + low + ")")
    return markdown_of(shown.set_index(pd.Index(summary["name"], name="model")))


def main() -> None:
    """Read, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="folders of anomalib benchmark, and earlier CSV files")
    parser.add_argument("--output", type=Path, default=Path("results/quality/time"), help="path without a suffix")
    options = parser.parse_args()
    rows = read(options.paths)
    summary = summarize(rows)
    plot(summary, options.output.with_suffix(".png"))
    with written_whole(options.output.with_suffix(".csv")) as part:
        rows.to_csv(part, index=False)
    about = [f"`{name}` {', '.join(sorted(set(rows[name].astype(str))))}" for name in ABOUT]
    commands = "\n".join(f"    {command}" for command in dict.fromkeys(rows["command"]))
    commits = ", ".join(dict.fromkeys(rows["commit"].str[:7]))
    text = f"{table(summary)}\n\n{'; '.join(about)}; commits {commits}\n\n{commands}\n"
    with written_whole(options.output.with_suffix(".md")) as part:
        part.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
