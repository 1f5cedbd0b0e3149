# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The rows of a benchmark on disk: one JSON file each, and a table of all."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_transfusion.files import written_whole

from .metrics import NOTE
from .rows import Row

__all__ = ["finished", "picture_path", "read_row", "row_path", "write_row", "write_table"]

_FIRST = ("status", "error", "name", "dataset", "category", "accelerator", "seed")


def row_path(output_dir: str | Path, row: Row) -> Path:
    """Return the file of a row."""
    return Path(output_dir) / "rows" / f"{row.key}.json"


def picture_path(output_dir: str | Path, row: Row, category: str = "") -> Path:
    """Return the file of a row's picture, or of the picture of one of its categories."""
    # A digest, because different names of categories may be equal for a file system.
    digest = f"-{hashlib.sha256(category.encode()).hexdigest()[:8]}" if category else ""
    return Path(output_dir) / "pictures" / f"{row.key}{digest}.jpg"


def read_row(output_dir: str | Path, row: Row) -> dict[str, Any] | None:
    """Read a row, with the current name and notes of the config; ``None`` if there is no complete file."""
    try:
        result = json.loads(row_path(output_dir, row).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or "status" not in result:
        return None
    return {name: value for name, value in result.items() if not name.startswith(NOTE)} | row.named()


def finished(output_dir: str | Path, row: Row) -> bool:
    """Tell whether a row is done and needs no repetition."""
    result = read_row(output_dir, row)
    return result is not None and result["status"] == "done"


def write_row(output_dir: str | Path, row: Row, result: dict[str, Any]) -> None:
    """Write a row's file."""
    with written_whole(row_path(output_dir, row)) as partial:
        partial.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")


def write_table(output_dir: str | Path, rows: Iterable[Row], baseline: str | None = None) -> list[dict[str, Any]]:
    """Write ``results.csv`` from the files of these rows, and return what they hold; absent rows are left out.

    Args:
        output_dir: Folder of the benchmark.
        rows: Its rows.
        baseline: Name of the model that the report takes differences from, for a column of this name.
    """
    results = [result for row in rows if (result := read_row(output_dir, row)) is not None]
    if baseline is not None:
        results = [{**result, "baseline": baseline} for result in results]
    # Rows of different models have different columns; the first ones are the same in every table.
    columns = dict.fromkeys((*_FIRST, *(key for result in results for key in result)))
    frame = pd.DataFrame(results, columns=list(columns))
    with written_whole(Path(output_dir) / "results.csv") as partial:
        frame.to_csv(partial, index=False)
    return results
