# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Fresh interpreters, as a person starts them, and tiny distributions for them to find."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from conftest import NETWORK

#: Arguments of a network that is built in no time, with lists as in JSON and YAML.
SMALL = json.loads(json.dumps({**NETWORK, "texture_source": "none"}))

#: Ends a program: the classes are known to anomalib, and are the same objects wherever one finds them.
SAME_EVERYWHERE = """
import importlib
import anomalib.data, anomalib.models, anomalib.models.image, anomalib_transfusion
deep = importlib.import_module("anomalib_transfusion.models.transfusion.lightning_model").TransFusion
assert anomalib.models.TransFusion is anomalib.models.image.TransFusion is anomalib_transfusion.TransFusion is deep
assert [c for c in anomalib.models.AnomalibModule.__subclasses__() if c.__name__ == "TransFusion"] == [deep]
assert "trans_fusion" in anomalib.models.list_models()
for name, module in (("MVTec", "mvtec"), ("DemoSurface", "demo_surface"), ("MultiCategory", "multi_category")):
    deep = getattr(importlib.import_module("anomalib_transfusion.data." + module), name)
    assert getattr(anomalib.data, name) is getattr(anomalib_transfusion, name) is deep
print("same everywhere")
"""

_COMPLAINTS = ("could not be loaded", "could not register", "Traceback")


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command without the Python settings of this process."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TORCH_DEVICE"))}
    env |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", **(environment or {})}
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def python(
    program: str,
    environment: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    executable: str | Path = sys.executable,
    cwd: Path | None = None,
    complaints: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter; it must succeed, without a word from the plugin unless one is expected."""
    result = run([executable, *flags, "-c", program], environment, cwd)
    assert result.returncode == 0, result.stderr
    assert complaints or not any(complaint in result.stderr for complaint in _COMPLAINTS), result.stderr
    return result


def make_distribution(folder: Path, name: str, source: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Write an installed distribution: one module and its metadata, as `pip install --target` leaves them."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    information = folder / f"{name}-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n", encoding="utf-8")
    lines = []
    for group, names in entry_points.items():
        lines += [f"[{group}]", *(f"{key} = {name}:{value}" for key, value in names.items())]
    (information / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
