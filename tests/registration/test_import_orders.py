# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Whatever is imported first, anomalib knows the classes, and they are the same objects everywhere."""

import pkgutil
from pathlib import Path

import pytest
from interpreter import SAME_EVERYWHERE, python

import anomalib_transfusion

PACKAGE = Path(anomalib_transfusion.__file__).parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(PACKAGE)], "anomalib_transfusion.", onerror=lambda _name: None)
)
# A module's packages are imported before it. These register the plugin's classes before they import anything of their
# own, so that a module below them finds everything in place, whichever it is.
PACKAGES = [
    "anomalib_transfusion.categories",
    "anomalib_transfusion.data",
    "anomalib_transfusion.models",
    "anomalib_transfusion.pipelines",
    "anomalib_transfusion.training",
    "anomalib_transfusion.visualization",
]
# Some of its modules need anomalib and register it as they import it, the others, of the reports, do without.
BENCHMARK = [name for name in MODULES if name.startswith("anomalib_transfusion.benchmark")]


# "import torch" first: test_import_torch.py. "from anomalib_transfusion import TransFusion" first: test_spawned_worker.
@pytest.mark.parametrize(
    "first",
    ["import anomalib.models", "import anomalib.engine", "import anomalib.data", "import anomalib.metrics"],
)
def test_import_order(first, tmp_path):
    assert "same everywhere" in python(first + SAME_EVERYWHERE, cwd=tmp_path).stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_first_and_what_is_below(package, tmp_path):
    below = ", ".join(name for name in MODULES if f"{name}.".startswith(f"{package}."))
    program = (
        f"import sys, {package}\n"
        "assert 'anomalib.models' not in sys.modules or hasattr(sys.modules['anomalib.models'], 'TransFusion')\n"
        f"assert hasattr(sys.modules['anomalib.data'], 'MVTec')\nimport {below}\n"
    )
    assert "same everywhere" in python(program + SAME_EVERYWHERE, cwd=tmp_path).stdout


def test_other_modules_leave_anomalib_alone(tmp_path):
    """What is in no such package imports no anomalib: afterwards all is as after `import anomalib_transfusion`."""
    others = [name for name in MODULES if name not in BENCHMARK and not name.startswith(tuple(PACKAGES))]
    assert "anomalib_transfusion.plugin" in others
    assert "anomalib_transfusion.synthesis.generator" in others
    program = f"import sys, {', '.join(others)}\nassert 'anomalib' not in sys.modules\n"
    python(program, cwd=tmp_path)


def test_reports_need_neither_anomalib_nor_torch(tmp_path):
    reports = ["anomalib_transfusion.benchmark", "anomalib_transfusion.benchmark.report", "anomalib_transfusion.cli"]
    assert set(reports[:2]) < set(BENCHMARK)
    python(f"import sys, {', '.join(reports)}\nassert not {{'anomalib', 'torch'}} & sys.modules.keys()\n", cwd=tmp_path)


@pytest.mark.parametrize("first", ["pipeline", "measure", "rows"])
def test_modules_of_benchmarks_first(first, tmp_path):
    program = f"import anomalib_transfusion.benchmark.{first}, {', '.join(BENCHMARK)}\n"
    assert "same everywhere" in python(program + SAME_EVERYWHERE, cwd=tmp_path).stdout


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_deep_import_first(module, tmp_path):
    assert "same everywhere" in python(f"import {module}\n" + SAME_EVERYWHERE, cwd=tmp_path).stdout


WORKER = f"""
import multiprocessing
import sys

def look(model_class, data_class):
    import anomalib.data, anomalib.models
    same = anomalib.models.TransFusion is model_class and anomalib.data.MVTec is data_class
    program = {SAME_EVERYWHERE!r}
    exec(program, {{}})
    return same, multiprocessing.current_process().name

if __name__ == "__main__":
    from anomalib_transfusion import TransFusion
    exec({SAME_EVERYWHERE!r})
    from anomalib.data import MVTec
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        same, name = pool.apply(look, (TransFusion, MVTec))
    assert same
    assert name != "MainProcess"
    print("the worker has the same classes")
"""


def test_spawned_worker(tmp_path):
    """The classes are unpickled before anything of anomalib is imported there."""
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    program = "import runpy; runpy.run_path('worker.py', run_name='__main__')"
    result = python(program, cwd=tmp_path, prepared=False)
    assert "the worker has the same classes" in result.stdout


WITHOUT_AUTOLOAD = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


def test_without_autoload_before_anomalib(tmp_path):
    python("import anomalib_transfusion\n" + SAME_EVERYWHERE, WITHOUT_AUTOLOAD, cwd=tmp_path)


def test_without_autoload_after_anomalib(tmp_path):
    """Without PyTorch's autoload nobody calls the plugin before the package is imported by hand."""
    program = (
        "import anomalib.data, anomalib.models\n"
        "assert not hasattr(anomalib.models, 'TransFusion')\n"
        "assert not hasattr(anomalib.data, 'MVTec')\n"
        "import anomalib_transfusion\n"
        "assert 'trans_fusion' in anomalib.models.list_models()\n"
        "assert hasattr(anomalib.data, 'MVTec')\n"
    )
    python(program + SAME_EVERYWHERE, WITHOUT_AUTOLOAD, cwd=tmp_path)
