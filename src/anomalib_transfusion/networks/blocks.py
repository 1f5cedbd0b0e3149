# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Blocks of a U-Net with attention: time embedding, residual block, attention, and both together."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from .normalization import group_norm, memory_format, normalized_in_strips

__all__ = ["AttentionBlock", "ResidualBlock", "TimeEmbedding", "UNetBlock"]


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of the timestep, followed by two linear layers, as in DDPM (Ho et al. 2020).

    Args:
        channels: Width of the embedding; the sinusoids take a quarter of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels // 4, channels)
        self.linear_2 = nn.Linear(channels, channels)
        self.frequencies = channels // 8

    def forward(self, timestep: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Embed timesteps ``(B,)`` as ``(B, channels)`` of type ``dtype``."""
        rate = math.log(10_000) / (self.frequencies - 1)
        frequencies = torch.exp(-rate * torch.arange(self.frequencies, device=timestep.device, dtype=torch.float32))
        angles = timestep[:, None] * frequencies[None, :]
        sinusoids = torch.cat((angles.sin(), angles.cos()), dim=1)
        return self.linear_2(F.silu(self.linear_1(sinusoids.to(dtype))))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group normalization and SiLU; the time embedding is added in between.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        time_channels: Width of the time embedding.
        groups: Largest number of groups of the group normalization.
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
            overwrite: Whether the memory of the input may be overwritten.

        Returns:
            The output, ``(B, out_channels, H, W)``.
        """
        overwrite = overwrite and normalized_in_strips(x) and not isinstance(self.shortcut, nn.Identity)
        # Computed early only if the input will be overwritten, because it takes memory until it is added.
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
        qk_norm: Whether queries and keys are normalized (layer normalization; Dehghani et al. 2023), so that their
            products cannot grow without bound.
    """

    # Also a class attribute, for modules that were pickled before this parameter existed.
    qk_norm = False

    def __init__(self, channels: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.qk_norm = qk_norm
        if qk_norm:
            self.query_norm = nn.LayerNorm(channels)
            self.key_norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over the positions of ``(B, C, H, W)``; the shape stays."""
        # In channels-last memory both reshapes are views, so the block moves no data of its own.
        tokens = x.flatten(2).transpose(1, 2)
        query, key, value = (part.unsqueeze(1) for part in self._project(tokens))
        if self.qk_norm:
            # Autocast normalizes in single precision.
            query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        attended = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        tokens = self.output(attended) + tokens
        # Explicitly in the memory format of the input: without it, convolutions treat this view as contiguous for a
        # single image, but as channels last for several.
        attended = tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return attended.contiguous(memory_format=memory_format(x))

    def _project(self, tokens: torch.Tensor) -> Sequence[torch.Tensor]:
        """Project tokens ``(B, N, C)`` to queries, keys and values, ``(B, N, C)`` each."""
        layer = self.projection
        # Pruning, parametrization and quantization hook or replace the layer, which must then be called itself.
        if type(layer) is not nn.Linear or layer._forward_pre_hooks or layer._forward_hooks:  # noqa: SLF001
            return layer(tokens).chunk(3, dim=-1)
        # Three products instead of one, whose interleaved parts would make attention slower on a CPU.
        parts = zip(layer.weight.chunk(3), layer.bias.chunk(3), strict=True)
        return [F.linear(tokens, weight, bias) for weight, bias in parts]


class UNetBlock(nn.Module):
    """A residual block, followed by attention at low resolutions.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        time_channels: Width of the time embedding.
        groups: Largest number of groups of the group normalization.
        attention: Builds the attention block for a number of channels; ``nn.Identity`` for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_channels: int,
        groups: int,
        attention: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_channels, out_channels, time_channels, groups)
        self.attention = attention(out_channels)

    def forward(self, x: torch.Tensor, time: torch.Tensor, overwrite: bool = False) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``; ``overwrite`` as for a residual block."""
        return self.attention(self.residual(x, time, overwrite))
