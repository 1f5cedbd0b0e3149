# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What users can name: modules with their public names, parameters of the models, and options of the command line.

python tests/releases/public_names.py > tests/releases/VERSION/public_names.json
"""

import inspect
import json
import pkgutil
from collections.abc import Iterable
from importlib import import_module

import anomalib.models

import anomalib_transfusion


def public_names(modules: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Return the public names, by kind and place.

    Args:
        modules: Modules to look into; those that are no longer there have no names.
    """
    return {
        "modules": {name: exported(name) for name in modules},
        "parameters": {"TransFusion": parameters(anomalib.models.TransFusion)},
        "options": options(),
    }


def exported(module: str) -> list[str]:
    """Return the names that a module says are public, or where it says nothing, what it defines."""
    try:
        loaded = import_module(module)
    except ModuleNotFoundError:
        return []
    defined = [name for name, value in vars(loaded).items() if getattr(value, "__module__", None) == module]
    names = getattr(loaded, "__all__", defined)
    return sorted(name for name in names if not name.startswith("_") and hasattr(loaded, name))


def parameters(model: type) -> list[str]:
    """Return the parameters of a model and of what its constructor hands further arguments on to."""
    return sorted({name for cls in model.__mro__ for name in inspect.signature(cls.__init__).parameters} - {"self"})


def options() -> dict[str, list[str]]:
    """Return the arguments of each subcommand of ``anomalib-transfusion``."""
    from anomalib_transfusion import cli

    return {name: sorted(inspect.signature(getattr(cli, name)).parameters) for name in ("convert", "explain", "report")}


if __name__ == "__main__":
    package = anomalib_transfusion
    found = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    print(json.dumps(public_names([package.__name__, *found]), indent=1))
