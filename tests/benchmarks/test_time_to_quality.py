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


def test_earlier_rows_are_taken_beside_new_ones(tmp_path):
    write(tmp_path / "bottle-2", ("done", "fast", 0, 120, 100, 0.9, 0.6), ("done", "fast", 1, 126, 110, 0.8, 0.5))
    assert typed(SCRIPT, "bottle-2", "--output", "time", folder=tmp_path).returncode == 0
    write(tmp_path / "new/bottle-2", ("done", "fast", 1, 126, 110, 0.7, 0.4), ("done", "slow", 0, 60, 5, 0.5, 0.1))
    done = typed(SCRIPT, "time.csv", "new/bottle-2", "--output", "time", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        line for line in (tmp_path / "time.md").read_text(encoding="utf-8").splitlines() if line[:3] in {"| f", "| s"}
    ]
    assert rows == [
        "| fast | 2.0 | 105 | 2 | 80.0 (lowest 70.0) | 50.0 (lowest 40.0) |",
        "| slow | 1.0 | 5 | 1 | 50.0 | 10.0 |",
    ]


def test_what_is_missing_is_named(tmp_path):
    done = typed(SCRIPT, str(tmp_path), folder=tmp_path)
    assert done.returncode == 1
    assert f"There is no {tmp_path / 'results.csv'}; expected output folders of anomalib benchmark" in done.stderr
    write(tmp_path / "none", ("failed", "fast", 0, "", "", "", ""))
    done = typed(SCRIPT, str(tmp_path / "none"), folder=tmp_path)
    assert done.returncode == 1
    assert "run the benchmark first" in done.stderr
