# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Environment of a measurement: device, versions, commit and command."""

import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import anomalib_transfusion

__all__ = ["command", "commit", "device_name", "environment", "processor_information", "synchronize", "version_of"]

_PACKAGES = ("anomalib", "lightning")


def environment(device: torch.device) -> dict[str, Any]:
    """Name the device, the versions and the command that a row is measured with."""
    versions = {name: version_of(name) for name in _PACKAGES}
    versions |= {"anomalib_transfusion": anomalib_transfusion.__version__, "torch": torch.__version__}
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        **{f"version_{name}": found for name, found in versions.items()},
        **commit(),
        "command": command(),
    }


def device_name(device: torch.device) -> str:
    """Name the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = re.search(r"^model name\s*:\s*(.+)$", processor_information(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def processor_information() -> str:
    """Return ``/proc/cpuinfo`` of Linux; an empty text on other systems."""
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8") if path.is_file() else ""


def version_of(name: str) -> str:
    """Return the version of an installed distribution, or ``absent`` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def commit() -> dict[str, Any]:
    """Return the commit of this package's sources and whether they are changed; without git, ``TRANSFUSION_COMMIT``."""
    package = Path(anomalib_transfusion.__file__).parent

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(package), *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        # An installed package may lie in the repository of another project.
        git("ls-files", "--error-unmatch", "__init__.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": os.environ.get("TRANSFUSION_COMMIT"), "dirty": None}


def command() -> str:
    """Return the command line of this process as a user types it."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return shlex.join(["python", "-m", f"{anomalib_transfusion.__name__}.{program.parent.name}", *sys.argv[1:]])
    if program.suffix == ".py":
        return shlex.join(["python", *sys.argv])
    return shlex.join([program.name, *sys.argv[1:]])


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
