# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The configs `quality`, `changes` and `ablation`: as a person starts them, at tiny size, and what stands in them."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from anomalib_transfusion import DemoSurface, TransFusion
from anomalib_transfusion.benchmark.rows import check_rows
from benchmark_configs import CONFIGS, read
from paths import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A category in MVTec AD's layout and a folder of textures."""
    folder = tmp_path_factory.mktemp("quality")
    counts = {"num_train_images": 8, "num_test_images": 4, "num_defect_images": 3}
    DemoSurface(root=folder / "data/MVTecAD", category="brick", image_size=64, **counts).prepare_data()
    (folder / "data/dtd/some").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    for number, texture in enumerate(pixels):
        Image.fromarray(texture).save(folder / f"data/dtd/some/{number}.jpg")
    return folder


def run(folder, program, *arguments, code=0):
    """Run a command where no backbone can be downloaded, and return what it prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "no_hub"), "COLUMNS": "160"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def rows_in(output):
    """Return the rows of a benchmark by name and seed."""
    rows = [json.loads(path.read_text()) for path in (output / "rows").glob("*.json")]
    return {(row["name"], row["seed"]): row for row in rows if row["status"] == "done"}


def test_quality_goes_on(folder):
    """One model trains, another lacks its backbone; the same again, with one, keeps the first and adds the second."""
    command = ["benchmark", "--config", str(CONFIGS / "quality.yaml"), "--set", "datasets=data", "category=brick"]
    # Twice --set, as `make quality ARGUMENTS="--set size=tiny"` has it.
    # On a busy machine the first row must not take all of the time, or the second is not begun.
    command += ["minutes=0.75", "--set", "size=tiny", "workers=0", "output=out", "--only", "TransFusion", "Patchcore"]
    printed = run(folder, "anomalib", *command, code=1)
    output = folder / "out/brick-tiny"
    assert "1 of 2 rows have no result: Patchcore on brick" in printed
    assert list(pd.read_csv(output / "results.csv")["status"]) == ["done", "failed"]
    ours = rows_in(output)["TransFusion", 0]
    # 24 % of 45 seconds, and the step that was running.
    assert 10.8 <= ours["fit_duration"] < 30
    assert ours["steps"] > 0
    kinds = {path.name for path in (folder / "data/MVTecAD/brick/test").iterdir()} - {"good"}
    assert {name.split(".")[1] for name in ours if name.startswith("kind.")} == kinds
    assert all(ours[f"kind.{kind}.images"] == 7 for kind in kinds)
    assert ours["command"].startswith("anomalib benchmark --config ")
    assert ours["device"]
    assert ours["version_anomalib_transfusion"]
    assert Image.open(output / ours["picture"]).format == "JPEG"
    printed = run(folder, "anomalib", *command, "--set", "pretrained=false")
    assert "TransFusion on brick (MVTec, seed 0, cpu): finished before" in printed
    again = rows_in(output)
    assert again["TransFusion", 0] == ours
    assert again.keys() == {("TransFusion", 0), ("Patchcore", 0)}
    run(folder, "anomalib-transfusion", "report", str(output), "--output", "page")
    page = (folder / "page/report.md").read_text()
    assert "| TransFusion |" in page
    assert "### AUPRO by kind of defect, brick" in page
    assert f"({Path(ours['picture']).name})" in page
    assert (folder / "page" / Path(ours["picture"]).name).is_file()
    for row in again.values():
        assert f"    # {row['name']} on brick 0; {row['device']}, threads: {row['threads']}\n" in page
        assert f"    {row['command']}\n" in page
    assert again["Patchcore", 0]["command"].endswith("--set pretrained=false")


@pytest.mark.slow
def test_changes_are_added_row_by_row(folder):
    command = ["benchmark", "--config", str(CONFIGS / "changes.yaml"), "--set", "data=MVTec", "root=data/MVTecAD"]
    command += ["output=changes", "size=tiny", "image_size=64", "uncropped_size=74", "steps=3", "half_the_steps=2"]
    command += ["passes=2", "workers=0"]
    names = ["base", "half the steps", "averaged weights (EMA, 0.99)", "crop of 7/8", "the base's map, lambda 0.5"]
    output = folder / "changes/brick-tiny"
    run(folder, "anomalib", *command, "--only", "base")
    before = rows_in(output)
    assert before["base", 0]["steps"] == 3
    run(folder, "anomalib", *command, "--only", *names)
    rows = rows_in(output)
    assert {name for name, _ in rows} == set(names)
    assert rows["base", 0] == before["base", 0]
    assert rows["half the steps", 0]["steps"] == 2
    run(folder, "anomalib", *command, "seeds=[0, 1]", "--only", *names[:1])
    again = rows_in(output)
    assert again["base", 0] == before["base", 0]
    assert again["base", 1]["pixel_AUROC"] != again["base", 0]["pixel_AUROC"]
    run(folder, "anomalib-transfusion", "report", str(output))
    page = (output / "report/report.md").read_text()
    difference = 100 * (rows["crop of 7/8", 0]["image_AUROC"] - rows["base", 0]["image_AUROC"])
    table = page[page.index("### Differences from base") :]
    assert f"| {difference:+.1f} |" in next(line for line in table.splitlines() if line.startswith("| crop of 7/8"))


def test_full_size_is_the_published_network():
    """Of `quality` and `changes` on a GPU: every parameter of the network is the default, which is the paper's."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(TransFusion).parameters.items()}
    for name in ("quality", "changes"):
        _, _, rows = read(name, "size=full")
        given = rows[0].model["init_args"]
        network = ("timesteps", "base_channels", "channel_multipliers", "num_blocks", "attention_levels")
        assert {part: given[part] for part in network} == {
            part: list(defaults[part]) if isinstance(defaults[part], tuple) else defaults[part] for part in network
        }
    _, options, rows = read("quality", "size=full", "minutes=100", "category=screw")
    assert rows[0].model["init_args"]["pre_processor"]["init_args"]["image_size"] == [256, 256]
    assert [(row.name, row.category, row.minutes) for row in rows] == [
        ("TransFusion", "screw", pytest.approx(24)),
        ("Patchcore", "screw", None),
        ("TransFusion, fast", "screw", pytest.approx(24)),
        ("Draem", "screw", pytest.approx(24)),
    ]
    assert options.minutes == 100
    check_rows(rows)


