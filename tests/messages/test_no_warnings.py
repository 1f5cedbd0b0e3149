# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""A training, a test and a prediction as a person types them: our own code causes no warning.

Every warning is shown that Python knows, also those that it leaves out by default.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import SURFACE, TINY

ANOMALIB = Path(sys.executable).with_name("anomalib")
# As Python and Lightning print them, the latter without the category: FILE:LINE: CATEGORY: TEXT. Logs have a level.
WARNING = re.compile(r"^(?P<file>\S+\.pyx?):\d+: .*$", re.MULTILINE)
LEVEL = re.compile(r"^.*anomalib_transfusion.* - (?:WARNING|ERROR|CRITICAL) - .*$", re.MULTILINE)
CONFIG = {
    "model": {
        "class_path": "TransFusion",
        "init_args": {
            **TINY,
            "channel_multipliers": [1, 2],
            "attention_levels": [-1],
            "pre_processor": {
                "class_path": "anomalib.models.TransFusion.configure_pre_processor",
                "init_args": {"image_size": [32, 32]},
            },
        },
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
}


def run(folder, *command, **environment):
    """Run a command, and return what it printed."""
    settings = {"COLUMNS": "400", "OMP_NUM_THREADS": "1", "TERM": "dumb", "PYTHONWARNINGS": "always"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return f"{done.stdout}\n{done.stderr}"


def our_warnings(printed):
    """Return the warnings that our own code caused."""
    ours = [found[0] for found in WARNING.finditer(printed) if "anomalib_transfusion" in found["file"]]
    return ours + LEVEL.findall(printed)


@pytest.fixture(scope="module")
def data(surface_root):
    """Return what a person types for the data."""
    return [
        *["--data", "DemoSurface", "--data.root", surface_root],
        *(f"--data.{name}={value}" for name, value in SURFACE.items()),
    ]


@pytest.fixture(scope="module")
def training(tmp_path_factory, data):
    """Return the folder of a training, and what it printed."""
    folder = tmp_path_factory.mktemp("no_warnings")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder, run(folder, ANOMALIB, "train", "--config", "tiny.yaml", *data)


def test_training(training):
    _, printed = training
    # It went on to the end, the test after the training included.
    assert "pixel_AUPRO" in printed
    assert our_warnings(printed) == []


@pytest.mark.slow
def test_test_and_prediction(training, data, surface_root):
    folder, _ = training
    [checkpoint] = folder.glob("results/TransFusion/DemoSurface/brick/v0/weights/lightning/model.ckpt")
    common = ["--config", "tiny.yaml", "--ckpt_path", checkpoint]
    printed = run(folder, ANOMALIB, "test", *common, *data)
    assert "pixel_AUPRO" in printed
    assert our_warnings(printed) == []
    printed = run(folder, ANOMALIB, "predict", *common, "--data", surface_root / "brick/test/crack")
    assert "to browse them" in printed
    assert our_warnings(printed) == []


def test_warnings_of_ours_would_be_found(tmp_path):
    """One that the package gives, one that Python gives for its code, and one in a log."""
    (tmp_path / "wrapt.py").write_text("raise ImportError('wrapt is not here')", encoding="utf-8")
    (tmp_path / "anomalib_transfusion_old.py").write_text("assert 1 is 1\n", encoding="utf-8")
    program = (
        "import logging, anomalib_transfusion, anomalib_transfusion_old, anomalib_transfusion.files\n"
        "logging.basicConfig(format='%(asctime)s - %(name)s - %(levelname)s - %(message)s')\n"
        "logging.getLogger(anomalib_transfusion.files.__name__).warning('odd')\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    printed = run(tmp_path, sys.executable, "-c", program, PYTHONPATH=path)
    registration, syntax, log = our_warnings(printed)
    assert "RuntimeWarning: anomalib-transfusion could not register itself" in registration
    assert 'SyntaxWarning: "is" with' in syntax
    assert log.endswith("WARNING - odd")
