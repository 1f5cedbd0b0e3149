# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Runs commands as a user types them, each in a separate process.

Nearly all of the time of a command in a test is the import of its libraries: ten seconds. Here a server imports
third-party libraries once, and each command is a fork of it, with its own folder, environment, arguments and output.
Imports themselves are tested in ``registration`` with new interpreters. So are commands that need other variables than
``ENVIRONMENT`` during imports, such as ``HF_HUB_OFFLINE`` in ``benchmark/test_quality.py``.
"""

import os
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
    program: str,
    *arguments: object,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> Finished:
    """Run a command to its end.

    Args:
        program: ``anomalib`` or ``anomalib-transfusion``.
        arguments: Its arguments.
        folder: Its working directory.
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
    program: str,
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
    sys.argv = [str(Path(sys.executable).with_name(program)), *arguments]
    import_module(MAINS[program]).main()
