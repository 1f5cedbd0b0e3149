# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Benchmarks as a person starts them, at tiny size, and what they write."""

import json
import os
from pathlib import Path

from commands import typed
from paths import ROOT


def run(script: str, folder: Path, *arguments: str, code: int = 0, timeout: int = 300) -> str:
    """Run a benchmark into a folder, and return what it prints."""
    # What is exported for a CPU runs on one.
    given = ["--size", "tiny", "--output", folder, *([] if script == "exported.py" else ["--device", "cpu"])]
    result = typed(ROOT / "benchmarks" / script, *given, *arguments, folder=folder, seconds=timeout)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def read(folder: Path, name: str) -> dict:
    """Read the only result of a name."""
    (path,) = folder.glob(f"{name}-*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def check_header(result: dict):
    assert result["device"]["type"] == "cpu"
    assert result["device"]["name"]
    assert result["threads"] == int(os.environ["OMP_NUM_THREADS"])
    assert {"python", "torch", "anomalib", "anomalib-transfusion"} <= result["versions"].keys()
    assert len(result["commit"] or "0" * 40) == 40
    assert result["command"].startswith("python ")
    assert result["date"].startswith("20")
    assert result["finished"]
