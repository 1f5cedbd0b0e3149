# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Patches and features of TransFusion's network that cannot be."""

from collections.abc import Sequence
from typing import Annotated

from anomalib_transfusion.checks import Range, check_arguments

__all__ = ["check_patches"]


def check_patches(
    patch_size: Annotated[int, Range(1, 64, "(the paper's network has 1: pixels).", "must be from {least} to {most}")],
    backbone: str | None,
    backbone_layers: Sequence[str] | None,
) -> None:
    """Raise ValueError, naming the value, if the patch size is impossible, or layers are given without a backbone."""
    check_arguments(check_patches, locals())
    if backbone is None and backbone_layers is not None:
        msg = (
            f"backbone_layers={list(backbone_layers)} are layers of no backbone; expected None without one. Name the "
            "network in backbone, or leave the layers out."
        )
        raise ValueError(msg)
