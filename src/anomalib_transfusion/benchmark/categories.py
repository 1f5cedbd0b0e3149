# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Rows of one model for many categories in the table of a report: a row a category, beside models of one category."""

import json

import pandas as pd

from .metrics import KIND, METRICS, MULTI_CATEGORY, NUM_CATEGORIES, by_category

__all__ = ["CLASS_SEPARATED", "MULTI_CLASS", "one_row_a_category", "trainings"]

#: What the literature calls one model for many categories, and one model for each.
MULTI_CLASS, CLASS_SEPARATED = "multi-class", "class-separated"


def one_row_a_category(frame: pd.DataFrame) -> pd.DataFrame:
    """Give each category that a model was trained for a row of its own.

    Args:
        frame: Rows of trainings, with the columns ``model``, ``dataset`` and ``category``. Those of ``MultiCategory``
            have columns ``METRIC_CATEGORY``, ``kind.CATEGORY/NAME.METRIC`` and ``picture_CATEGORY``.

    Returns:
        Rows with these values under ``METRIC``, ``kind.NAME.METRIC`` and ``picture``, as trainings of one category have
        them. ``training`` is the number of the training, ``trained_on`` its ``category``, and ``setting`` is
        ``multi-class``, or where the data set has such rows, ``class-separated``, or nothing. The setting is added to the
        name of the model. A training of several categories that failed failed on all that the data set has.
    """
    frame = frame.reset_index(drop=True)
    frame = frame.assign(training=frame.index, trained_on=frame["category"], setting="")
    joins = frame["data.class_path"].astype(str).str.rsplit(".", n=1).str[-1] == MULTI_CATEGORY
    if not joins.any():
        return frame
    asked = {index: _categories(row) if joins[index] else [row["category"]] for index, row in frame.iterrows()}
    rows = []
    for index, row in frame.iterrows():
        # What failed on all categories that there are does not know their names.
        others = frame.index[frame["dataset"] == row["dataset"]]
        names = asked[index] or list(dict.fromkeys(name for other in others for name in asked[other]))
        values = {**row.to_dict(), "setting": "" if len(asked[index]) == 1 else MULTI_CLASS}
        rows += [_of(name, names, values) for name in names] if names and joins[index] else [values]
    exploded = pd.DataFrame(rows)
    for _, some in exploded.groupby("dataset"):
        if some["setting"].any():
            settings = some["setting"].where(some["setting"] == MULTI_CLASS, CLASS_SEPARATED)
            exploded.loc[some.index, "setting"] = settings
            exploded.loc[some.index, "model"] = some["model"] + ", " + settings
    return exploded


def trainings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each training, of what is not of a category."""
    return rows.drop_duplicates("training") if "training" in rows else rows


def _categories(row: pd.Series) -> list[str]:
    """Return the categories that a training of MultiCategory has values of, or should have had."""
    names = [
        column.removeprefix(by_category(metric, ""))
        for metric in METRICS
        for column in row.dropna().index
        if column.startswith(by_category(metric, ""))
    ]
    found = [name for name in dict.fromkeys(names) if name != NUM_CATEGORIES]
    told = row.get("categories")
    return found or (json.loads(told) if isinstance(told, str) else [])


def _of(category: str, categories: list[str], values: dict[str, object]) -> dict[str, object]:
    """Return what a row says about one category, without what it says about the others."""
    kept = dict(values)
    for name, absent in (*dict.fromkeys(METRICS, float("nan")).items(), ("picture", None)):
        kept[name] = kept.pop(by_category(name, category), absent)
        for other in (*categories, NUM_CATEGORIES):
            kept.pop(by_category(name, other), None)
    kinds = {name: kept.pop(name) for name in values if name.startswith(KIND)}
    own = f"{KIND}{category}/"
    kept |= {KIND + name.removeprefix(own): value for name, value in kinds.items() if name.startswith(own)}
    return {**kept, "category": category}
