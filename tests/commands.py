# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Commands and scripts as a person types them, each in a process of its own.

Nearly all that a command in a test computes is the import of its libraries: ten seconds. Here one server imports those
of others once, and each command or script is a fork of it, with its own folder, environment, arguments and output.
What an import itself does is tested in ``registration``, with interpreters that are started anew. So are commands that
need other variables than ``ENVIRONMENT`` while they import, as ``HF_HUB_OFFLINE`` in ``benchmark/test_quality.py``.
"""

import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import NamedTuple

import pytest

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["anomalib.cli.cli", "anomalib.data", "anomalib.engine", "anomalib.models"])
# Variables that are read while libraries are imported, such as the width of tables.
ENVIRONMENT = {"COLUMNS": "160", "OMP_NUM_THREADS": "1", "TERM": "dumb"}
MAINS = {"anomalib": "anomalib.cli.cli", "anomalib-transfusion": "anomalib_transfusion.cli"}


class Finished(NamedTuple):
    """Result of a command, with the names of ``subprocess.run``."""

    returncode: int
    stdout: str
    stderr: str


def typed(
    program: str | Path,
    *arguments: object,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> Finished:
    """Run a command to its end.

    Args:
        program: ``anomalib``, ``anomalib-transfusion``, or the path of a script.
        arguments: What follows it.
        folder: Where it is typed.
        environment: Further variables of its environment.
        seconds: Time limit in seconds, after which it is killed.

    Returns:
        Exit status and output.

    Raises:
        TimeoutError: If the command exceeds the time limit.
    """
    with tempfile.TemporaryDirectory() as outputs:
        names = [Path(outputs, name) for name in ("stdout", "stderr")]
        given = ({**os.environ, **ENVIRONMENT, **(environment or {})}, *names)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRONMENT.items():
                patch.setenv(name, value)
            forkserver.ensure_running()
            process = SERVER.Process(target=_run, args=(program, list(map(str, arguments)), folder, *given))
            process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            msg = f"{program} {arguments} has not ended in {seconds} s; {names[1].read_text()[-2000:]}"
            raise TimeoutError(msg)
        return Finished(process.exitcode, *(name.read_text(encoding="utf-8") for name in names))


def _run(
    program: str | Path,
    arguments: list[str],
    folder: Path,
    environment: Mapping[str, str],
    stdout: Path,
    stderr: Path,
) -> None:
    """Run the command in this process, the fork."""
    for number, path in ((1, stdout), (2, stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if isinstance(program, Path):
        sys.argv = [str(program), *arguments]
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")
    else:
        sys.argv = [str(Path(sys.executable).with_name(program)), *arguments]
        import_module(MAINS[program]).main()
