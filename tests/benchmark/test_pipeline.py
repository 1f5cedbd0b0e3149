# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The command `anomalib benchmark`, as a person types it: rows, failures, interruption, and anomalib's own configs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from lightning import seed_everything

from commands import typed
from conftest import SURFACE, TINY

ANOMALIB = Path(sys.executable).with_name("anomalib")
SIZE = {"image_size": [32, 32]}


def pre_processor(model, size=(32, 32)):
    return {
        "class_path": f"anomalib.models.{model}.configure_pre_processor",
        "init_args": {"image_size": list(size)},
    }


def transfusion(**others):
    arguments = {**TINY, "channel_multipliers": [1, 2], "attention_levels": [-1]}
    return {
        "class_path": "TransFusion",
        "init_args": {**arguments, "pre_processor": pre_processor("TransFusion"), **others},
        "trainer": {"max_epochs": 2},
    }


PATCHCORE = {
    "class_path": "Patchcore",
    "init_args": {
        "backbone": "resnet18",
        "layers": ["layer2"],
        "pre_trained": False,
        "pre_processor": pre_processor("Patchcore"),
    },
}
# Fails when it is built: the network cannot divide 33 pixels. The parameters themselves are fine.
ODD = {"name": "Odd", **transfusion(pre_processor=pre_processor("TransFusion", (33, 33)))}


def config(root, models, output_dir="out", **others):
    data = {"class_path": "DemoSurface", "init_args": {**SURFACE, "root": str(root), "category": {"grid": ["brick"]}}}
    benchmark = {"seed": 42, "model": {"grid": models}, "data": data}
    return {"accelerator": "cpu", "output_dir": str(output_dir), "benchmark": {**benchmark, **others}}


COMMAND = ["benchmark", "--config", "benchmark.yaml"]


def run(folder):
    """Run the benchmark of a folder to its end."""
    return typed("anomalib", *COMMAND, folder=folder)


