# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What DRDC's parts are worth: the script as a person types it, and the arithmetic of its means."""

import sys

import pytest
import torch
from anomalib.data import ImageBatch

from benchmark_scripts import read, run
from paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import refinement


def test_script_writes_each_part_and_category(tmp_path):
    run("refinement.py", tmp_path, "--categories", "brick", "grass")
    result = read(tmp_path, "refinement")
    assert result["finished"]
    found = {(row["category"], row["told"], row["part"]) for row in result["rows"] if row["defects"] == "all"}
    assert len(found) == 2 * 4 * 3
    assert {row["right_on_good"] for row in result["rows"] if row["told"] == "true" if row["defects"] == "all"} == {1.0}
    assert {row["right_on_good"] for row in result["rows"] if row["told"] == "wrong"} == {0.0}
    assert result["cost"]["passes"] == 4
    assert result["cost"]["gflop_per_image"] > 0


def test_without_a_checkpoint_it_says_what_is_missing(tmp_path):
    assert "--checkpoint is needed" in run("refinement.py", tmp_path, "--size", "full", code=1)


def test_fine_defects_are_below_a_hundredth_of_the_image():
    masks = torch.zeros(3, 20, 20)
    masks[1, 0, :3] = 1
    masks[2, 0, :4] = 1
    batch = ImageBatch(image=torch.rand(3, 3, 20, 20), gt_label=torch.tensor([0, 1, 1]), gt_mask=masks)
    found = [(torch.tensor([0.1, 0.2, 0.3]), torch.rand(3, 1, 20, 20))]
    for fine, kept in ((True, [0.1, 0.2]), (False, [0.1, 0.3])):
        _, rest = refinement.of_kind([batch], found, fine)
        assert rest[0][0].tolist() == pytest.approx(kept)


def test_means_are_over_categories_alone():
    common = {"told": "true", "defects": "all", "image_AUROC": 0.5}
    rows = [
        {"category": "a", "part": "base", **common},
        {"category": "b", "part": "base", **common, "image_AUROC": 0.9},
    ]
    rows.append({"category": "a", "part": "both", **common})
    assert refinement.means(rows) == [
        {"told": "true", "defects": "all", "part": "base", "categories": 2, "image_AUROC": pytest.approx(0.7)},
        {"told": "true", "defects": "all", "part": "both", "categories": 1, "image_AUROC": 0.5},
    ]
