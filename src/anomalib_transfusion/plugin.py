# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Make anomalib know the models and data modules that installed packages declare as entry points.

anomalib finds a model among the subclasses of ``AnomalibModule`` and as an attribute of ``anomalib.models``, so a
class is known once it is imported and set there. PyTorch calls :func:`register` at the end of ``import torch``
(entry-point group ``torch.backends``). It registers post-import hooks; when anomalib itself is imported they load the
entry points of the groups ``anomalib.models`` and ``anomalib.data``. The command ``anomalib benchmark`` gets the
plugin's pipeline through anomalib's registry of pipelines. Nothing of anomalib is patched, and only the standard
library and wrapt are imported here.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from itertools import accumulate
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["register"]


class _Group(NamedTuple):
    """One entry-point group and the anomalib modules that get its classes.

    Attributes:
        name: The entry-point group; also the anomalib package whose import fires the hook.
        late: The module to wait for if the package is already being imported. anomalib's packages import torch
            themselves and are partially imported at that moment; ``late`` is the last submodule that they import.
        modules: The modules that get an attribute for each class.
        taken: Further modules whose attributes a plugin must not shadow.
    """

    name: str
    late: str
    modules: tuple[str, ...]
    taken: tuple[str, ...] = ()


_GROUPS = (
    _Group(
        "anomalib.models",
        late="anomalib.models.video",
        modules=("anomalib.models", "anomalib.models.image"),
        taken=("anomalib.models.video",),
    ),
    _Group("anomalib.data", late="anomalib.data.predict", modules=("anomalib.data",)),
)

_PIPELINES = _Group("anomalib.cli.pipelines", late="anomalib.cli.utils.openvino", modules=("anomalib.cli.pipelines",))

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
        wrapt.register_post_import_hook(_register_benchmark, _module_to_wait_for(_PIPELINES))
    except Exception as error:  # noqa: BLE001
        _warn(
            "anomalib-transfusion could not register itself with anomalib, which does not know its models now: "
            f"{error!r}. Reinstall anomalib-transfusion with what it needs.",
        )


def _module_to_wait_for(group: _Group) -> str:
    """Name the module after whose import anomalib's package of this group is complete enough to use."""
    return group.late if _is_being_imported(group.name) else group.name


def _is_being_imported(name: str) -> bool:
    """Tell whether a module is partially imported."""
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


def _hook(group: _Group) -> Callable[[ModuleType], None]:
    """Return the function that loads the entry points of one group."""

    def load(_module: ModuleType) -> None:
        try:
            for entry_point in entry_points(group=group.name):
                _load(entry_point, group)
        except Exception as error:  # noqa: BLE001
            _warn(
                f"The plugins in the entry-point group {group.name!r} could not be loaded and are not available: "
                f"{error!r}. Find the package whose metadata is damaged, as with pip check, and reinstall it.",
            )

    return load


def _register_benchmark(_module: ModuleType) -> None:
    """Replace anomalib's own benchmark in its registry of pipelines, but not a benchmark of another plugin."""
    try:
        registry = sys.modules[_PIPELINES.name].PIPELINE_REGISTRY
        if registry is None:
            return
        from anomalib import pipelines

        from anomalib_transfusion.benchmark import Benchmark

        if registry.get("benchmark") is pipelines.Benchmark:
            registry["benchmark"] = Benchmark
    except Exception as error:  # noqa: BLE001
        _warn(
            f"anomalib-transfusion could not register its benchmark, anomalib's own is used: {error!r}. Reinstall "
            "anomalib-transfusion with what it needs.",
        )


def _load(entry_point: EntryPoint, group: _Group) -> None:
    """Load an entry point and set its class on anomalib's modules, unless anomalib itself has a class of that name.

    In that case the plugin's class is not even imported: ``get_model`` searches the subclasses of ``AnomalibModule``
    and would find it there.
    """
    targets = [sys.modules[name] for name in group.modules if name in sys.modules]
    owners = [*targets, *(sys.modules[name] for name in group.taken if name in sys.modules)]
    if any(hasattr(owner, entry_point.name) for owner in owners):
        return
    try:
        loaded = entry_point.load()
    except Exception as error:  # noqa: BLE001
        circular = isinstance(error, AttributeError | ImportError) and not isinstance(error, ModuleNotFoundError)
        if circular and any(_is_being_imported(name) for name in _with_parents(entry_point.module)):
            # Someone imports the plugin's module, which imports anomalib: the class does not exist yet.
            for target in targets:
                _set_when_asked_for(entry_point, target)
            return
        distribution = entry_point.dist.name if entry_point.dist else "an unknown distribution"
        _warn(
            f"anomalib plugin {entry_point.name!r} ({entry_point.value}, from {distribution}) could not be loaded and "
            f"is not available: {error!r}. Reinstall or remove {distribution}.",
        )
        return
    for target in targets:
        setattr(target, entry_point.name, loaded)


def _with_parents(name: str) -> Iterator[str]:
    """Yield the names of a module's parent packages, outermost first, and then its own."""
    return accumulate(name.split("."), "{}.{}".format)


def _set_when_asked_for(entry_point: EntryPoint, target: ModuleType) -> None:
    """Make a module load an entry point when the attribute of that name is first looked up (PEP 562)."""
    others: Callable[[str], Any] | None = vars(target).get("__getattr__")

    def look_up(name: str) -> Any:  # noqa: ANN401
        if name == entry_point.name:
            loaded = entry_point.load()
            setattr(target, name, loaded)
            return loaded
        if others is not None:
            return others(name)
        msg = (
            f"module {target.__name__!r} has no attribute {name!r}; neither anomalib nor an installed plugin has it. "
            "Check the spelling, or install what has it."
        )
        raise AttributeError(msg)

    vars(target)["__getattr__"] = look_up


def _warn(message: str) -> None:
    """Warn; where warnings are turned into errors, write to stderr, so that a plugin never makes an import fail."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        sys.stderr.write(f"{message}\n")