def start(folder):
    """Start the benchmark of a folder, to be killed on its way."""
    environment = {**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [str(ANOMALIB), *COMMAND],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows_in(folder):
    rows = [json.loads(path.read_text()) for path in (folder / "out/rows").glob("*.json")]
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def killed_and_rerun(tmp_path_factory, surface_root):
    """Kill a benchmark in its third row, run it again, and return the folder, the rows of both runs and the output."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(config(surface_root, [ODD, transfusion(), PATCHCORE])))
    process = start(folder)
    assert any("[3/3]" in line for line in process.stdout), "the third row never began"
    process.kill()
    process.communicate()
    before = rows_in(folder)
    table = pd.read_csv(folder / "out/results.csv")
    again = run(folder)
    return folder, before, table, rows_in(folder), again.stdout + again.stderr, again.returncode


def test_killed_benchmark_resumes(killed_and_rerun):
    folder, before, table, after, printed, _ = killed_and_rerun
    assert {name: row["status"] for name, row in before.items()} == {"Odd": "failed", "TransFusion": "done"}
    assert list(table["name"]) == ["Odd", "TransFusion"]
    # The finished row is the same file content, the failed one was tried again.
    assert after["TransFusion"] == before["TransFusion"]
    assert "TransFusion on brick (DemoSurface, seed 42, cpu): finished before" in printed
    assert after["Odd"]["started"] > before["Odd"]["started"]
    assert after["Patchcore"]["status"] == "done"
    # Nothing but what it says: no half files, no checkpoints, no pictures.
    assert sorted(path.name for path in folder.iterdir()) == ["benchmark.yaml", "out", "runs"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["results.csv", "rows"]
    assert [path.suffix for path in (folder / "out/rows").iterdir()] == [".json"] * 3
    assert [path.name for path in (folder / "runs").iterdir()] == ["pipeline.log"]


def test_failed_row_is_named_and_the_others_go_on(killed_and_rerun):
    folder, _, _, after, printed, code = killed_and_rerun
    assert code == 1
    last = printed.strip().splitlines()[-1]
    assert last.startswith("anomalib benchmark: 1 of 3 rows have no result: Odd on brick (DemoSurface, seed 42, cpu)")
    assert "ValueError" in last
    assert "An image of 33x33 pixels" in last
    assert "Namespace" not in after["Odd"]["error"]
    # The traceback is for the log.
    assert "Traceback" not in printed
    assert "Traceback" in (folder / "runs/pipeline.log").read_text()
    table = pd.read_csv(folder / "out/results.csv")
    assert list(table["name"]) == ["Odd", "TransFusion", "Patchcore"]
    assert list(table["status"]) == ["failed", "done", "done"]


def test_row_has_what_anomalib_leaves_out(killed_and_rerun):
    _, _, _, after, _, _ = killed_and_rerun
    for row in (after["TransFusion"], after["Patchcore"]):
        metrics = ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO")
        assert all(0 <= row[name] <= 1 for name in metrics)
        # The clock of the whole test counts the same images, and more work.
        images = SURFACE["num_test_images"] + 5 * SURFACE["num_defect_images"]
        assert row["images_per_second"] > images / row["test_duration"]
        assert row["job_duration"] > row["fit_duration"] + row["test_duration"] > 0
        assert row["version_torch"] == torch.__version__
        assert row["device"]
        if sys.platform == "linux" and "peak_memory_mib" in row:
            assert 200 < row["peak_memory_mib"] < 20_000
    # ResNet-18 up to layer2: 64*3*49+128 + 4*(64*64*9+128) + (64*128*9+256) + 3*(128*128*9+256) + (64*128+256).
    assert after["Patchcore"]["parameters"] == 683_072
    assert after["Patchcore"]["model.init_args.layers"] == ["layer2"]
    assert after["TransFusion"]["model.trainer.max_epochs"] == 2


@pytest.fixture
def by_hand(surface, tmp_path):
    """Train and test as one does without a benchmark."""
    from anomalib.engine import Engine

    from anomalib_transfusion import TransFusion

    seed_everything(42, workers=True)
    model = TransFusion(**TINY, pre_processor=TransFusion.configure_pre_processor((32, 32)), visualizer=False)
    engine = Engine(max_epochs=2, accelerator="cpu", devices=1, default_root_dir=tmp_path / "hand", logger=False)
    engine.fit(model, datamodule=surface)
    return model, engine.test(model, datamodule=surface)[0]


def test_numbers_are_those_of_the_engine(killed_and_rerun, by_hand):
    _, _, _, after, _, _ = killed_and_rerun
    model, metrics = by_hand
    assert {name: after["TransFusion"][name] for name in metrics} == metrics
    assert after["TransFusion"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_rows_in_several_processes(killed_and_rerun, tmp_path, monkeypatch, surface_root):
    """Anomalib's ParallelRunner, as with several GPUs; the numbers are those of one process."""
    from anomalib.pipelines.components.runners import ParallelRunner

    from anomalib_transfusion.benchmark.pipeline import BenchmarkJobGenerator
    from anomalib_transfusion.benchmark.rows import expand

    monkeypatch.chdir(tmp_path)
    rows = expand(config(surface_root, [ODD, transfusion(), PATCHCORE])["benchmark"], "cpu")
    runner = ParallelRunner(BenchmarkJobGenerator(rows, "cpu", str(tmp_path / "out")), n_jobs=2)
    gathered = runner.run({})
    assert sorted(gathered["status"]) == ["done", "done", "failed"]
    parallel, (_, _, _, serial, _, _) = rows_in(tmp_path), killed_and_rerun
    for name in ("TransFusion", "Patchcore"):
        for metric in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO"):
            assert parallel[name][metric] == serial[name][metric]
    assert "Traceback" in (tmp_path / "runs/pipeline.log").read_text()


def test_config_without_output_dir_is_anomalibs_own(tmp_path, surface_root):
    stock = config(surface_root, [{"class_path": "Padim", "init_args": {"backbone": "resnet18", "pre_trained": False}}])
    del stock["output_dir"]
    stock["benchmark"]["model"]["grid"][0]["init_args"] |= {"layers": ["layer4"], "n_features": 8}
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(stock))
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["benchmark", "pipeline.log"]
    (written,) = (tmp_path / "runs/benchmark").glob("*/*")
    table = pd.read_csv(written)
    metrics = {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    durations = {"job_duration", "fit_duration", "test_duration"}
    assert {name for name in table if not name.startswith(("model.", "data."))} == metrics | durations | {
        "accelerator",
        "seed",
    }
    # The report reads anomalib's own file, too.
    report = typed("anomalib-transfusion", "report", written, "--output", "report", folder=tmp_path)
    assert report.returncode == 0, report.stderr
    assert f"| brick | **{100 * table['image_AUROC'][0]:.1f}** |" in (tmp_path / "report/report.md").read_text()
