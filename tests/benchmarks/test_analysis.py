# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Failures: the arithmetic behind the page, and the page as a person asks for it."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_transfusion.benchmark.detection import Found
from benchmark_scripts import run
from paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import failures


@pytest.fixture
def found():
    """Twenty good images, and three defects: large inside, small at the border, and none to be seen."""
    images, masks, maps = torch.full((23, 3, 32, 32), 0.5), torch.zeros(23, 32, 32), torch.zeros(23, 32, 32)
    masks[20, 10:20, 10:22] = 1
    images[20, :, 10:20, 10:22] = 0.25
    maps[20, 22, 12] = 0.9
    masks[21, 0:2, 4:7] = 1
    images[21, :, 0:2, 4:7] = 0.6
    maps[21, 20, 20] = 0.8
    masks[22, 8:16, 8:16] = 1
    maps[22, 9, 9] = 0.1
    scores = torch.cat([torch.linspace(0, 0.5, 20), maps[20:].amax(dim=(1, 2))])
    kinds = np.array(["good"] * 20 + ["hole", "crack", "stain"])
    reconstructions = images + 1e-6
    # The hole is painted over in one pixel; of the crack, something beside it is.
    reconstructions[20, 1, 12, 15] += 0.1
    reconstructions[21, :, 10, 10] += 0.1
    return Found(images, masks.bool(), kinds, maps, scores, reconstructions)


def test_defects_are_described(found):
    table = failures.describe(found)
    assert table.place.tolist() == [20, 21, 22]
    assert table.area.tolist() == [120, 6, 64]
    assert table.contrast.tolist() == pytest.approx([0.25 * 255, 0.1 * 255, 0], abs=0.01)
    assert table.border.tolist() == [False, True, False]
    # 95 % of the good images have a score below 0.475.
    assert table.detected.tolist() == [True, True, False]
    # Two pixels beside the defect are near enough, twenty are not.
    assert table.hit.tolist() == [True, False, True]
    assert table.changed.tolist() == [True, False, False]
    by_kind = failures.shares(table, "kind")
    assert by_kind.loc["stain", "detected, %"] == 0
    assert by_kind.loc["crack", "peak on the defect, %"] == 0
    assert by_kind["changed by the reverse process, %"].to_dict() == {"crack": 0, "hole": 100, "stain": 0}
    rows = failures.choose(found, table)
    assert rows == {
        "missed, hardly any contrast (1)": [22],
        "missed, small (1)": [22],
        "detected for the wrong reason (1)": [21],
        "false alarms, the highest scores of good images": [19, 18, 17, 16],
    }


def test_page_of_failures(tmp_path):
    run("failures.py", tmp_path)
    (path,) = tmp_path.glob("failures-brick-*.md")
    page = path.read_text()
    assert "## By contrast to its surroundings" in page
    assert path.with_suffix(".jpg").name in page
    assert Image.open(path.with_suffix(".jpg")).size[0] > 500
