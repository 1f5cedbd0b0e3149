# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""`import torch` stays cheap, and never fails because of the plugin."""

import statistics

import pytest
from interpreter import SAME_EVERYWHERE, make_distribution, python

# What PyTorch runs at the end of its import, with the autoload switched on; without it, nothing of this runs.
COST = """
import sys, time, torch
assert "anomalib_transfusion" not in sys.modules
started = time.process_time()
torch._import_device_backends()
print(time.process_time() - started)
from anomalib_transfusion import plugin
assert plugin._registered
"""


def test_the_plugin_adds_less_than_a_tenth_of_a_second(tmp_path):
    """Processor time, so that other programs on the machine do not count."""
    environment = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    seconds = [float(python(COST, environment, cwd=tmp_path, prepared=False).stdout) for _ in range(3)]
    assert statistics.median(seconds) < 0.1


def test_torch_first_and_nothing_heavy_with_it(tmp_path):
    program = (
        "import sys, torch\n"
        "assert 'wrapt' in sys.modules and 'anomalib_transfusion.plugin' in sys.modules\n"
        "assert not {'anomalib', 'lightning', 'kornia'} & set(sys.modules)\n"
        # Of the package, the plugin and the table of former names, which need the standard library alone.
        "assert {name for name in sys.modules if name.startswith('anomalib_transfusion.')} "
        "== {'anomalib_transfusion.plugin', 'anomalib_transfusion.moved'}\n"
    )
    assert "same everywhere" in python(program + SAME_EVERYWHERE, cwd=tmp_path, prepared=False).stdout


@pytest.mark.parametrize("flags", [(), ("-W", "error")], ids=["default", "warnings are errors"])
def test_without_wrapt(flags, tmp_path):
    (tmp_path / "wrapt.py").write_text("raise ImportError('wrapt is not here')", encoding="utf-8")
    result = python(
        "import torch; print(torch.ones(2).sum())",
        {"PYTHONPATH": str(tmp_path)},
        flags,
        cwd=tmp_path,
        complaints=True,
    )
    assert "tensor(2.)" in result.stdout
    assert "anomalib-transfusion could not register itself" in result.stderr
    assert "wrapt is not here" in result.stderr


# anomalib itself does not start under "-W error": it makes FutureWarnings.
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="default"),
        pytest.param(("-W", "error::RuntimeWarning"), id="warnings are errors", marks=pytest.mark.slow),
    ],
)
def test_a_broken_plugin(flags, tmp_path):
    """It is named in a warning; torch, anomalib and the other plugins go on."""
    make_distribution(
        tmp_path,
        "broken_plugin",
        "raise OSError('a library is missing')",
        {"anomalib.models": {"Shattered": "Shattered"}, "anomalib.data": {"Splinters": "Splinters"}},
    )
    program = "import torch\nimport anomalib.models\nassert not hasattr(anomalib.models, 'Shattered')\n"
    environment = {"PYTHONPATH": str(tmp_path)}
    result = python(program + SAME_EVERYWHERE, environment, flags, cwd=tmp_path, complaints=True)
    for name in ("Shattered", "Splinters"):
        (line,) = [line for line in result.stderr.splitlines() if f"anomalib plugin {name!r}" in line]
        assert f"broken_plugin:{name}, from broken_plugin" in line
        assert "a library is missing" in line
    assert ("RuntimeWarning" in result.stderr) is not bool(flags)
