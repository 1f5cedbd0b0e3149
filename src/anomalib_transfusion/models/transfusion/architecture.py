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
    memory_size: Annotated[int, Range(0, 100_000, "0 is none.", "must be from {least} to {most};")],
) -> None:
    """Raise ValueError, naming the value, if a size is impossible, or layers or a memory lack a backbone."""
    check_arguments(check_patches, locals())
    if backbone is None and backbone_layers is not None:
        msg = (
            f"backbone_layers={list(backbone_layers)} are layers of no backbone; expected None without one. Name the "
            "network in backbone, or leave the layers out."
        )
        raise ValueError(msg)
    if backbone is None and memory_size:
        msg = (
            f"memory_size={memory_size} vectors of features need a network that gives features, and backbone is None; "
            "expected both or neither. Name a network in backbone, or leave the memory out."
        )
        raise ValueError(msg)
