# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What brightness alone tells: the arithmetic, and the table of real data as a person asks for it."""

import sys

import pytest
import torch

from commands import typed
from paths import DATASETS, ROOT, needs_datasets

sys.path.insert(0, str(ROOT / "benchmarks"))
import brightness


def test_brighter_defects_and_darker_good_images():
    training = torch.tensor([0.5, 0.6])
    test, labels = torch.tensor([0.3, 0.35, 0.56, 0.7]), torch.tensor([False, False, True, True])
    row = brightness.row_of(training, test, labels)
    assert row["training"] == pytest.approx(0.55)
    assert row["good"] == pytest.approx(0.325)
    assert row["defective"] == pytest.approx(0.63)
    assert row["AUROC of the brightness"] == 1.0
    assert row["AUROC of the distance from the training's mean"] == 0.0


@needs_datasets
def test_table_of_a_real_category(tmp_path):
    """Good cookies are no darker than broken ones."""
    done = typed(
        ROOT / "benchmarks/brightness.py",
        "--root",
        DATASETS / "MVTecAD",
        "--categories",
        "cookie",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *_, found = next(line for line in done.stdout.splitlines() if "cookie" in line).replace("\u2502", " ").split()
    assert 0.2 < float(found) < 0.8
