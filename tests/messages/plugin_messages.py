# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages of the registration with anomalib, and of the package itself."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

from message_table import PACKAGE, PRINTED, Message, in_module

import anomalib_transfusion
from anomalib_transfusion import plugin, synthesis


def installed(folder, monkeypatch, entry_points):
    """Install a distribution with entry points, and let the plugin look for models."""
    information = folder / "thimble-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: thimble\nVersion: 0.1\n")
    (information / "entry_points.txt").write_bytes(entry_points)
    monkeypatch.syspath_prepend(folder)
    [models] = [group for group in plugin._GROUPS if group.name == "anomalib.models"]
    plugin._hook(models)(ModuleType("anomalib.models"))


def printed_by(program, *folders):
    """Return what a fresh interpreter complains of, in which only this package is imported: that takes a moment."""
    path = os.pathsep.join(map(str, [*folders, PACKAGE.parent]))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def without_wrapt(tmp_path):
    (tmp_path / "wrapt.py").write_text("raise ImportError('wrapt is not here')", encoding="utf-8")
    return printed_by("import anomalib_transfusion", tmp_path)


def ask_for_another_name():
    target = ModuleType("anomalib.models")
    plugin._set_when_asked_for(EntryPoint("Thimble", "thimble:Thimble", "anomalib.models"), target)
    return target.Thimbel


# fmt: off
PLUGIN = [
    *in_module(
        "moved.py",
        Message("module {} has no attribute {}", lambda: synthesis.AnomalyGenerators, AttributeError,
                "'AnomalyGenerators'", "it has ", "Check the spelling"),
    ),
    *in_module(
        "__init__.py",
        Message("module {} has no attribute {}", lambda: anomalib_transfusion.Transfusion, AttributeError,
                "'Transfusion'", "it has DemoSurface, DiffusionAD, DiffusionADModel", "Check the spelling"),
    ),
    *in_module(
        "plugin.py",
        Message(
            "module {} has no attribute {}",
            ask_for_another_name,
            AttributeError,
            "module 'anomalib.models' has no attribute 'Thimbel'",
            "neither anomalib nor an installed plugin has it",
            "Check the spelling, or install what has it",
        ),
        Message("anomalib-transfusion could not register itself", without_wrapt, PRINTED, "wrapt is not here",
                "anomalib, which does not know its models now", "Reinstall anomalib-transfusion with what it needs"),
        Message(
            "anomalib-transfusion could not register its benchmark",
            # Too early: anomalib's command line is not imported.
            lambda: printed_by(
                "from anomalib_transfusion import plugin; plugin._register_benchmark(plugin)",
            ),
            PRINTED,
            "KeyError('anomalib.cli.pipelines')",
            "anomalib's own is used",
            "Reinstall anomalib-transfusion with what it needs",
        ),
        Message(
            "The plugins in the entry-point group {}",
            lambda tmp_path, monkeypatch: installed(tmp_path, monkeypatch, b"\xff\xfe"),
            RuntimeWarning,
            "'anomalib.models'",
            "could not be loaded and are not available",
            "Find the package whose metadata is damaged",
        ),
        Message(
            "anomalib plugin {}",
            lambda tmp_path, monkeypatch: installed(tmp_path, monkeypatch, b"[anomalib.models]\nThimble = thimble:Net"),
            RuntimeWarning,
            "anomalib plugin 'Thimble' (thimble:Net, from thimble)",
            "could not be loaded and is not available",
            "Reinstall or remove thimble",
        ),
    ),
]
# fmt: on
