# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Configs of benchmarks: what is refused before anything runs, the rows, and the files of this repository."""

from argparse import Namespace
from copy import deepcopy
from itertools import product

import pytest
import torch
import yaml
from anomalib.data.datasets.image.mvtecad import CATEGORIES as MVTEC
from anomalib.data.datasets.image.visa import CATEGORIES as VISA

from anomalib_transfusion.benchmark import Benchmark, draem_with_photographs
from anomalib_transfusion.benchmark.config import accelerators, check_config
from anomalib_transfusion.benchmark.rows import check_rows, expand
from anomalib_transfusion.synthesis.sources import PHOTOGRAPHS
from paths import ROOT

VALID = {
    "accelerator": "cpu",
    "output_dir": "out",
    "benchmark": {
        "seed": 1,
        "model": {"grid": [{"class_path": "TransFusion", "trainer": {"max_epochs": 1}}, {"class_path": "Patchcore"}]},
        "data": {"class_path": "DemoSurface", "init_args": {"category": {"grid": ["brick", "gravel"]}}},
    },
}


def change(config, path, value):
    """Set a value deep inside of a config."""
    *parts, last = path
    for part in parts:
        config = config[part]
    config[last] = value


FIRST = ("benchmark", "model", "grid", 0)
SECOND = ("benchmark", "model", "grid", 1)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((*SECOND, "init_args"), {"bakbone": "resnet18"}, "Patchcore on brick.*'bakbone' is not accepted"),
        ((*FIRST, "init_args"), {"timesteps": "many"}, '"timesteps".*Got value: many'),
        ((*FIRST, "class_path"), "TransFussion", "TransFussion"),
        ((*FIRST, "trainer"), {"max_epoch": 3}, "'max_epoch'"),
        ((*FIRST, "trainer"), {"devices": 2}, "the trainer's devices cannot be set here"),
        ((*FIRST, "epochs"), 3, "has epochs; expected class_path, init_args, minutes, name, notes, trainer, weights"),
        (SECOND, {"class_path": "TransFusion", "trainer": {"max_epochs": 1}}, "Two rows of the grid are the same"),
        (("benchmark", "data", "init_args", "categry"), "brick", "'categry' is not accepted"),
        (("benchmark", "data", "init_args", "category"), {"grid": "brick"}, "expected a list of at least one value"),
        (("benchmark", "data", "init_args", "grid_size"), 3, "has 'grid' in its name"),
        (("benchmark", "seed"), "x", "seed is 'x'"),
        (("benchmark",), None, "'benchmark' is None; expected a mapping"),
        (("outputdir",), "x", "has outputdir; expected accelerator, baseline, benchmark, checkpoints, .*output_dir"),
        (("output_dir",), None, "output_dir is None"),
        (("accelerator",), "gpu", "accelerator is 'gpu'; expected 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, monkeypatch, path, value, said):
    monkeypatch.chdir(tmp_path)
    config = deepcopy(VALID)
    change(config, path, value)
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match=said) as raised:
        Benchmark().run(Namespace(config=tmp_path / "benchmark.yaml"))
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.yaml"]


