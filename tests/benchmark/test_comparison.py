# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Differences from a baseline and kinds of defects in the report, against arithmetic by hand."""

import pandas as pd
import pytest

from anomalib_transfusion.benchmark.comparison import commands, differences, kinds
from anomalib_transfusion.benchmark.report import report
from anomalib_transfusion.benchmark.tables import markdown_of

ROWS = pd.DataFrame({
    "status": ["done", "done", "done", "done", "done", "failed"],
    "model": ["TransFusion", "no L_n", "TransFusion", "no L_n", "no L_a", "no L_m"],
    "name": ["TransFusion", "no L_n", "TransFusion", "no L_n", "no L_a", "no L_m"],
    "category": "brick",
    "seed": [1, 1, 2, 2, 3, 1],
    "image_AUROC": [0.9, 0.7, 1.0, 0.75, 0.8, None],
    "pixel_AUROC": [0.9, 0.8, 0.9, 0.8, 0.8, None],
    "pixel_AUPRO": [0.8, 0.85, 0.8, 0.85, 0.8, None],
    "note.the paper's": [None, "-31.8, -26.0", None, "-31.8, -26.0", "about -1", "about -1"],
    "kind.hole.image_AUROC": [0.8, 0.6, 0.9, 0.7, 0.5, None],
    "model.class_path": "TransFusion",
    "data.class_path": "DemoSurface",
    "baseline": "TransFusion",
    "device": "a processor",
    "threads": 2,
    "command": ["anomalib benchmark --config a.yaml"] * 4 + ["anomalib benchmark --config b.yaml"] * 2,
})


def test_differences_are_taken_within_a_seed():
    table = differences(ROWS, "TransFusion")
    assert table.index.tolist() == ["TransFusion", "no L_n", "no L_a"]
    assert table["trainings"].tolist() == [2, 2, 1]
    assert table["image AUROC"].tolist() == ["95.0 ± 5.0", "72.5 ± 2.5", "80.0"]
    # Of the third row there is no baseline with the same seed.
    assert table["image AUROC, difference"].tolist() == ["", "-22.5 (-25.0 to -20.0)", ""]
    assert table["pixel AUROC, difference"].tolist() == ["", "-10.0 (-10.0 to -10.0)", ""]
    assert table["AUPRO, difference"].tolist() == ["", "+5.0 (+5.0 to +5.0)", ""]
    assert table["the paper's"].tolist() == ["", "-31.8, -26.0", "about -1"]


def test_differences_with_a_single_seed_in_common_and_without_a_baseline():
    """A change that gains two and four points in its seeds, and one that shares a single seed with the base."""
    rows = pd.DataFrame({
        "status": "done",
        "model": ["base", "base", "no rotation", "no rotation", "crop of 7/8", "crop of 7/8"],
        "category": "brick",
        "seed": [0, 1, 0, 1, 1, 2],
        "image_AUROC": [0.50, 0.60, 0.52, 0.64, 0.57, 0.87],
    })
    table = differences(rows, "base")
    assert table["image AUROC"].tolist() == ["55.0 ± 5.0", "58.0 ± 6.0", "72.0 ± 15.0"]
    assert table["image AUROC, difference"].tolist() == ["", "+3.0 (+2.0 to +4.0)", "-3.0"]
    without = differences(rows[rows["model"] != "base"], "base")
    assert without["image AUROC, difference"].tolist() == ["", ""]


def test_other_categories_are_other_trainings():
    rows = pd.DataFrame({
        "status": "done",
        "model": ["base", "base", "change", "change"],
        "category": ["brick", "gravel", "brick", "grass"],
        "seed": 0,
        "image_AUROC": [0.5, 0.9, 0.6, 0.9],
    })
    assert differences(rows, "base")["image AUROC, difference"].tolist() == ["", "+10.0"]


def test_kinds_of_defects():
    table = kinds(ROWS, "image_AUROC")
    assert list(table) == ["all", "hole"]
    assert table.loc["TransFusion"].tolist() == ["95.0", "85.0"]
    assert table.loc["no L_a"].tolist() == ["80.0", "50.0"]
    assert kinds(ROWS, "pixel_AUPRO").empty


def test_report_has_differences_kinds_and_commands(tmp_path):
    ROWS.drop(columns="model").to_csv(tmp_path / "results.csv", index=False)
    text = report([tmp_path]).read_text(encoding="utf-8")
    assert "### Differences from TransFusion" in text
    assert "| no L_n | 2 | 72.5 ± 2.5 | -22.5 (-25.0 to -20.0) |" in text
    assert "### Image AUROC by kind of defect, brick" in text
    trained = "TransFusion on brick 1, no L_n on brick 1, TransFusion on brick 2, no L_n on brick 2"
    assert f"    # {trained}; a processor, threads: 2\n    anomalib benchmark --config a.yaml\n" in text
    assert len(commands(ROWS)) == 4


@pytest.mark.parametrize(("form", "number"), [(".4g", "12.35"), (".1f", "12.3")])
def test_tables_in_markdown(form, number):
    frame = pd.DataFrame({"a|b": [12.345, None], "c": ["x", None]}, index=pd.Index(["one", "two"], name="what"))
    expected = ["| what | a\\|b | c |", "| --- | ---: | ---: |", f"| one | {number} | x |", "| two |  |  |"]
    assert markdown_of(frame, form).splitlines() == expected
