# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What is built from pyproject.toml, and that each way of installing it registers the plugin."""

import importlib.util
import os
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import HeaderParser
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path

import pytest
from interpreter import SAME_EVERYWHERE, python, run

import anomalib_transfusion
from paths import ROOT

WITHOUT_US = """
from importlib.util import find_spec
assert find_spec("torch") and find_spec("anomalib") and not find_spec("anomalib_transfusion")
"""
OURS = ("anomalib_transfusion", "_editable_impl_anomalib_transfusion", "__editable__")

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("build", "hatchling", "pip")),
    reason="needs build, hatchling and pip: pip install '.[test]'",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in this environment: without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    result = run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT])
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    """The wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


def test_files_of_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        text = next(name for name in names if name.endswith("LICENSE"))
        assert archive.read(text) == (ROOT / "LICENSE").read_bytes()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        declared = archive.read(entry_points).decode()
    assert "anomalib_transfusion/py.typed" in names
    # Nothing but the package and its metadata: no tests, no configs, no compiled leftovers.
    package = {
        f"anomalib_transfusion/{path.relative_to(ROOT / 'src' / 'anomalib_transfusion').as_posix()}"
        for path in (ROOT / "src" / "anomalib_transfusion").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == package
    for group in ("[anomalib.models]", "[anomalib.data]", "[torch.backends]"):
        assert group in declared


def test_entry_points_name_what_exists(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (information,) = tmp_path.glob("*.dist-info")
    declared = {(point.group, point.name): point for point in PathDistribution(information).entry_points}
    assert set(declared) == {
        ("anomalib.models", "TransFusion"),
        ("anomalib.models", "DiffusionAD"),
        ("anomalib.models", "Drdc"),
        ("anomalib.data", "MVTec"),
        ("anomalib.data", "DemoSurface"),
        ("anomalib.data", "MultiCategory"),
        ("torch.backends", "anomalib_transfusion"),
        ("console_scripts", "anomalib-transfusion"),
    }
    point: EntryPoint
    for point in declared.values():
        source = tmp_path / f"{point.module.replace('.', '/')}.py"
        assert f" {point.attr}(" in source.read_text(encoding="utf-8")


def test_metadata(metadata):
    assert metadata["Name"] == "anomalib-transfusion"
    assert metadata["Version"] == anomalib_transfusion.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"test", "openvino", "onnx"} <= set(metadata.get_all("Provides-Extra"))
    classifiers = metadata.get_all("Classifier")
    assert "Typing :: Typed" in classifiers
    assert "Programming Language :: Python :: 3.10" in classifiers
    required = {line.split(";")[0].strip() for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    names = {line.split(">")[0].split("<")[0].split("!")[0] for line in required}
    assert names >= {
        "anomalib",
        "torch",
        "lightning",
        "torchvision",
        "opencv-python-headless",
        "numpy",
        "safetensors",
        "wrapt",
    }
    # What only tests import is no need of whoever installs the package.
    assert not names & {"import-linter", "tabulate"}
    (anomalib,) = [line for line in required if line.startswith("anomalib")]
    assert "<3" in anomalib


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory):
    """A folder with all that is installed here except this package, however it is installed."""
    folder = tmp_path_factory.mktemp("dependencies")
    for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}:
        for path in Path(source).iterdir():
            target = folder / path.name
            if not path.name.startswith(OURS) and path.suffix != ".pth" and not target.exists():
                target.symlink_to(path)
    return folder


def _check(place, **settings):
    """Check in a fresh interpreter that the copy in a folder is the one that is imported and registered."""
    program = (
        "import torch, sys, pathlib\n"
        "import anomalib_transfusion\n"
        f"assert pathlib.Path({str(place)!r}) in pathlib.Path(anomalib_transfusion.__file__).resolve().parents, "
        "anomalib_transfusion.__file__\n"
    )
    # First without an import of the package by hand: the entry points are all that brings it in.
    found = "import anomalib.models, anomalib.data\nassert anomalib.models.TransFusion and anomalib.data.MVTec\n"
    assert "same everywhere" in python(found + program + SAME_EVERYWHERE, **settings).stdout


def test_only_on_the_python_path(wheel, dependencies, tmp_path):
    """`pip install --target` and PYTHONPATH; the interpreter reads no site-packages and no .pth file (-S)."""
    target = tmp_path / "target"
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", target, wheel]
    result = run(install)
    assert result.returncode == 0, result.stderr
    assert not list(target.glob("*.pth"))
    settings = {"flags": ("-S",), "cwd": tmp_path}
    python(WITHOUT_US, {"PYTHONPATH": str(dependencies)}, **settings)
    path = os.pathsep.join([str(target), str(dependencies)])
    _check(target.resolve(), environment={"PYTHONPATH": path}, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["editable", "folder", "wheel"])
def test_pip_install(way, wheel, dependencies, tmp_path):
    """`pip install -e .`, `pip install .` and the wheel, each in a virtual environment without this package."""
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=os.name != "nt")
    bin_folder = environment / ("Scripts" if os.name == "nt" else "bin")
    packages = Path(
        subprocess.run(
            [bin_folder / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip(),
    )
    (packages / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
    settings = {"executable": bin_folder / "python", "cwd": tmp_path}
    python(WITHOUT_US, **settings)
    what = {"editable": ["--editable", ROOT], "folder": [ROOT], "wheel": [wheel]}[way]
    install = [bin_folder / "python", "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", *what]
    result = run(install, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    _check(ROOT / "src" if way == "editable" else packages.resolve(), **settings)
