# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""One row for each category in the tables of a report, also for models that were trained on many categories."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from .metrics import KIND, METRICS, NUM_CATEGORIES, by_category, joins_categories

__all__ = ["CLASS_SEPARATED", "MULTI_CLASS", "categories_of", "one_row_a_category", "trainings"]

#: Terms of the literature for one model for all categories, and for one model for each category.
MULTI_CLASS, CLASS_SEPARATED = "multi-class", "class-separated"


def one_row_a_category(frame: pd.DataFrame) -> pd.DataFrame:
    """Split the rows of models for many categories into one row for each category.

    Args:
        frame: Rows of trainings, with the columns ``model``, ``dataset`` and ``category``. Those of ``MultiCategory``
            have columns ``METRIC_CATEGORY``, ``kind.CATEGORY/NAME.METRIC`` and ``picture_CATEGORY``.

    Returns:
        Rows with these values under ``METRIC``, ``kind.NAME.METRIC`` and ``picture``, as for trainings on one category.
        ``training`` is the number of the training and ``trained_on`` its ``category``. ``setting`` is ``multi-class``,
        ``class-separated`` for the other rows of a data set with such rows, or empty; it is added to the name of the
        model. A failed training on all categories gives a failed row for each category of the data set.
    """
    frame = frame.assign(training=range(len(frame)), trained_on=frame["category"], setting="")
    joins = [joins_categories(path) for path in frame["data.class_path"]]
    if not any(joins):
        return frame
    trained: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    named = [categories_of(row) if several else [row["category"]] for row, several in zip(trained, joins, strict=True)]
    of_dataset: dict[str, dict[str, None]] = {}
    for row, names in zip(trained, named, strict=True):
        of_dataset.setdefault(row["dataset"], {}).update(dict.fromkeys(names))
    rows = []
    for row, names, several in zip(trained, named, joins, strict=True):
        values = {**row, "setting": "" if len(names) == 1 else MULTI_CLASS}
        # A failed training on "all" categories has no names of them.
        places = names or list(of_dataset[row["dataset"]])
        rows += [_of(name, places, values) for name in places] if several and places else [values]
    exploded = pd.DataFrame(rows)
    for _, some in exploded.groupby("dataset"):
        if some["setting"].any():
            settings = some["setting"].where(some["setting"] == MULTI_CLASS, CLASS_SEPARATED)
            exploded.loc[some.index, "setting"] = settings
            exploded.loc[some.index, "model"] = some["model"] + ", " + settings
    return exploded


def trainings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each training, for values that do not depend on the category."""
    return rows.drop_duplicates("training") if "training" in rows else rows


def categories_of(row: Mapping[str, Any]) -> list[str]:
    """Return the categories with values in a row of MultiCategory, or those in its config if it has no values.

    Args:
        row: Columns of the training.

    Returns:
        Names of the categories; empty if a training on "all" categories failed.
    """
    prefixes = [by_category(metric, "") for metric in METRICS]
    names = [
        column.removeprefix(prefix)
        for prefix in prefixes
        for column, value in row.items()
        if column.startswith(prefix) and not pd.isna(value)
    ]
    found = [name for name in dict.fromkeys(names) if name != NUM_CATEGORIES]
    told = row.get("categories")
    return found or (json.loads(told) if isinstance(told, str) else [])


def _of(category: str, categories: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the values of one category, without those of the others."""
    kept = dict(values)
    for name, absent in (*dict.fromkeys(METRICS, float("nan")).items(), ("picture", None)):
        kept[name] = kept.pop(by_category(name, category), absent)
        for other in (*categories, NUM_CATEGORIES):
            kept.pop(by_category(name, other), None)
    kinds = {name: kept.pop(name) for name in values if name.startswith(KIND)}
    own = f"{KIND}{category}/"
    kept |= {KIND + name.removeprefix(own): value for name, value in kinds.items() if name.startswith(own)}
    return {**kept, "category": category}
