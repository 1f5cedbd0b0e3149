# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Tables of the report beyond categories and models: differences from a baseline, kinds of defects, and commands."""

import pandas as pd

from .categories import trainings
from .metrics import ALL, KIND, METRICS, NOTE
from .tables import percent

__all__ = ["commands", "differences", "kinds"]


def differences(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Compare the models of one data set with one of them.

    Args:
        rows: The rows of the data set.
        baseline: Name of the model that the others are compared with.

    Returns:
        A row for each model, with its notes. Means over the trainings in %, with half of their range if there are
        several; differences in percentage points between trainings of the same category and seed, with their range in
        brackets.
    """
    present = [metric for metric in METRICS if metric in rows and rows[metric].notna().any()]
    done = rows[rows["status"] == "done"].set_index(["model", "category", "seed"])[present] * 100
    groups = done.groupby("model", sort=False)
    mean, spread = groups.mean(), (groups.max() - groups.min()) / 2
    # Only trainings of the same category and seed are compared; other differences are chance.
    base = done[done.index.get_level_values("model") == baseline].droplevel("model")
    others = done[done.index.get_level_values("model") != baseline]
    paired = (others - base.reindex(others.index.droplevel("model")).to_numpy()).dropna(how="all")
    pairs = paired.groupby("model", sort=False)
    middle, lowest, highest, number = pairs.mean(), pairs.min(), pairs.max(), pairs.size()
    table = pd.DataFrame({"trainings": groups.size()})
    for metric in present:
        name = METRICS[metric]
        table[name] = [
            f"{value:.1f} ± {half:.1f}" if count > 1 else f"{value:.1f}"
            for value, half, count in zip(mean[metric], spread[metric], table["trainings"], strict=True)
        ]
        table[f"{name}, difference"] = [
            ""
            if model not in middle.index
            else f"{middle[metric][model]:+.1f}"
            + (f" ({lowest[metric][model]:+.1f} to {highest[metric][model]:+.1f})" if number[model] > 1 else "")
            for model in table.index
        ]
    for column in (column for column in rows if column.startswith(NOTE)):
        notes = rows.dropna(subset=[column]).drop_duplicates("model").set_index("model")[column]
        table[column.removeprefix(NOTE)] = [notes.get(model, "") for model in table.index]
    return table


def kinds(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """List a metric by kind of defect for one category: a row for each model, means over the seeds in %."""
    columns = {
        column.removeprefix(KIND).removesuffix(f".{metric}"): column
        for column in rows
        if column.startswith(KIND) and column.endswith(f".{metric}") and rows[column].notna().any()
    }
    if not columns:
        return pd.DataFrame()
    done = rows[rows["status"] == "done"]
    means = done.groupby("model", sort=False)[[metric, *columns.values()]].mean()
    means.columns = pd.Index([ALL, *columns])
    return means.map(lambda value: percent(None if pd.isna(value) else value))


def commands(rows: pd.DataFrame) -> list[str]:
    """List the commands as lines of code, each with a comment on its trainings, device and number of threads."""
    if "command" not in rows:
        return []
    lines = []
    rows = rows.assign(trained_on=rows.get("trained_on", rows["category"]))
    run_by = trainings(rows).dropna(subset=["command"])
    told = run_by.groupby(["command", "threads", "device"], sort=False, dropna=False)
    for (command, threads, device), run in told:
        names = [f"{row.model} on {row.trained_on} {row.seed}" for row in run.itertuples()]
        lines += [f"    # {', '.join(names)}; {device}, threads: {threads:.0f}", f"    {command}"]
    return lines
