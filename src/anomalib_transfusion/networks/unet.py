# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The levels of a U-Net with attention: one resolution each, down to the lowest and up again with skip connections."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
from torch import nn

from anomalib_transfusion.checks import Range, check_arguments

from .blocks import UNetBlock
from .normalization import groups_of

__all__ = [
    "MAX_LEVELS",
    "MAX_WIDTH",
    "DecoderLevel",
    "EncoderLevel",
    "Levels",
    "build_levels",
    "check_architecture",
    "check_attention_levels",
    "run_levels",
]

# Far beyond any use, and below what exhausts the memory of a computer without a word.
MAX_WIDTH = 8192
MAX_LEVELS = 10


class Levels(NamedTuple):
    """The levels of a U-Net.

    Attributes:
        encoder: The levels on the way down, highest resolution first.
        middle: The blocks at the lowest resolution.
        decoder: The levels on the way up, lowest resolution first.
    """

    encoder: nn.ModuleList
    middle: nn.ModuleList
    decoder: nn.ModuleList


class EncoderLevel(nn.Module):
    """The blocks of one resolution on the way down, and the convolution that halves it.

    Args:
        channels: Channels before, between and after the blocks.
        time_channels: Width of the time embedding.
        groups: Largest number of groups of the group normalization.
        attention: Makes the attention of a block, as for a block.
        downsample: Whether the resolution is halved afterwards.
    """

    def __init__(
        self,
        channels: Sequence[int],
        time_channels: int,
        groups: int,
        attention: Callable[[int], nn.Module],
        downsample: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            UNetBlock(before, after, time_channels, groups, attention) for before, after in pairwise(channels)
        )
        width = channels[-1]
        self.downsample = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1) if downsample else None

    def forward(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        skips: list[torch.Tensor],
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the level on ``(B, C, H, W)`` and append what the decoder will need to ``skips``.

        Args:
            x: The input.
            time: The embedding of the timestep.
            skips: What was appended before.
            features: Added behind the first block, of its channels.

        Returns:
            The output.
        """
        for number, block in enumerate(self.blocks):
            x = block(x, time)
            if features is not None and number == 0:
                x = x + features
            skips.append(x)
        if self.downsample is not None:
            x = self.downsample(x)
            skips.append(x)
        return x


class DecoderLevel(nn.Module):
    """The blocks of one resolution on the way up, each with a skip connection, and the convolution that doubles it.

    Args:
        channels: Channels before, between and after the blocks.
        skip_channels: Channels of the skip connection of each block.
        time_channels: Width of the time embedding.
        groups: Largest number of groups of the group normalization.
        attention: Makes the attention of a block, as for a block.
        upsample: Whether the resolution is doubled afterwards.
    """

    def __init__(
        self,
        channels: Sequence[int],
        skip_channels: Sequence[int],
        time_channels: int,
        groups: int,
        attention: Callable[[int], nn.Module],
        upsample: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            UNetBlock(before + skip, after, time_channels, groups, attention)
            for (before, after), skip in zip(pairwise(channels), skip_channels, strict=True)
        )
        width = channels[-1]
        self.upsample = nn.ConvTranspose2d(width, width, kernel_size=4, stride=2, padding=1) if upsample else None

    def forward(self, features: list[torch.Tensor], time: torch.Tensor) -> torch.Tensor:
        """Run the level on the last of ``features``, ``(B, C, H, W)``; before it are those of the encoder."""
        x = features.pop()
        for block in self.blocks:
            # On its own, so that what is concatenated is free when the block, where memory peaks, begins.
            x = torch.cat((x, features.pop()), dim=1)
            x = block(x, time, overwrite=True)
        return x if self.upsample is None else self.upsample(x)


def build_levels(
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_blocks: int,
    attention_levels: Sequence[int],
    attention: Callable[[int], nn.Module],
) -> Levels:
    """Build the levels of a U-Net; the embedding of the timestep has four times ``base_channels``.

    Args:
        base_channels: Channels at the highest resolution.
        channel_multipliers: Channels of each level as multiples of ``base_channels``, highest resolution first.
        num_blocks: Residual blocks a level (the decoder has one more).
        attention_levels: Indices of the levels with attention; negative ones count from the lowest resolution.
        attention: Makes an attention block of a number of channels. The middle always has one.

    Returns:
        Levels that map ``(B, base_channels, H, W)`` to the same shape.
    """
    num_levels = len(channel_multipliers)
    widths = [base_channels * multiplier for multiplier in channel_multipliers]
    with_attention = {level % num_levels for level in attention_levels}
    time_channels = 4 * base_channels
    groups = groups_of(base_channels)

    attentions = [attention if level in with_attention else nn.Identity for level in range(num_levels)]
    encoder = []
    for level, width in enumerate(widths):
        before = base_channels if level == 0 else widths[level - 1]
        channels = [before, *([width] * num_blocks)]
        downsample = level < num_levels - 1
        encoder.append(EncoderLevel(channels, time_channels, groups, attentions[level], downsample))

    middle = [
        UNetBlock(widths[-1], widths[-1], time_channels, groups, attention),
        UNetBlock(widths[-1], widths[-1], time_channels, groups, nn.Identity),
    ]

    decoder = []
    for level, width in reversed(list(enumerate(widths))):
        after = base_channels if level == 0 else widths[level - 1]
        channels = [*([width] * (num_blocks + 1)), after]
        skips = [*([width] * num_blocks), after]
        decoder.append(DecoderLevel(channels, skips, time_channels, groups, attentions[level], upsample=level > 0))
    return Levels(nn.ModuleList(encoder), nn.ModuleList(middle), nn.ModuleList(decoder))


def run_levels(
    levels: Levels,
    x: torch.Tensor,
    time: torch.Tensor,
    features: dict[int, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Run a U-Net from its first features to its last.

    Args:
        levels: The levels.
        x: The first features, ``(B, base_channels, H, W)``.
        time: The embedding of the timestep, ``(B, 4 * base_channels)``.
        features: What is added behind the first block of a level of the encoder, by the level's number; each
            is taken out, so that it is free afterwards.

    Returns:
        The last features, ``(B, base_channels, H, W)``.
    """
    skips = [x]
    for number, level in enumerate(levels.encoder):
        x = level(x, time, skips, features.pop(number, None) if features else None)
    for block in levels.middle:
        x = block(x, time)
    for level in levels.decoder:
        # Handed over, so that it is free as soon as the level has used it.
        skips.append(x)
        del x
        x = level(skips, time)
    return x


def check_architecture(
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_blocks: Annotated[int, Range(1, 64, "(2 are usual).", "must be from {least} to {most}")],
    attention_levels: Sequence[int],
) -> None:
    """Raise ValueError, naming the value, if a network of these sizes cannot be built."""
    check_arguments(check_architecture, locals())
    if base_channels < 8 or base_channels % 8:
        msg = f"base_channels={base_channels} must be a positive multiple of 8, such as 64."
        raise ValueError(msg)
    if not 1 <= len(channel_multipliers) <= MAX_LEVELS or min(channel_multipliers) < 1:
        msg = (
            f"channel_multipliers={tuple(channel_multipliers)} must name one whole number >= 1 for each level, and at "
            f"most {MAX_LEVELS} levels, such as (1, 2, 4, 8)."
        )
        raise ValueError(msg)
    if (widest := base_channels * max(channel_multipliers)) > MAX_WIDTH:
        msg = (
            f"base_channels={base_channels} with channel_multipliers={tuple(channel_multipliers)} gives {widest} "
            f"channels; expected at most {MAX_WIDTH}. Lower one of them."
        )
        raise ValueError(msg)
    check_attention_levels(attention_levels, len(channel_multipliers))


def check_attention_levels(attention_levels: Sequence[int], levels: int) -> None:
    """Raise ValueError, naming them, if there are levels with attention that a network of so many levels has not."""
    if wrong := [level for level in attention_levels if not -levels <= level < levels]:
        msg = (
            f"attention_levels={tuple(attention_levels)}: {wrong} are not levels; expected {-levels} to {levels - 1}. "
            "Count from 0 at the highest resolution, or from -1 at the lowest."
        )
        raise ValueError(msg)
