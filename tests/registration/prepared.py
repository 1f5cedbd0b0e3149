# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""An interpreter that holds what anomalib imports and that knows nothing of PyTorch; each program is a fork of it.

These libraries are 40 % of the time that an import of anomalib takes. Everything that tests of registration are about
is left to the program: PyTorch, its autoload, wrapt, anomalib, Lightning and the plugins.

It reads requests from its standard input, one a line, and answers each with the exit status of the program.
"""

import contextlib
import importlib
import json
import os
import runpy
import sys
import types
from collections.abc import Mapping, Sequence

LIBRARIES = (
    "numpy",
    "scipy.signal",
    "scipy.stats",
    "matplotlib.pyplot",
    "pandas",
    "sklearn.covariance",
    "sklearn.mixture",
    "sklearn.random_projection",
    "huggingface_hub",
    "sympy",
    "networkx",
    "cv2",
    "jsonargparse",
    "requests",
    "fsspec",
    "aiohttp",
    "omegaconf",
)
LEFT_ALONE = {"anomalib", "anomalib_transfusion", "kornia", "lightning", "timm", "torch", "wrapt"}


def main() -> None:
    """Serve requests until the standard input is closed."""
    for name in LIBRARIES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    if held := LEFT_ALONE & sys.modules.keys():
        msg = f"{', '.join(sorted(held))} must not be imported here."
        raise RuntimeError(msg)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            _run(**json.loads(line))
            return
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n")
        sys.stdout.flush()


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    stdout: str,
    stderr: str,
) -> None:
    """Run a command in this process, the fork: ``-c`` and a program, or a script, and its arguments."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    name = command[0]
    sys.path[0] = "" if name == "-c" else os.path.dirname(name)  # noqa: PTH120
    sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    # As at the start of an interpreter: none of the modules of this file.
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    if name == "-c":
        sys.argv = ["-c", *command[2:]]
        exec(compile(command[1], "<string>", "exec"), module.__dict__)  # noqa: S102
    else:
        sys.argv = list(command)
        runpy.run_path(name, run_name="__main__")


if __name__ == "__main__":
    main()
