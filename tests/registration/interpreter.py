# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Fresh interpreters, as a person starts them, and tiny distributions for them to find.

Most are forks of one that holds libraries without PyTorch: see prepared.py.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
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


def _clean(environment: Mapping[str, str] | None) -> dict[str, str]:
    """Return this process's environment without its Python settings, and with others."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TORCH_DEVICE"))}
    return env | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", **(environment or {})}


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command without the Python settings of this process."""
    env = _clean(environment)
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@functools.cache
def _prepared() -> subprocess.Popen[str]:
    """Start the interpreter whose forks run programs; it ends with this process."""
    script = Path(__file__).with_name("prepared.py")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, script], env=_clean(None), **pipes)


def run_prepared(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``-c`` and a program, or a Python script, in a fork, as :func:`run` does in an interpreter of its own."""
    command = list(map(str, command))
    server = _prepared()
    with tempfile.TemporaryDirectory() as folder:
        outputs = {name: str(Path(folder, name)) for name in ("stdout", "stderr")}
        request = {"command": command, "environment": _clean(environment), "cwd": str(cwd or Path.cwd()), **outputs}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        printed = {name: Path(path).read_text(encoding="utf-8") for name, path in outputs.items()}
    return subprocess.CompletedProcess(command, status, **printed)


def python(
    program: str,
    environment: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    executable: str | Path = sys.executable,
    cwd: Path | None = None,
    complaints: bool = False,
    prepared: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter; it must succeed, without a word from the plugin unless one is expected.

    Args:
        program: The program.
        environment: Further variables of its environment.
        flags: Flags of the interpreter; with any, it is started anew.
        executable: The interpreter; with another than this process's, it is started anew.
        cwd: Where it is started.
        complaints: Whether the plugin may say something.
        prepared: Whether the interpreter may hold libraries without PyTorch.

    Returns:
        The process that has ended.
    """
    if prepared and not flags and executable == sys.executable:
        result = run_prepared(["-c", program], environment, cwd)
    else:
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
