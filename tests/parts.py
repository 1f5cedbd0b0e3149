# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Builds parts of the models with the defaults of the models, since the parts themselves have none."""

from collections.abc import Callable
from typing import Any, TypeVar

from anomalib_transfusion import DiffusionAD, TransFusion
from anomalib_transfusion.checks import defaults_of, taken_by

Part = TypeVar("Part")


def part(kind: Callable[..., Part], *arguments: Any, **parameters: Any) -> Part:
    """Build a part of a model with the model's defaults.

    Args:
        kind: Class of the part.
        arguments: Positional arguments of the part.
        parameters: Parameters that differ from the defaults.
    """
    of_diffusion_ad = any(name in kind.__module__ for name in ("diffusion_ad", "blending"))
    defaults = defaults_of(DiffusionAD if of_diffusion_ad else TransFusion)
    # The parameter of the anomaly generators has a shorter name.
    defaults = {**defaults, "grayscale": defaults["grayscale_anomalies"]}
    return kind(*arguments, **{**taken_by(kind, defaults), **parameters})