def test_size_follows_the_accelerator():
    from anomalib_transfusion.benchmark.config import resolve

    config = yaml.safe_load((CONFIGS / "quality.yaml").read_text())
    assert [resolve(config, name)["output_dir"].rsplit("-", 1)[-1] for name in ("cpu", "cuda")] == ["small", "full"]
    ratios = [
        resolve(config, name)["benchmark"]["model"]["grid"][1]["init_args"]["coreset_sampling_ratio"]
        for name in ("cpu", "cuda")
    ]
    assert ratios == [0.01, 0.1]


def test_each_change_is_one():
    """Every row differs from the base in one parameter, the last mask in the two that make it, or in its trainer."""
    _, options, rows = read("changes")
    check_rows(rows)
    base = rows[0]
    assert (base.name, options.baseline, options.checkpoints) == ("base", "base", True)
    for row in rows[1:]:
        given, own = base.model["init_args"], row.model["init_args"]
        changed = [name for name in own if own[name] != given.get(name)]
        assert given.keys() <= own.keys()
        if row.weights is not None:
            assert row.weights == base
            assert set(changed) <= {"discriminative_weight", "filter_size", "mask_aggregation"}
            assert len(changed) == (2 if "last mask" in row.name else 1)
        else:
            other = [name for name in row.trainer if row.trainer[name] != base.trainer.get(name)]
            assert len(changed) + len(other) == 1, row.name


def test_maps_of_the_ablation_are_of_one_training_and_stand_beside_the_paper():
    _, options, rows = read("ablation")
    assert options.baseline == "TransFusion"
    assert {row.name for row in rows if row.weights} == {"last mask only", "M_disc only", "M_recon only"}
    assert all((row.weights.name, row.weights.seed) == ("TransFusion", row.seed) for row in rows if row.weights)
    notes = {row.name: list(row.notes.values()) for row in rows}
    assert notes["TransFusion"] == []
    assert notes["no L_n"] == ["-31.8, -26.0"]
    assert all(len(note) == 1 for name, note in notes.items() if name != "TransFusion")


def test_each_model_is_trained_for_the_same_minutes():
    _, _, rows = read("minutes", "training_minutes=3", "category=screw")
    check_rows(rows)
    trained = {row.name: row.minutes for row in rows}
    assert trained.pop("Patchcore") is None
    assert {"TransFusion", "TransFusion, fast", "DiffusionAD", "Draem"} == trained.keys()
    assert set(trained.values()) == {3}


def test_each_change_of_diffusion_ad_is_one():
    """Every row differs from the base in what its name says: a parameter, both rates, or the trainer's callbacks."""
    _, options, rows = read("diffusion_ad")
    check_rows(rows)
    base = rows[0]
    assert (base.name, options.baseline) == ("base", "base")
    for row in rows[1:]:
        given, own = base.model["init_args"], row.model["init_args"]
        changed = [name for name in own if own[name] != given.get(name)]
        assert given.keys() <= own.keys()
        both_rates = ["learning_rate", "segmentation_learning_rate"]
        assert len(changed) == 1 or changed == both_rates or (not changed and row.trainer != base.trainer), row.name


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_quality_passes_what_it_is_given():
    variables = ["MINUTES=70", "CATEGORY=screw", "DATASETS=/data", "ARGUMENTS=--set image_size=128"]
    # Under `make test`, the outer make's variables would have this one print its own lines ("make[1]: Entering ...").
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    printed = subprocess.run(
        ["make", "-n", "quality", *variables],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    command = printed.split("anomalib benchmark ")[1].replace("\\\n", " ").split()
    assert command == [
        *("--config", "configs/benchmark/quality.yaml", "--set", "datasets=/data", "category=screw", "minutes=70"),
        *("--set", "image_size=128"),
    ]
