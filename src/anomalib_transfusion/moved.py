# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Imports under former module paths and names, which code, configs and exported models of earlier versions use."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "former_names", "keep_former_names"]

_PACKAGE = __name__.rpartition(".")[0]
_OF_TRANSFUSION = {
    "acceleration": "networks.acceleration",
    "blocks": "networks.blocks",
    "checkpoint": "models.transfusion.official",
    "checkpoint_io": "training.checkpoints",
    "compatibility": "training.compatibility",
    "distributed": "training.distributed",
    "export": "models.loop_export",
    "image_files": "training.image_files",
    "learning_rate": "training.learning_rate",
    "normalization": "networks.normalization",
    "numerics": "training.numerics",
    "parameters": "checks",
    "remaining_time": "training.progress",
    "tensors": "checks",
    "tiling": "training.tiling",
    "validation": "training.validation",
}
MOVED = {f"{_PACKAGE}.models.transfusion.{old}": f"{_PACKAGE}.{new}" for old, new in _OF_TRANSFUSION.items()}
"""Former names of modules, each with the present one."""

_MOVED_OUT_OF = {
    "synthesis": {"previous_mask": "models.transfusion.previous_mask"},
    "synthesis.masks": {"previous_mask": "models.transfusion.previous_mask"},
}


class _FormerNames(MetaPathFinder, Loader):
    """Import hook that resolves a former module name to the module under its present name, the same object."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a specification for a former name."""
        del path, target
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: PLR6301
        """Import the module under its present name."""
        module = import_module(MOVED[spec.name])
        # Python is about to set this specification on the module, which must keep its own: exec_module restores it.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:  # noqa: PLR6301
        """Restore the specification of the module, whose code has run already."""
        module.__spec__ = module.__spec__ and module.__spec__.loader_state


def keep_former_names() -> None:
    """Make the former names of modules importable; a module is imported only when it is asked for."""
    if not any(isinstance(finder, _FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(_FormerNames())


def former_names(module: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module that finds names that have moved to another module.

    Args:
        module: The module's ``__name__``; it has an ``__all__``.
    """
    moved = _MOVED_OUT_OF[module.removeprefix(f"{_PACKAGE}.")]

    def find(name: str) -> Any:  # noqa: ANN401
        if name not in moved:
            known = ", ".join(sys.modules[module].__all__)
            msg = f"module {module!r} has no attribute {name!r}; it has {known}. Check the spelling."
            raise AttributeError(msg)
        return getattr(import_module(f"{_PACKAGE}.{moved[name]}"), name)

    return find
