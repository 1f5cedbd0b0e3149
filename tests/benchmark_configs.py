# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The configs of `anomalib benchmark` in `configs/benchmark`: their rows, and the command as a person types it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from anomalib_transfusion.benchmark.config import with_settings
from anomalib_transfusion.benchmark.pipeline import _read
from commands import typed
from paths import ROOT

CONFIGS = ROOT / "configs/benchmark"


def read(name: str, *settings: str) -> tuple[Any, ...]:
    """Return all that is read of the config of a name for a CPU, its rows last.

    Args:
        name: Name of the file, without its ending.
        settings: Values of variables, as after ``--set``.
    """
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    return _read({**with_settings(config, settings), "accelerator": "cpu"})


def typed_rows(name: str, settings: Sequence[str], only: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Run some rows of a config as a person types it.

    Args:
        name: Name of the file, without its ending.
        settings: What follows ``--set``; results must go below ``output=out``.
        only: Names of rows.
        folder: Where the command is typed.

    Returns:
        Results of the rows by their names; all are done.
    """
    arguments = ["benchmark", "--config", CONFIGS / f"{name}.yaml", "--set", *settings, "--only", *only]
    done = typed("anomalib", *arguments, folder=folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("out/*/rows/*.json")]
    assert {row["status"] for row in rows} == {"done"}
    assert {row["name"] for row in rows} == set(only)
    return {row["name"]: row for row in rows}
