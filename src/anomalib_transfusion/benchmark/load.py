# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Read the results of benchmarks, ours and anomalib's own, into one table."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .categories import one_row_a_category
from .metrics import METRICS, joins_categories

__all__ = ["METRICS", "load"]

_NEEDED = ("model.class_path", "data.class_path")
_CATEGORY = "data.init_args.category"
_DATASET = "data.init_args.dataset"


def load(runs: Sequence[Path]) -> pd.DataFrame:
    """Read the rows of benchmarks.

    Args:
        runs: Folders with a ``results.csv``, or such files.

    Returns:
        A table with the columns ``model``, ``dataset``, ``category``, ``seed``, ``status`` (``done`` or ``failed``),
        ``error`` and ``run`` (the folder of the file) beside those of the files, and those of
        :func:`.categories.one_row_a_category`. Models that share a name but not their parameters are told apart by
        them.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder has no results.
        ValueError: If a file is no such table, or there is no row in any of them.
    """
    files = list(dict.fromkeys(_find(run).resolve() for run in runs))
    frame = pd.concat([_read(file) for file in files], ignore_index=True)
    if frame.empty:
        msg = f"There is no row in {', '.join(map(str, files))}. Run the benchmark until a row has ended."
        raise ValueError(msg)
    if not any(metric in frame for metric in METRICS) and not (frame["status"] == "failed").any():
        msg = (
            f"There is none of the columns {', '.join(METRICS)} in {', '.join(map(str, files))}. Pass the results.csv "
            "of a benchmark whose models report one of them."
        )
        raise ValueError(msg)
    for metric in METRICS:
        frame[metric] = pd.to_numeric(frame[metric], errors="coerce") if metric in frame else float("nan")
    return _tell_apart(one_row_a_category(frame))


def _find(run: Path) -> Path:
    """Return the file of a run, or say why there is none."""
    if not run.exists():
        msg = f"There is no {run}. Pass the output_dir of a benchmark, or a results.csv."
        raise FileNotFoundError(msg)
    if run.is_file():
        return run
    if not (run / "results.csv").is_file():
        msg = f"The folder {run} has no results.csv. Pass the output_dir of a benchmark that has run."
        raise FileNotFoundError(msg)
    return run / "results.csv"


def _read(file: Path) -> pd.DataFrame:
    """Read one file, and add the columns that anomalib's own files lack."""
    try:
        # Names of categories may look like numbers: BTech has 01.
        frame = pd.read_csv(file, dtype=dict.fromkeys(("category", "name", _CATEGORY), str))
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{file} cannot be read as a table ({str(error).strip()}). Pass the results.csv of a benchmark."
        raise ValueError(msg) from None
    # A benchmark whose rows are all still to come writes a table without them.
    absent = [name for name in _NEEDED if name not in frame] if len(frame) else []
    if absent:
        msg = f"{file} has no column {', '.join(absent)}. Pass the results.csv of a benchmark."
        raise ValueError(msg)
    if frame.empty:
        return frame
    frame["run"] = str(file.parent)
    short = {name: frame[name].astype(str).str.rsplit(".", n=1).str[-1] for name in _NEEDED}
    frame["model"] = frame["name"].fillna(short[_NEEDED[0]]) if "name" in frame else short[_NEEDED[0]]
    frame["dataset"] = short[_NEEDED[1]]
    joins = frame[_NEEDED[1]].map(joins_categories)
    if joins.any():
        joined = frame[_DATASET] if _DATASET in frame else pd.Series(index=frame.index, dtype=object)
        frame.loc[joins, "dataset"] = joined[joins].fillna("MVTecAD")
    categories = frame["category"] if "category" in frame else frame.get(_CATEGORY, frame["dataset"])
    frame["category"] = categories.fillna(frame["dataset"]).astype(str)
    for name, default in (("status", "done"), ("error", None), ("seed", 0)):
        if name not in frame:
            frame[name] = default
    return frame


def _tell_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Add differing parameters to the names of models that would otherwise be averaged as the same model."""
    frame = frame.copy()
    columns = [name for name in frame if name == "accelerator" or name.startswith("model.")]
    for _, rows in frame.groupby(["dataset", "model"], sort=False):
        settings = rows[columns].astype(object).fillna("default").astype(str)
        same_place = rows.assign(settings=settings.agg("|".join, axis=1)).groupby(["category", "seed"])["settings"]
        if max(map(len, same_place.unique())) == 1:
            continue
        varying = [column for column in settings if len(settings[column].unique()) > 1]
        # Parameters distinguish models better than class paths.
        varying = [column for column in varying if not column.endswith(".class_path")] or varying
        shown = settings[varying].rename(columns=lambda column: column.rsplit(".", 1)[-1])
        names = [", ".join(f"{key}={value}" for key, value in row.items()) for row in shown.to_dict("records")]
        frame.loc[rows.index, "model"] += [f" ({name})" for name in names]
    return frame
