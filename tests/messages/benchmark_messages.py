# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages about benchmarks: their configs, their rows and the reports on them."""

import logging
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from message_table import Message, in_module

from anomalib_transfusion import benchmark
from anomalib_transfusion.benchmark import Benchmark
from anomalib_transfusion.benchmark.config import (
    Options,
    accelerators,
    check_config,
    check_names,
    resolve,
    with_settings,
)
from anomalib_transfusion.benchmark.job import BenchmarkJob
from anomalib_transfusion.benchmark.pipeline import _complain, _read
from anomalib_transfusion.benchmark.report import report
from anomalib_transfusion.benchmark.rows import build, check_rows, expand, parse
from anomalib_transfusion.benchmark.training import Training

MODEL = {"class_path": "TransFusion"}
BENCHMARK_PART = {"seed": 1, "model": MODEL, "data": {"class_path": "DemoSurface"}}
OTHER = {**MODEL, "name": "Other", "weights": "TransFusion"}
CONFIG = {"accelerator": "cpu", "output_dir": "out", "benchmark": BENCHMARK_PART}


def check(**changed):
    """Check a config that is right but for what is changed."""
    check_config({**CONFIG, **changed})


def rows(trainer=None, seed=1, minutes=None, weights=None, **arguments):
    """List the rows of a benchmark whose model has these arguments."""
    given = {"trainer": trainer, "minutes": minutes, "weights": weights}
    model = {**MODEL, "init_args": arguments, **{name: value for name, value in given.items() if value is not None}}
    return expand({**BENCHMARK_PART, "seed": seed, "model": model}, "cpu")


def share_of_all_categories():
    data = {"class_path": "MultiCategory", "init_args": {"dataset": "MVTec"}}
    expand({"seed": 1, "model": {**MODEL, "minutes": "36%"}, "data": data}, "cpu", 60)


def cuda_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    accelerators({"accelerator": "cuda"})


def run_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump({**CONFIG, "accelerator": "gpu"}))
    Benchmark().run(Namespace(config=tmp_path / "benchmark.yaml"))


def set_a_config_of_anomalib(tmp_path):
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump({"accelerator": "cpu", "benchmark": BENCHMARK_PART}))
    Benchmark()._get_args(Namespace(config=tmp_path / "benchmark.yaml", set=["size=tiny"]))


def run_a_row_that_fails(tmp_path):
    BenchmarkJob(rows(timesteps=1)[0], str(tmp_path / "out"), str(tmp_path / "log")).run()


def report_on(folder, text=None):
    """Report on a folder with these results."""
    if text is not None:
        (folder / "results.csv").write_text(text, encoding="utf-8")
    report([folder])


