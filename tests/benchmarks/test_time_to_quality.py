# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Quality against minutes of training, as a person asks for it."""

import csv

from PIL import Image

from commands import typed
from paths import ROOT

SCRIPT = ROOT / "benchmarks/time_to_quality.py"
HEAD = [
    "status",
    "name",
    "seed",
    "fit_duration",
    "steps",
    "image_AUROC",
    "pixel_AUPRO",
    "device",
    "threads",
    "version_torch",
    "commit",
    "command",
]


def write(folder, *rows):
    folder.mkdir(parents=True)
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([
            HEAD,
            *([*row, "a card", 2, "2.14", "0123456789", "anomalib benchmark"] for row in rows),
        ])


def test_table_and_plot(tmp_path):
    """The mean of the seeds and the lowest, models by their minutes; failed rows are left out."""
    write(tmp_path / "bottle-2", ("done", "fast", 0, 120, 100, 0.9, 0.6), ("done", "fast", 1, 126, 110, 0.8, 0.5))
    write(tmp_path / "bottle-10", ("done", "fast", 0, 600, 500, 0.95, 0.7), ("failed", "slow", 0, "", "", "", ""))
    given = [tmp_path / "bottle-10", tmp_path / "bottle-2", "--output", tmp_path / "out/time"]
    done = typed(SCRIPT, *map(str, given), folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "out/time.md").read_text(encoding="utf-8")
    assert text in done.stdout
    rows = [line for line in text.splitlines() if line.startswith("| fast")]
    assert rows == [
        "| fast | 2.0 | 105 | 2 | 85.0 (lowest 80.0) | 55.0 (lowest 50.0) |",
        "| fast | 10.0 | 500 | 1 | 95.0 | 70.0 |",
    ]
    assert "slow" not in text
    assert "`device` a card" in text
    assert "commits 0123456" in text
    with Image.open(tmp_path / "out/time.png") as picture:
        assert picture.width > 1000


def test_what_is_missing_is_named(tmp_path):
    done = typed(SCRIPT, str(tmp_path), folder=tmp_path)
    assert done.returncode == 1
    assert f"There is no {tmp_path / 'results.csv'}; expected the output folders of anomalib benchmark" in done.stderr
    write(tmp_path / "none", ("failed", "fast", 0, "", "", "", ""))
    done = typed(SCRIPT, str(tmp_path / "none"), folder=tmp_path)
    assert done.returncode == 1
    assert "run the benchmark first" in done.stderr
