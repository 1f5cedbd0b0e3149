# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Names and files of the release before `benchmark`: they import, mean the same objects, and load."""

from importlib import import_module

import pandas as pd
import pytest

from anomalib_transfusion import benchmark
from anomalib_transfusion.benchmark.load import load
from anomalib_transfusion.benchmark.report import report
from paths import ROOT

FIXTURE = ROOT / "tests/fixtures/results.csv"
OLD_NAMES = {
    "pipelines.benchmark": "pipeline",
    "pipelines.draem": "draem",
    "pipelines.job": "job",
    "pipelines.measure": "measure",
    "pipelines.results": "results",
    "pipelines.rows": "rows",
    "reporting.plots": "plots",
    "reporting.report": "report",
    "reporting.results": "load",
    "reporting.tables": "tables",
}


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_modules_have_their_old_names_too(old, new):
    module = import_module(f"anomalib_transfusion.{old}")
    assert module is import_module(f"anomalib_transfusion.benchmark.{new}")
    assert module.__name__ == f"anomalib_transfusion.benchmark.{new}"


def test_public_names_of_the_old_packages():
    from anomalib_transfusion import pipelines, reporting

    assert pipelines.Benchmark is benchmark.Benchmark
    assert pipelines.draem_with_photographs is benchmark.draem_with_photographs
    assert pipelines.benchmark.Benchmark is benchmark.Benchmark
    assert reporting.report is report
    assert reporting.results.load is load


def test_results_of_the_old_release_are_reported(tmp_path):
    """Written by version 0.1.0: three models, of which one failed, two categories and two seeds."""
    rows = pd.read_csv(FIXTURE)
    assert set(rows["version_anomalib_transfusion"].dropna()) == {"0.1.0"}
    loaded = load([FIXTURE])
    assert list(loaded["model"].unique()) == ["TransFusion", "Odd", "Patchcore"]
    assert (loaded["status"] == "failed").sum() == 4
    text = report([FIXTURE], tmp_path / "report").read_text(encoding="utf-8")
    ours = rows[(rows["name"] == "TransFusion") & (rows["category"] == "brick")]["image_AUROC"]
    assert len(ours) == 2
    assert f"| brick | {100 * ours.mean():.1f} ± {100 * ours.std():.1f} | failed |" in text.replace("**", "")
    assert "- Odd on gravel (DemoSurface, seed 2): ValueError: An image of 33x33 pixels" in text
