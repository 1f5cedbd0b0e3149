# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""One change at a time, and failures: the arithmetic behind the pages, and the pages as a person asks for them."""

import argparse
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from anomalib_transfusion import TransFusion
from paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import ablation
import changes
import failures
import record
from defects import ALL, Found, predict
from quality_page import METRICS

TINY = {"timesteps": 4, "base_channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1}


def run(folder, script, *arguments, code=0):
    """Run a benchmark in a folder."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--size", "tiny", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--output", "out", *arguments],
        cwd=folder,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_rows_are_added_one_by_one(tmp_path):
    small = ("--steps", "3", "--passes", "2", "--image-size", "64", "--workers", "0")
    run(tmp_path, "changes.py", *small, "--only", "base")
    (path,) = (tmp_path / "out").glob("changes-brick-*.json")
    (base,) = json.loads(path.read_text())["rows"]
    assert base["steps"] == 3
    assert {f"lambda {weight:g}" for weight in changes.WEIGHTS} < base["maps"].keys()
    averaged = "averaged weights (EMA, 0.99)"
    run(tmp_path, "changes.py", *small, "--only", "base", "half the steps", "crop of 7/8", averaged)
    rows = json.loads(path.read_text())["rows"]
    assert {row["seed"] for row in rows} == {0}
    assert [row["name"] for row in rows] == ["base", "half the steps", averaged, "crop of 7/8"]
    assert rows[0] == base
    assert rows[1]["steps"] == 2
    # The same steps, other weights.
    assert rows[2]["steps"] == 3
    assert rows[2]["metrics"] != base["metrics"]
    page = path.with_suffix(".md").read_text()
    difference = 100 * (rows[3]["metrics"]["all"]["image_AUROC"] - base["metrics"]["all"]["image_AUROC"])
    assert f"({difference:+.1f})" in next(line for line in page.splitlines() if line.startswith("| crop of 7/8"))
    assert not [folder for folder in (tmp_path / "out/work").glob("*/*") if folder.is_dir()]
    run(tmp_path, "changes.py", *small, "--only", "base", "--seeds", "0", "1")
    again = json.loads(path.read_text())["rows"]
    assert [(row["name"], row["seed"]) for row in again[:3]] == [("base", 0), ("base", 1), ("half the steps", 0)]
    assert again[0] == base
    assert again[1]["metrics"] != base["metrics"]


def test_differences_are_taken_within_a_seed(tmp_path):
    """A change that gains two and four points in its seeds, and one that shares a single seed with the base."""

    def metrics(value):
        return {kind: dict.fromkeys(METRICS, value) for kind in (ALL, "hole")}

    rows = [
        {"name": "base", "seed": 0, "metrics": metrics(0.50), "maps": {"lambda 0": metrics(0.45)}},
        {"name": "base", "seed": 1, "metrics": metrics(0.60), "maps": {"lambda 0": metrics(0.65)}},
        {"name": "no rotation", "seed": 0, "metrics": metrics(0.52)},
        {"name": "no rotation", "seed": 1, "metrics": metrics(0.64)},
        {"name": "crop of 7/8", "seed": 1, "metrics": metrics(0.57)},
        {"name": "crop of 7/8", "seed": 2, "metrics": metrics(0.87)},
    ]
    settings = {"settings": {"category": "brick"}, "command": "python benchmarks/changes.py"}
    changes.write_page({**record.header(torch.device("cpu")), **settings, "rows": rows}, tmp_path / "page.md")
    lines = [line.split("|") for line in (tmp_path / "page.md").read_text().splitlines() if "|" in line]
    cells = {line[1].strip(): [cell.strip() for cell in line[2:]] for line in lines}
    assert cells["base"][:2] == ["2", "55.0"]
    assert cells["base"][5] == "55.0"
    assert cells["no rotation"][:2] == ["2", "58.0 (+3.0; +2.0 to +4.0)"]
    assert cells["crop of 7/8"][:2] == ["2", "72.0 (-3.0)"]
    assert cells["lambda 0"][:2] == ["2", "55.0 (+0.0; -5.0 to +5.0)"]


def test_maps_of_kept_masks_are_those_of_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    pre_processor = TransFusion.configure_pre_processor((64, 64))
    model = TransFusion(pre_processor=pre_processor, visualizer=False, mask_divisor=5, **TINY).eval()
    options = argparse.Namespace(root=None, category="brick", workers=0, eval_batch=4, size="tiny", device="cpu")
    expected = predict(model, changes.load_data(options), torch.device("cpu"))
    masks = changes.find_masks(model, options, "mean")
    again = changes.make_maps(model.model, masks, 0.95, 7)
    assert torch.allclose(again.maps, expected.maps, atol=1e-6)
    assert torch.allclose(again.scores, expected.scores, atol=1e-6)
    other = changes.make_maps(model.model, masks, 0.5, 3)
    model.model.discriminative_weight, model.model.filter_size = 0.5, 3
    expected = predict(model, changes.load_data(options), torch.device("cpu"))
    assert torch.allclose(other.maps, expected.maps, atol=1e-6)


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
    return Found(images, masks.bool(), kinds, maps, scores, reconstructions, 1.0)


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
    run(tmp_path, "failures.py")
    (path,) = (tmp_path / "out").glob("failures-brick-*.md")
    page = path.read_text()
    assert "## By contrast to its surroundings" in page
    assert path.with_suffix(".jpg").name in page
    assert Image.open(path.with_suffix(".jpg")).size[0] > 500


def test_ablation_beside_the_paper():
    rows = pd.DataFrame({
        "status": ["done", "done", "done", "done", "done", "failed"],
        "name": ["TransFusion", "no L_n", "TransFusion", "no L_n", "no L_a", "no L_m"],
        "seed": [1, 1, 2, 2, 3, 1],
        "image_AUROC": [0.9, 0.7, 1.0, 0.75, 0.8, None],
        "pixel_AUROC": [0.9, 0.8, 0.9, 0.8, 0.8, None],
        "pixel_AUPRO": [0.8, 0.85, 0.8, 0.85, 0.8, None],
    })
    table = ablation.compare(rows)
    assert table.index.tolist() == ["TransFusion", "no L_n", "no L_a"]
    assert table["seeds"].tolist() == [2, 2, 1]
    assert table["image AUROC"].tolist() == ["95.0 ± 5.0", "72.5 ± 2.5", "80.0"]
    # Of the third row there is no base with the same seed.
    assert table["image AUROC, difference"].tolist() == ["", "-22.5 (-25.0 to -20.0)", ""]
    assert table["pixel AUROC, difference"].tolist() == ["", "-10.0 (-10.0 to -10.0)", ""]
    assert table["AUPRO, difference"].tolist() == ["", "+5.0 (+5.0 to +5.0)", ""]
    assert table.iloc[1, -1] == "-31.8, -26.0"
    without_base = ablation.compare(rows[rows["name"] != "TransFusion"])
    assert without_base["image AUROC, difference"].tolist() == ["", ""]


def test_ablation_has_the_rows_of_the_config():
    config = yaml.safe_load((ROOT / "configs/benchmark/ablation.yaml").read_text())
    names = [model["name"] for model in config["benchmark"]["model"]["grid"]]
    assert names == [ablation.BASE, *ablation.PAPER]