def test_absent_parts_are_named():
    config = deepcopy(VALID)
    del config["benchmark"]["seed"]
    with pytest.raises(ValueError, match="'benchmark' has no seed"):
        check_config(config)
    with pytest.raises(ValueError, match="no class_path"):
        expand({**VALID["benchmark"], "model": {"init_args": {"timesteps": 2}}}, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_accelerators_without_a_gpu():
    assert accelerators({"accelerator": "auto"}) == ["cpu"]
    assert accelerators({"accelerator": ["cpu", "auto"]}) == ["cpu"]
    with pytest.raises(ValueError, match="finds no GPU"):
        accelerators({"accelerator": "cuda"})


def test_rows_of_a_grid():
    """Every combination, each with a file of its own, which only a new name leaves as it is."""
    benchmark = deepcopy(VALID["benchmark"]) | {"seed": {"grid": [1, 2]}}
    rows = expand(benchmark, "cpu")
    places = [(row.seed, row.name, row.category) for row in rows]
    assert sorted(places) == sorted(product((1, 2), ("Patchcore", "TransFusion"), ("brick", "gravel")))
    assert len({row.key for row in rows}) == 8
    named = deepcopy(benchmark)
    named["model"]["grid"][0]["name"] = "Ours"
    assert [row.key for row in expand(named, "cpu")] == [row.key for row in rows]
    assert {row.name for row in expand(named, "cpu")} == {"Ours", "Patchcore"}
    longer = deepcopy(benchmark)
    longer["model"]["grid"][0]["trainer"]["max_epochs"] = 2
    changed = {row.name for row, other in zip(rows, expand(longer, "cpu"), strict=True) if row.key != other.key}
    assert changed == {"TransFusion"}


def test_checking_leaves_the_rows_as_they_are():
    """The parser writes into what it parses; the names of the rows' files must not depend on it."""
    benchmark = deepcopy(VALID["benchmark"])
    benchmark["model"]["grid"][0]["trainer"]["callbacks"] = [{"class_path": "lightning.pytorch.callbacks.Timer"}]
    rows = expand(benchmark, "cpu")
    keys = [row.key for row in rows]
    check_rows(rows)
    assert [row.key for row in rows] == keys


@pytest.mark.parametrize(
    ("name", "categories", "epochs"),
    [("demo", ("brick", "grass"), 25), ("mvtec_ad", MVTEC, 1500), ("visa", VISA, 1500)],
)
def test_configs_of_the_repository(name, categories, epochs):
    config = yaml.safe_load((ROOT / f"configs/benchmark/{name}.yaml").read_text())
    check_config(config)
    rows = expand(config["benchmark"], "cpu")
    check_rows(rows)
    assert config["output_dir"] == f"runs/benchmark/{name}"
    for model in ("TransFusion", "Patchcore", "Draem"):
        assert [row.category for row in rows if row.name == model] == list(categories)
    ours = next(row for row in rows if row.name == "TransFusion")
    assert ours.trainer["max_epochs"] == epochs
    if name != "demo":
        assert "init_args" not in ours.model


def test_ablations_of_the_paper():
    """Each row differs from the first one, TransFusion, by what its name says."""
    config = yaml.safe_load((ROOT / "configs/benchmark/ablation.yaml").read_text())
    check_config(config)
    rows = expand(config["benchmark"], "cpu")
    check_rows(rows)
    whole = next(row for row in rows if row.name == "TransFusion")
    given = dict(whole.model["init_args"].items())
    changes = {row.name: {k: v for k, v in row.model["init_args"].items() if given.get(k) != v} for row in rows}
    assert changes == {
        "TransFusion": {},
        "no positional encoding": {"positional_encoding": False},
        "no previous mask": {"previous_mask": False},
        "no L_n": {"normal_weight": 0},
        "no L_m": {"mask_weight": 0},
        "no L_a": {"anomaly_weight": 0},
        "no L_c": {"consistency_weight": 0},
        "last mask only": {"mask_aggregation": "last", "discriminative_weight": 1},
        "M_disc only": {"discriminative_weight": 1},
        "M_recon only": {"discriminative_weight": 0},
        "5 timesteps": {"timesteps": 5},
        "10 timesteps": {"timesteps": 10},
        "50 timesteps": {"timesteps": 50},
        "quadratic schedule": {"schedule": "quadratic"},
        "root schedule": {"schedule": "root"},
    }
    assert all(row.trainer == whole.trainer for row in rows)
    assert {row.seed for row in rows} == {1, 2}


def test_draem_with_photographs_reads_all_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = draem_with_photographs()
    paths = model.augmenter.anomaly_source_paths
    assert [path.name for path in paths] == list(PHOTOGRAPHS)
    for path in paths:
        perturbation, _ = model.augmenter.generate_perturbation(32, 32, None, path)
        assert torch.isfinite(perturbation).all()
    assert not list(tmp_path.iterdir())
