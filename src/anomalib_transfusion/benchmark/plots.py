# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The plots of a report, drawn without a display."""

import math
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from anomalib_transfusion.files import written_whole

from .tables import CategoryTable

if TYPE_CHECKING:
    from matplotlib.transforms import Bbox

__all__ = ["plot_categories", "plot_throughput"]

# Okabe and Ito's colors, which people with any color vision can tell apart.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
MARKERS = "osD^vP*X"
GRAY = "#555555"
DPI = 150


def plot_categories(table: CategoryTable, name: str, title: str, path: Path) -> None:
    """Draw a group of bars for each category and one for the mean.

    Args:
        table: The numbers.
        name: Name of the metric.
        title: Title of the plot.
        path: PNG to write.
    """
    groups = table.rows()
    values = [100 * cell.mean for _, cells in groups for cell in cells if cell.mean is not None]
    bottom = max(0, 10 * math.floor((min(values, default=0) - 5) / 10))
    bars = len(groups) * len(table.models)
    figure = Figure(figsize=(min(12, max(6.4, 1 + 0.17 * bars + 0.2 * len(groups))), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(table.models)
    for index in range(len(table.models)):
        color = COLORS[index % len(COLORS)]
        for place, (_, cells) in enumerate(groups):
            cell, x = cells[index], place + (index - (len(table.models) - 1) / 2) * width
            if cell.mean is not None:
                height = 100 * cell.mean - bottom
                # No more than 100 is possible.
                error = None if cell.std is None else [[100 * cell.std], [100 * min(cell.std, 1 - cell.mean)]]
                axes.bar(x, height, 0.92 * width, bottom, color=color, yerr=error, ecolor=GRAY, capsize=2)
                if bars <= 24 and error is None:
                    axes.annotate(
                        f"{100 * cell.mean:.1f}",
                        (x, bottom + height),
                        (0, 2),
                        textcoords="offset points",
                        ha="center",
                        fontsize=7,
                    )
            elif cell.failed:
                place_text = (x, bottom + 0.02 * (100 - bottom))
                axes.text(*place_text, "failed", rotation=90, ha="center", va="bottom", fontsize=8, color=color)
    axes.axvline(len(groups) - 1.5, color="#BBBBBB", linewidth=0.8)
    axes.set_xticks(range(len(groups)), [group for group, _ in groups])
    if len(groups) > 8:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(bottom, 100 + 0.05 * (100 - bottom))
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= 100])
    axes.set_ylabel(f"{name} (%)")
    _dress(axes)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    figure.suptitle(title, fontsize=12)
    handles = [Patch(color=COLORS[i % len(COLORS)], label=fill(m, 40)) for i, m in enumerate(table.models)]
    # As many beside each other as there is room for, at about eleven letters an inch.
    beside = int(11 * figure.get_figwidth() / (6 + max(min(40, len(model)) for model in table.models)))
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(beside, len(handles))), frameon=False)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=DPI, format="png")


def plot_throughput(points: pd.DataFrame, name: str, title: str, path: Path) -> None:
    """Draw accuracy against throughput, one labeled point for each model.

    Args:
        points: Columns ``throughput`` in images per second and ``accuracy`` in [0, 1]; the index names the models.
        name: Name of the metric of accuracy.
        title: Title of the plot.
        path: PNG to write.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    accuracy = 100 * points["accuracy"]
    axes.set_xscale("log")
    # Room for the names beside the points, at least a decade, so that the axis has ticks.
    low, high = math.log10(points["throughput"].min()), math.log10(points["throughput"].max())
    margin = max(0.25, 0.18 * (high - low), (1 - high + low) / 2)
    axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    room = max(1.0, 0.2 * (accuracy.max() - accuracy.min()))
    axes.set_ylim(accuracy.min() - room, accuracy.max() + room)
    low_tick, high_tick = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if low_tick <= tick <= min(100, high_tick)])
    for index, model in enumerate(points.index):
        axes.plot(
            points["throughput"].iloc[index],
            accuracy.iloc[index],
            MARKERS[index % len(MARKERS)],
            color=COLORS[index % len(COLORS)],
            markersize=9,
            label=model,
        )
    decades = high - low + 2 * margin
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("images per second (more is faster)")
    axes.set_ylabel(f"mean {name} (%)")
    axes.set_title(title)
    _dress(axes)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    figure.draw_without_rendering()
    _label(axes, points, accuracy)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=DPI, format="png")


def _label(axes: Axes, points: pd.DataFrame, accuracy: pd.Series) -> None:
    """Write each model's name beside its point, where it covers neither another point nor another name."""
    places = [
        (9, 0, "left", "center"),
        (-9, 0, "right", "center"),
        (0, 9, "center", "bottom"),
        (0, -9, "center", "top"),
    ]
    spots = [axes.transData.transform(spot) for spot in zip(points["throughput"], accuracy, strict=True)]
    taken: list[Bbox] = []
    for index, model in enumerate(points.index):
        texts = []
        for dx, dy, ha, va in places:
            spot = (points["throughput"].iloc[index], accuracy.iloc[index])
            text = axes.annotate(fill(str(model), 34), spot, (dx, dy), textcoords="offset points", ha=ha, va=va)
            box = text.get_window_extent().expanded(1.02, 1.1)
            others = [other for number, other in enumerate(spots) if number != index]
            bad = sum(box.overlaps(other) for other in taken) + sum(box.contains(*other) for other in others)
            bad += not (axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1)
            bad += not (axes.bbox.y0 < box.y0 and box.y1 < axes.bbox.y1)
            texts.append((bad, text, box))
        best = min(texts, key=lambda entry: entry[0])
        taken.append(best[2])
        for entry in texts:
            if entry is not best:
                entry[1].remove()


def _dress(axes: Axes) -> None:
    """Draw the data above the grid, and no frame where there is no scale."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
