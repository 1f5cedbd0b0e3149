# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Results of a benchmark: a JSON file that is written atomically, and a printed table."""

import json
import platform
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import anomalib_transfusion
from anomalib_transfusion.benchmark.environment import (
    command,
    commit,
    device_name,
    processor_information,
    version_of,
)
from anomalib_transfusion.files import written_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "bench"
PACKAGES = ("anomalib", "lightning", "numpy", "opencv-python-headless", "torchvision")
BF16_UNITS = ("amx_bf16", "avx512_bf16")

# Dense bf16 peak of cards in FLOP/s as their makers state it, by a part of the card's name. The first match counts.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "H200": 989.4e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


def peak_flops(device: torch.device) -> float | None:
    """Return the dense bf16 peak of a card in FLOP/s, or None if it is not in the table."""
    name = device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None) if device.type == "cuda" else None


def header(device: torch.device) -> dict[str, Any]:
    """Describe when, where and with what a benchmark runs."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions["anomalib-transfusion"] = anomalib_transfusion.__version__
    versions |= {name: version_of(name) for name in PACKAGES}
    words = processor_information().split()
    return {
        "device": {
            "type": device.type,
            "name": device_name(device),
            "bf16_peak_flops": peak_flops(device),
            "cpu_bf16_units": [unit for unit in BF16_UNITS if unit in words],
        },
        "threads": torch.get_num_threads(),
        "tf32": {"convolution": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
        "versions": versions,
        **commit(),
        "command": command(),
        "date": now(),
    }


def now() -> str:
    """Return the time as text."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def result_path(folder: Path, name: str, device: torch.device) -> Path:
    """Return where the result of a benchmark belongs."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return folder / f"{name}-{slug}.json"


def read(path: Path) -> dict[str, Any] | None:
    """Read a result that was written before, if there is one."""
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def versions_of(result: dict[str, Any]) -> str:
    """Name the versions that made a result, for a page."""
    return ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "anomalib", "anomalib-transfusion"))


def show(title: str, columns: list[str], rows: list[list[str]], notes: list[str]) -> None:
    """Print a table; the first column is words, the others are numbers."""
    # A fixed width if the output is no terminal, so that numbers are not cut off.
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)
