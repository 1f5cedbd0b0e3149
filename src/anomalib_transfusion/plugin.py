# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Make anomalib know the models and data modules that installed packages declare as entry points.

anomalib finds a model among the subclasses of ``AnomalibModule`` and as an attribute of ``anomalib.models``, so a
class is known once it is imported and set there. PyTorch calls :func:`register` at the end of ``import torch``
(entry-point group ``torch.backends``). It registers post-import hooks; when anomalib itself is imported they load the
entry points of the groups ``anomalib.models`` and ``anomalib.data``. Nothing of anomalib is patched, and only the
standard library and wrapt are imported here.
"""

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import NamedTuple

__all__ = ["register"]


class _Group(NamedTuple):
    """One entry-point group and the anomalib modules that get its classes.

    Attributes:
        name: The entry-point group; also the anomalib package whose import fires the hook.
        late: The module to wait for where the package is already being imported. anomalib's packages import torch
            themselves: at that moment they are half imported, and this submodule is still to come.
        modules: The modules that get an attribute for each class.
    """

    name: str
    late: str
    modules: tuple[str, ...]


_GROUPS = (
    _Group("anomalib.models", "anomalib.models.image", ("anomalib.models", "anomalib.models.image")),
    _Group("anomalib.data", "anomalib.data.predict", ("anomalib.data",)),
)

_registered = False


def register() -> None:
    """Register the post-import hooks, once; never raise, because ``import torch`` must not fail over a plugin."""
    global _registered  # noqa: PLW0603
    if _registered:
        return
    _registered = True
    try:
        import wrapt

        for group in _GROUPS:
            wrapt.register_post_import_hook(_hook(group), _module_to_wait_for(group))
    except Exception as error:  # noqa: BLE001
        _warn(f"anomalib-transfusion could not register itself with anomalib: {error!r}")


def _module_to_wait_for(group: _Group) -> str:
    """Name the module after whose import anomalib's package of this group is complete enough to use."""
    spec = getattr(sys.modules.get(group.name), "__spec__", None)
    return group.late if getattr(spec, "_initializing", False) else group.name


def _hook(group: _Group) -> Callable[[ModuleType], None]:
    """Return the function that loads the entry points of one group."""

    def load(_module: ModuleType) -> None:
        for entry_point in entry_points(group=group.name):
            _load(entry_point, group.modules)

    return load


def _load(entry_point: EntryPoint, modules: tuple[str, ...]) -> None:
    """Import what an entry point names and set it on anomalib's modules; what is there already is left alone."""
    targets = [sys.modules[name] for name in modules if name in sys.modules]
    if all(hasattr(target, entry_point.name) for target in targets):
        return
    try:
        loaded = entry_point.load()
    except Exception as error:  # noqa: BLE001
        distribution = entry_point.dist.name if entry_point.dist else "an unknown distribution"
        _warn(
            f"anomalib plugin {entry_point.name!r} ({entry_point.value}, from {distribution}) could not be loaded and "
            f"is not available: {error!r}. Reinstall or remove {distribution}.",
        )
        return
    for target in targets:
        if not hasattr(target, entry_point.name):
            setattr(target, entry_point.name, loaded)


def _warn(message: str) -> None:
    """Warn, also where warnings are turned into errors: an import must not fail over a plugin."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        sys.stderr.write(f"{message}\n")
