# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The network of TransFusion: a ResUNet with time embedding, attention at low resolutions and three heads.

Paper Section 3.2. Three facts are taken from the published code because the paper leaves them open: the positional
encoding is a single channel, the sine of the row index; attention blocks have no normalisation; and that of the
residual blocks has 32 groups (fewer in networks narrower than 32 channels).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.networks.normalization import (
    GroupNormSiLU,
    activate,
    group_norm,
    groups_of,
    memory_format,
    normalized_in_strips,
)

from .architecture import check_architecture

__all__ = ["Prediction", "ResUNet"]

IMAGE_CHANNELS = 3


class Prediction(NamedTuple):
    """What the three heads predict for an image x_t.

    Attributes:
        anomaly: beta_t times the anomaly appearance, ``(B, 3, H, W)``.
        normal: Normal appearance, ``(B, 3, H, W)``, in about [-1, 1].
        mask_logits: Logits of the anomaly mask, ``(B, 1, H, W)``.
    """

    anomaly: torch.Tensor
    normal: torch.Tensor
    mask_logits: torch.Tensor


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of the timestep, followed by two linear layers (as in DDPM).

    Args:
        channels: Width of the embedding; the sinusoids take a quarter of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels // 4, channels)
        self.linear_2 = nn.Linear(channels, channels)
        self.frequencies = channels // 8

    def forward(self, timestep: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Embed timesteps ``(B,)`` as ``(B, channels)``, of this type."""
        rate = math.log(10_000) / (self.frequencies - 1)
        frequencies = torch.exp(-rate * torch.arange(self.frequencies, device=timestep.device, dtype=torch.float32))
        angles = timestep[:, None] * frequencies[None, :]
        sinusoids = torch.cat((angles.sin(), angles.cos()), dim=1)
        return self.linear_2(F.silu(self.linear_1(sinusoids.to(dtype))))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation and SiLU; the time embedding is added in between.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        time_channels: Width of the time embedding.
        groups: Largest number of groups of the group normalisation.
    """

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, groups: int) -> None:
        super().__init__()
        self.norm_1 = group_norm(in_channels, groups)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.time_projection = nn.Linear(time_channels, out_channels)
        self.norm_2 = group_norm(out_channels, groups)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )

    def forward(self, x: torch.Tensor, time: torch.Tensor, overwrite: bool = False) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` and the embedding ``(B, time_channels)`` to ``(B, out_channels, H, W)``.

        Args:
            x: The input.
            time: The embedding of the timestep.
            overwrite: Whether nobody needs the input afterwards, so that its memory may be used.

        Returns:
            The output.
        """
        overwrite = overwrite and normalized_in_strips(x) and not isinstance(self.shortcut, nn.Identity)
        # Early only where the input is lost afterwards: until it is added it takes memory.
        shortcut = self.shortcut(x) if overwrite else None
        h = self.conv_1(self.norm_1(x, overwrite))
        h += self.time_projection(time)[:, :, None, None]
        h = self.conv_2(self.norm_2(h, overwrite=True))
        h += self.shortcut(x) if shortcut is None else shortcut
        return h


class AttentionBlock(nn.Module):
    """Self-attention with a single head over all positions, and a residual connection.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over the positions of ``(B, C, H, W)``; the shape stays."""
        # In channels-last memory both reshapes are views, so the block moves no data of its own.
        tokens = x.flatten(2).transpose(1, 2)
        query, key, value = (part.unsqueeze(1) for part in self._project(tokens))
        attended = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        tokens = self.output(attended) + tokens
        # Explicitly in the format of the input: convolutions take a view of the tokens of a single image for contiguous
        # memory, and of several images for channels last.
        attended = tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return attended.contiguous(memory_format=memory_format(x))

    def _project(self, tokens: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return queries, keys and values ``(B, N, C)`` of tokens ``(B, N, C)``."""
        layer = self.projection
        # Pruning, parametrisation and quantisation hook the layer or take its place, and have to be asked.
        if type(layer) is not nn.Linear or layer._forward_pre_hooks or layer._forward_hooks:  # noqa: SLF001
            return layer(tokens).chunk(3, dim=-1)
        # Three products in place of one whose parts lie between each other, over which attention is slower on a CPU.
        parts = zip(layer.weight.chunk(3), layer.bias.chunk(3), strict=True)
        return [F.linear(tokens, weight, bias) for weight, bias in parts]


class UNetBlock(nn.Module):
    """A residual block, at the lowest resolutions followed by attention.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        time_channels: Width of the time embedding.
        groups: Largest number of groups of the group normalisation.
        attention: Whether attention follows.
    """

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_channels, out_channels, time_channels, groups)
        self.attention = AttentionBlock(out_channels) if attention else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor, overwrite: bool = False) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``; ``overwrite`` as for a residual block."""
        return self.attention(self.residual(x, time, overwrite))


class EncoderLevel(nn.Module):
    """The blocks of one resolution on the way down, and the convolution that halves it.

    Args:
        channels: Channels before, between and after the blocks.
        time_channels: Width of the time embedding.
        groups: Largest number of groups of the group normalisation.
        attention: Whether the blocks have attention.
        downsample: Whether the resolution is halved afterwards.
    """

    def __init__(
        self,
        channels: Sequence[int],
        time_channels: int,
        groups: int,
        attention: bool,
        downsample: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            UNetBlock(before, after, time_channels, groups, attention) for before, after in pairwise(channels)
        )
        width = channels[-1]
        self.downsample = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1) if downsample else None

    def forward(self, x: torch.Tensor, time: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """Run the level on ``(B, C, H, W)`` and append what the decoder will need to ``skips``."""
        for block in self.blocks:
            x = block(x, time)
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
        groups: Largest number of groups of the group normalisation.
        attention: Whether the blocks have attention.
        upsample: Whether the resolution is doubled afterwards.
    """

    def __init__(
        self,
        channels: Sequence[int],
        skip_channels: Sequence[int],
        time_channels: int,
        groups: int,
        attention: bool,
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


class MaskHead(nn.Module):
    """Batch normalisation, SiLU and a convolution to one channel of logits.

    Args:
        channels: Channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, 1, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, H, W)`` to logits ``(B, 1, H, W)``."""
        return self.conv(activate(self.norm(x)))


class ResUNet(nn.Module):
    """ResUNet with three heads: anomaly appearance, normal appearance and anomaly mask (paper Section 3.2).

    Args:
        base_channels: Channels at the highest resolution, a multiple of 8.
        channel_multipliers: Channels of each level as multiples of ``base_channels``, highest resolution first.
        num_blocks: Residual blocks a level (the decoder has one more).
        attention_levels: Indices of the levels with attention; negative ones count from the lowest resolution.
        positional_encoding: Whether the sine of the row index is an input.
        previous_mask: Whether the previous mask estimate is an input.

    Raises:
        ValueError: If a width, a number or a level is impossible.
    """

    def __init__(
        self,
        *,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_blocks: int,
        attention_levels: Sequence[int],
        positional_encoding: bool,
        previous_mask: bool,
    ) -> None:
        super().__init__()
        check_architecture(base_channels, channel_multipliers, num_blocks, attention_levels)
        num_levels = len(channel_multipliers)
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        with_attention = {level % num_levels for level in attention_levels}
        time_channels = 4 * base_channels
        groups = groups_of(base_channels)

        self.positional_encoding = positional_encoding
        self.previous_mask = previous_mask
        self.stride = 2 ** (num_levels - 1)

        in_channels = IMAGE_CHANNELS + int(previous_mask) + int(positional_encoding)
        self.input_projection = nn.Conv2d(in_channels, base_channels, kernel_size=3, padding=1)
        self.time_embedding = TimeEmbedding(time_channels)

        encoder = []
        for level, width in enumerate(widths):
            before = base_channels if level == 0 else widths[level - 1]
            channels = [before, *([width] * num_blocks)]
            downsample = level < num_levels - 1
            encoder.append(EncoderLevel(channels, time_channels, groups, level in with_attention, downsample))
        self.encoder = nn.ModuleList(encoder)

        self.middle = nn.ModuleList([
            UNetBlock(widths[-1], widths[-1], time_channels, groups, attention=True),
            UNetBlock(widths[-1], widths[-1], time_channels, groups, attention=False),
        ])

        decoder = []
        for level, width in reversed(list(enumerate(widths))):
            after = base_channels if level == 0 else widths[level - 1]
            channels = [*([width] * (num_blocks + 1)), after]
            skips = [*([width] * num_blocks), after]
            attention = level in with_attention
            decoder.append(DecoderLevel(channels, skips, time_channels, groups, attention, upsample=level > 0))
        self.decoder = nn.ModuleList(decoder)

        self.output_norm = GroupNormSiLU(8, base_channels)
        self.anomaly_head = nn.Conv2d(base_channels, IMAGE_CHANNELS, kernel_size=3, padding=1)
        self.normal_head = nn.Conv2d(base_channels, IMAGE_CHANNELS, kernel_size=3, padding=1)
        self.mask_head = MaskHead(base_channels)

    def forward(
        self,
        x_t: torch.Tensor,
        previous_mask: torch.Tensor,
        timestep: torch.Tensor,
        channels_last: bool = False,
    ) -> Prediction:
        """Predict anomaly appearance, normal appearance and mask of an image at a timestep.

        Args:
            x_t: Image in [-1, 1], ``(B, 3, H, W)``; H and W multiples of ``stride``.
            previous_mask: Mask of the step before in {0, 1}, ``(B, 1, H, W)``; unused without ``previous_mask``.
            timestep: Timestep of each sample, ``(B,)``.
            channels_last: Whether to compute in channels-last memory.

        Returns:
            The predictions, ``(B, 3, H, W)``, ``(B, 3, H, W)`` and ``(B, 1, H, W)``.
        """
        inputs = [x_t]
        if self.previous_mask:
            inputs.append(previous_mask)
        if self.positional_encoding:
            rows = torch.arange(x_t.shape[2], device=x_t.device, dtype=torch.float32).sin().to(x_t.dtype)
            inputs.append(rows[None, None, :, None].expand(x_t.shape[0], 1, -1, x_t.shape[3]))
        time = self.time_embedding(timestep, x_t.dtype)

        x = torch.cat(inputs, dim=1)
        if channels_last:
            # Convolutions follow the format of their input, whatever that of their weights.
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.input_projection(x)
        skips = [x]
        for level in self.encoder:
            x = level(x, time, skips)
        for block in self.middle:
            x = block(x, time)
        for level in self.decoder:
            # Handed over, so that it is free as soon as the level has used it.
            skips.append(x)
            del x
            x = level(skips, time)

        return Prediction(
            anomaly=self.anomaly_head(self.output_norm(x)),
            normal=self.normal_head(x),
            mask_logits=self.mask_head(x),
        )
