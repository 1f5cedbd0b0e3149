# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Whatever is imported first, `anomalib benchmark` is the plugin's pipeline, and anomalib's own class is left alone."""

import pytest
from interpreter import python

LOOK = """
import anomalib.cli, anomalib.cli.cli, anomalib.cli.pipelines, anomalib.pipelines
from anomalib_transfusion.benchmark import Benchmark
registry = anomalib.cli.pipelines.PIPELINE_REGISTRY
assert registry is anomalib.cli.cli.PIPELINE_REGISTRY and registry == {"benchmark": Benchmark}, registry
assert issubclass(Benchmark, anomalib.pipelines.Benchmark) and Benchmark is not anomalib.pipelines.Benchmark
print("registered")
"""


@pytest.mark.parametrize(
    "first",
    ["import anomalib.cli", "import anomalib_transfusion.benchmark"],
)
def test_benchmark_is_registered(first, tmp_path):
    assert "registered" in python(f"{first}\n{LOOK}", cwd=tmp_path).stdout


def test_without_autoload_after_anomalib(tmp_path):
    program = (
        "import anomalib.cli.pipelines as p, anomalib.pipelines\n"
        "assert p.PIPELINE_REGISTRY['benchmark'] is anomalib.pipelines.Benchmark\n"
        "import anomalib_transfusion\n"
    )
    environment = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    assert "registered" in python(program + LOOK, environment, cwd=tmp_path).stdout


def test_a_benchmark_of_another_package_is_left_alone(tmp_path):
    program = (
        "import anomalib.cli.pipelines as p\nclass Other: pass\np.PIPELINE_REGISTRY['benchmark'] = Other\n"
        "import anomalib_transfusion\nassert p.PIPELINE_REGISTRY['benchmark'] is Other\n"
    )
    python(program, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}, cwd=tmp_path)