# fmt: off
BENCHMARK = [
    *in_module(
        "benchmark/__init__.py",
        Message("module {} has no attribute {}", lambda: benchmark.Benchmarks, AttributeError,
                "'Benchmarks'", "it has Benchmark, draem_with_photographs", "Check the spelling"),
    ),
    *in_module(
        "benchmark/config.py",
        Message("output_dir is {}", lambda: check(output_dir=7), ValueError,
                "output_dir is 7", "expected the folder for the results", "as runs/benchmark/demo"),
        Message("benchmark.{} is {}", lambda: check(benchmark={**BENCHMARK_PART, "seed": {"grid": 1}}), ValueError,
                "benchmark.seed.grid is 1", "expected a list of at least one value", "as [brick, gravel]"),
        Message(
            "benchmark.{} has 'grid' in its name",
            lambda: check(benchmark={**BENCHMARK_PART, "model": {**MODEL, "init_args": {"grid_size": 3}}}),
            ValueError,
            "benchmark.model.init_args.grid_size",
            "has 'grid' in its name",
            "put the whole entry into a list under model.grid",
        ),
        Message("accelerator is {}", lambda: accelerators({"accelerator": "gpu"}), ValueError,
                "accelerator is 'gpu'", "expected 'auto', 'cpu' or 'cuda'", "Choose one"),
        Message("accelerator is 'cuda'", cuda_without_a_gpu, ValueError,
                "accelerator is 'cuda'", "PyTorch finds no GPU", "Choose 'auto' or 'cpu', or check nvidia-smi"),
        Message("{} is {}; expected a mapping", lambda: check(benchmark=None), ValueError, "'benchmark' is None",
                "expected a mapping with data, model, seed", "Write it as in configs/benchmark/demo.yaml"),
        Message("{} has {}; expected {}", lambda: check(outputdir="out"), ValueError, "the config has outputdir",
                "expected accelerator, baseline, benchmark, checkpoints", "Check the spelling"),
        Message("{} has no {}", lambda: check(benchmark={"model": MODEL, "seed": 1}), ValueError,
                "'benchmark' has no data", "which it needs", "add it (see configs/benchmark/demo.yaml)"),
        Message(
            "--set {}",
            lambda: with_settings({"variables": {"seeds": [0], "size": "tiny"}}, ["sise=full"]),
            ValueError,
            "--set sise=full",
            "expected NAME=VALUE with a variable of the config, which has seeds, size",
            "Choose one, or change the config",
        ),
        Message("A variable is called {}", lambda: resolve({**CONFIG, "variables": {"accelerator": "cpu"}}, "cpu"),
                ValueError, "A variable is called accelerator, which is taken", "expected another name", "Choose one"),
        Message(
            "{}: expected names of variables",
            lambda: resolve({**CONFIG, "output_dir": "${outputt}", "variables": {"output": "runs"}}, "cpu"),
            ValueError,
            "Interpolation key 'outputt' not found",
            "expected names of variables, which are accelerator, output, in ${...}",
            "Check the spelling",
        ),
        Message("{} is {}; expected true or false", lambda: check(kinds="yes"), ValueError,
                "kinds is 'yes'", "expected true or false", "Write one of them"),
        Message("only is {}", lambda: check(only="TransFusion"), ValueError,
                "only is 'TransFusion'", "expected a list of names of models", "Put it into brackets"),
        Message("minutes is {}", lambda: check(minutes=0), ValueError,
                "minutes is 0", "expected a number above 0", "Leave it out for as long as it takes"),
        Message(
            "{} is {}; expected the name of a model",
            lambda: check_names(Options(baseline="Base"), ["TransFusion", "Draem"]),
            ValueError,
            "baseline is 'Base'",
            "expected the name of a model, which are TransFusion, Draem",
            "Choose one",
        ),
    ),
    *in_module(
        "benchmark/rows.py",
        Message("seed is {}", lambda: rows(seed="one"), ValueError,
                "seed is 'one'", "expected a whole number", "or several as seed: {grid: [1, 2, 3]}"),
        Message("Two rows of the grid are the same", lambda: rows(seed={"grid": [1, 1]}), ValueError,
                "TransFusion on DemoSurface", "Two rows of the grid are the same", "Remove one of them"),
        Message("{}: {}", lambda: check_rows(rows(timestep=5)), ValueError,
                "TransFusion on DemoSurface (DemoSurface, seed 1, cpu)", "'timestep' is not accepted",
                "Check the name and the value in the config", function="check_rows"),
        Message("the trainer's {} cannot be set here", lambda: parse(rows(trainer={"devices": 2})[0]), ValueError,
                "devices", "the benchmark sets it", "Remove it from 'trainer'"),
        Message("{}. Check the name", lambda: parse(rows(timesteps="many")[0]), ValueError,
                "Got value: many", "Expected a <class 'int'>", "Check the name and the value in the config"),
        Message("{}", lambda: build(*parse(rows(timesteps=1)[0])), ValueError,
                "timesteps=1", "needs at least 2 timesteps", "the paper has 20", function="build"),
        Message("{}: minutes is {} of nothing", lambda: rows(minutes="36%"), ValueError,
                "seed 1, cpu): minutes is '36%' of nothing", "expected 'minutes' for everything as well", "Add it"),
        Message("{}: minutes is {}, of which each category has a part", share_of_all_categories, ValueError,
                "on all (MVTec, seed 1, cpu): minutes is '36%'", "categories is 'all'; expected their names",
                "Name them in a list, or give the minutes as a number"),
        Message("{}: minutes is {}; expected", lambda: rows(minutes="long"), ValueError,
                "seed 1, cpu): minutes is 'long'", "expected a number above 0, or a share as 36%", "Write one of them"),
        Message(
            "{}: weights is {}",
            lambda: rows(weights="Base"),
            ValueError,
            "seed 1, cpu): weights is 'Base'",
            "expected the name of a model that is trained, and that stands above it",
            "Check the spelling and the order",
        ),
    ),
    *in_module(
        "benchmark/training.py",
        Message(
            "There are no trained weights of {}",
            lambda tmp_path: Training(rows()[0], tmp_path, kept=True).load_weights(torch.nn.Identity()),
            FileNotFoundError,
            "There are no trained weights of TransFusion on DemoSurface",
            "model.ckpt is not there",
            "Run the benchmark until that row is done",
        ),
    ),
    *in_module(
        "benchmark/pipeline.py",
        Message("anomalib benchmark: {}", run_a_config, SystemExit,
                "accelerator is 'gpu'", "expected 'auto', 'cpu' or 'cuda'", "Choose one", function="run"),
        Message("--set and --only change a config", set_a_config_of_anomalib, ValueError, "--set and --only",
                "change a config with an output_dir; expected one", "Leave them out for this config"),
        Message(
            "{} takes the weights of another row",
            lambda: _read({**CONFIG, "benchmark": {**BENCHMARK_PART, "model": {"grid": [MODEL, OTHER]}}}),
            ValueError,
            "Other on DemoSurface (DemoSurface, seed 1, cpu) takes the weights of another row",
            "which are not kept",
            "Add 'checkpoints: true'",
        ),
        Message("anomalib benchmark: {} of {} rows", lambda tmp_path: _complain(str(tmp_path), rows()), SystemExit,
                "TransFusion on DemoSurface (DemoSurface, seed 1, cpu) did not run", "1 of 1 rows have no result",
                "The same command again repeats only these"),
    ),
    *in_module(
        "benchmark/job.py",
        Message("The row {} failed", run_a_row_that_fails, logging.ERROR,
                "TransFusion on DemoSurface (DemoSurface, seed 1, cpu) failed", "the others go on",
                "The same command again repeats it"),
    ),
    *in_module(
        "benchmark/load.py",
        Message("There is no row in {}", lambda tmp_path: report_on(tmp_path, "status,name\n"), ValueError,
                "results.csv", "There is no row in", "Run the benchmark until a row has ended"),
        Message(
            "There is none of the columns {}",
            lambda tmp_path: report_on(tmp_path, "model.class_path,data.class_path\nDraem,MVTec\n"),
            ValueError,
            "results.csv",
            "none of the columns image_AUROC, pixel_AUROC, pixel_AUPRO",
            "benchmark whose models report one of them",
        ),
        Message("There is no {}. Pass", lambda: report_on(Path("gone")), FileNotFoundError,
                "There is no gone", "or a results.csv", "Pass the output_dir of a benchmark"),
        Message(
            "The folder {} has no results.csv",
            lambda surface_root: report_on(surface_root / "brick"),
            FileNotFoundError,
            str(Path("/brick")),
            "has no results.csv",
            "Pass the output_dir of a benchmark that has run",
        ),
        Message("{} cannot be read as a table", lambda tmp_path: report_on(tmp_path, ""), ValueError,
                "results.csv cannot be read", "as a table", "Pass the results.csv of a benchmark"),
        Message("{} has no column", lambda tmp_path: report_on(tmp_path, "name,image_AUROC\nDraem,0.5\n"), ValueError,
                "results.csv has no column", "model.class_path, data.class_path",
                "Pass the results.csv of a benchmark"),
    ),
]
# fmt: on
