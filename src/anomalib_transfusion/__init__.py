# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Diffusion models for anomaly detection with anomalib: TransFusion (ECCV 2024), DiffusionAD (TPAMI 2025) and DRDC.

Importing this package costs nothing: it registers the plugin and resolves its public names on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anomalib_transfusion import plugin
from anomalib_transfusion.moved import keep_former_names

if TYPE_CHECKING:
    from anomalib_transfusion.data import DemoSurface, MultiCategory, MVTec
    from anomalib_transfusion.models import (
        DiffusionAD,
        DiffusionADModel,
        Drdc,
        DrdcModel,
        TransFusion,
        TransFusionModel,
    )
    from anomalib_transfusion.visualization.film_strip import visualize_reverse_process

__version__ = "0.1.0"

__all__ = [
    "DemoSurface",
    "DiffusionAD",
    "DiffusionADModel",
    "Drdc",
    "DrdcModel",
    "MVTec",
    "MultiCategory",
    "TransFusion",
    "TransFusionModel",
    "visualize_reverse_process",
]

_PUBLIC = {
    "DemoSurface": "anomalib_transfusion.data",
    "DiffusionAD": "anomalib_transfusion.models",
    "DiffusionADModel": "anomalib_transfusion.models",
    "Drdc": "anomalib_transfusion.models",
    "DrdcModel": "anomalib_transfusion.models",
    "MVTec": "anomalib_transfusion.data",
    "MultiCategory": "anomalib_transfusion.data",
    "TransFusion": "anomalib_transfusion.models",
    "TransFusionModel": "anomalib_transfusion.models",
    "visualize_reverse_process": "anomalib_transfusion.visualization.film_strip",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a public name when it is first asked for."""
    if name not in _PUBLIC:
        msg = f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}. Check the spelling."
        raise AttributeError(msg)
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names before they are imported."""
    return sorted({*globals(), *__all__})


keep_former_names()
# Also without PyTorch's autoload (TORCH_DEVICE_BACKEND_AUTOLOAD=0), an import of the package is enough.
plugin.register()
