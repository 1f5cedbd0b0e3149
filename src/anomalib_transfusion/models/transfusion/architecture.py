# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks of the parameters of TransFusion's network."""

from collections.abc import Sequence
from typing import Annotated

from anomalib_transfusion.checks import Range, check_arguments

__all__ = ["check_architecture", "check_patches"]

# Far beyond any use, and small enough that building the network does not exhaust the memory.
MAX_WIDTH = 8192
MAX_LEVELS = 10


def check_architecture(
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_blocks: Annotated[int, Range(1, 64, "(the paper's network has 2).", "must be from {least} to {most}")],
    attention_levels: Sequence[int],
) -> None:
    """Raise ValueError, naming the value, if a network of these sizes cannot be built."""
    check_arguments(check_architecture, locals())
    if base_channels < 8 or base_channels % 8:
        msg = f"base_channels={base_channels} must be a positive multiple of 8 (the paper's network has 64)."
        raise ValueError(msg)
    if not 1 <= len(channel_multipliers) <= MAX_LEVELS or min(channel_multipliers) < 1:
        msg = (
            f"channel_multipliers={tuple(channel_multipliers)} must name one whole number >= 1 for each level, and at "
            f"most {MAX_LEVELS} levels (the paper's network has 1, 2, 4, 8)."
        )
        raise ValueError(msg)
    if (widest := base_channels * max(channel_multipliers)) > MAX_WIDTH:
        msg = (
            f"base_channels={base_channels} with channel_multipliers={tuple(channel_multipliers)} gives {widest} "
            f"channels; expected at most {MAX_WIDTH} (the paper's network has 512)."
        )
        raise ValueError(msg)
    levels = len(channel_multipliers)
    if wrong := [level for level in attention_levels if not -levels <= level < levels]:
        msg = (
            f"attention_levels={tuple(attention_levels)}: {wrong} are not levels; expected {-levels} to {levels - 1}. "
            "Count from 0 at the highest resolution, or from -1 at the lowest."
        )
        raise ValueError(msg)


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
