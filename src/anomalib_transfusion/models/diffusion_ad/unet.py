# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The reconstruction sub-network of DiffusionAD: a U-Net that predicts the noise of an image.

It is the U-Net of guided diffusion (Dhariwal and Nichol 2021) as simplified by AnoDDPM: resolution changes in residual
blocks, multi-head attention at low resolutions, and a timestep embedding that is added without a scale.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from anomalib_transfusion.checks import Range, check_arguments
from anomalib_transfusion.networks.normalization import GroupNormSiLU, memory_format, normalized_in_strips
from anomalib_transfusion.networks.unet import MAX_LEVELS, MAX_WIDTH, check_attention_levels

__all__ = ["NoiseUNet", "check_unet"]

IMAGE_CHANNELS = 3
MAX_PERIOD = 10_000


class TimeEmbedding(nn.Module):
    """Sinusoids of the timestep, sines first, followed by two linear layers.

    Args:
        base_channels: Number of sinusoids, even; the embedding has four times as many channels.
    """

    def __init__(self, base_channels: int) -> None:
        super().__init__()
        self.frequencies = base_channels // 2
        self.linear_1 = nn.Linear(base_channels, 4 * base_channels)
        self.linear_2 = nn.Linear(4 * base_channels, 4 * base_channels)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed timesteps ``(B,)`` as ``(B, 4 * base_channels)`` of type ``dtype``."""
        sinusoids = self.sinusoids(timestep).to(dtype)
        return self.linear_2(F.silu(self.linear_1(sinusoids)))

    def sinusoids(self, timestep: Tensor) -> Tensor:
        """Return sines, then cosines of timesteps ``(B,)``: ``(B, base_channels)``."""
        index = torch.arange(self.frequencies, device=timestep.device, dtype=torch.float32)
        # The divisor is the number of frequencies, not one less as in DDPM.
        angles = timestep[:, None] * torch.exp(-math.log(MAX_PERIOD) / self.frequencies * index)
        return torch.cat((angles.sin(), angles.cos()), dim=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group normalization and SiLU, with the timestep's embedding added in between.

    The second convolution starts at zero, so that the block starts as its shortcut.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        time_channels: Channels of the timestep's embedding.
        groups: Groups of the group normalization.
        resample: Layer that halves or doubles the resolution of branch and shortcut; ``None`` keeps the resolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_channels: int,
        groups: int,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm_1 = GroupNormSiLU(groups, in_channels)
        self.resample = nn.Identity() if resample is None else resample
        self.conv_1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.time_projection = nn.Linear(time_channels, out_channels)
        self.norm_2 = GroupNormSiLU(groups, out_channels)
        self.conv_2 = zero_initialized(nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1))
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )
        self.shortcut_is_input = resample is None and in_channels == out_channels

    def forward(self, x: Tensor, time: Tensor, overwrite: bool = False) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``, with H' and W' after resampling.

        Args:
            x: The input, ``(B, in_channels, H, W)``.
            time: SiLU of the timestep's embedding, ``(B, time_channels)``.
            overwrite: Whether the memory of the input may be overwritten.

        Returns:
            The output, ``(B, out_channels, H', W')``.
        """
        overwrite = overwrite and normalized_in_strips(x) and not self.shortcut_is_input
        # Computed early only if the input will be overwritten, because it takes memory until it is added.
        shortcut = self.shortcut(self.resample(x)) if overwrite else None
        h = self.conv_1(self.resample(self.norm_1(x, overwrite)))
        h += self.time_projection(time)[:, :, None, None]
        h = self.conv_2(self.norm_2(h, overwrite=True))
        h += self.shortcut(self.resample(x)) if shortcut is None else shortcut
        return h


class AttentionBlock(nn.Module):
    """Group normalization, self-attention over all positions and a zero-initialized projection, added to the input.

    The first projection's output channels are grouped by head: query, key and value of the first head, and so on.

    Args:
        channels: Channels of input and output.
        heads: Number of heads; they divide the channels.
        groups: Groups of the group normalization.
    """

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.projection = nn.Linear(channels, 3 * channels)
        self.output = zero_initialized(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the positions of ``(B, C, H, W)``; the shape stays."""
        # Contiguous, because PyTorch's group normalization is inexact in channels-last memory on a CPU.
        flat = x.flatten(2).contiguous()
        parts = self.projection(self.norm(flat).to(x.dtype).transpose(1, 2)).unflatten(2, (self.heads, 3, -1))
        # Query, key and value, each (B, heads, H W, channels of a head), contiguous to make attention faster.
        query, key, value = parts.permute(3, 0, 2, 1, 4).contiguous().unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = self.output(attended) + flat.transpose(1, 2)
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:]).contiguous(memory_format=memory_format(x))


class Stage(nn.Module):
    """A residual block, followed by attention at low resolutions, and by upsampling at the end of a decoder level.

    Args:
        residual: The residual block.
        attention: The attention block, if there is one.
        upsample: The residual block that doubles the resolution, if there is one.
    """

    def __init__(
        self,
        residual: ResidualBlock,
        attention: AttentionBlock | None = None,
        upsample: ResidualBlock | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention
        self.upsample = upsample

    def forward(self, x: Tensor, time: Tensor, overwrite: bool = False) -> Tensor:
        """Run the stage on ``(B, C, H, W)``; ``time`` and ``overwrite`` as in :class:`ResidualBlock`."""
        x = self.residual(x, time, overwrite)
        if self.attention is not None:
            x = self.attention(x)
        if self.upsample is not None:
            x = self.upsample(x, time, overwrite=True)
        return x


class NoiseUNet(nn.Module):
    """U-Net that predicts the noise in a noised image (paper Section III-B).

    Args:
        base_channels: Channels at the highest resolution, a multiple of ``num_groups``.
        channel_multipliers: Channels of each level as multiples of ``base_channels``, highest resolution first; the
            first is 1.
        num_blocks: Number of residual blocks in each level (the decoder has one more).
        attention_levels: Indices of the levels with attention; negative ones count from the lowest resolution.
        num_heads: Number of attention heads at all resolutions.
        num_groups: Number of groups of the group normalization.
        checkpointing: Whether training keeps only the inputs and outputs of each stage, and recomputes the rest in the
            backward pass, which saves memory and costs one more forward pass.

    Raises:
        ValueError: If such a network cannot be built; names the value.
    """

    def __init__(
        self,
        *,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_blocks: int,
        attention_levels: Sequence[int],
        num_heads: int,
        num_groups: int,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        check_unet(base_channels, channel_multipliers, num_blocks, attention_levels, num_heads, num_groups)
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        with_attention = {level % len(widths) for level in attention_levels}
        self.checkpointing = checkpointing
        self.stride = 2 ** (len(widths) - 1)

        def residual(before: int, after: int, resample: nn.Module | None = None) -> ResidualBlock:
            return ResidualBlock(before, after, 4 * base_channels, num_groups, resample)

        def attention(level: int) -> AttentionBlock | None:
            return AttentionBlock(widths[level], num_heads, num_groups) if level in with_attention else None

        self.time_embedding = TimeEmbedding(base_channels)
        self.input_projection = nn.Conv2d(IMAGE_CHANNELS, base_channels, kernel_size=3, padding=1)
        encoder, skips, width = [], [base_channels], base_channels
        for level, after in enumerate(widths):
            for _ in range(num_blocks):
                encoder.append(Stage(residual(width, after), attention(level)))
                skips.append(after)
                width = after
            if level < len(widths) - 1:
                encoder.append(Stage(residual(width, width, nn.AvgPool2d(2))))
                skips.append(width)
        self.encoder = nn.ModuleList(encoder)

        self.middle = nn.ModuleList([
            Stage(residual(width, width), AttentionBlock(width, num_heads, num_groups)),
            Stage(residual(width, width)),
        ])

        decoder = []
        for level, after in reversed(list(enumerate(widths))):
            for block in range(num_blocks + 1):
                last = block == num_blocks and level > 0
                upsample = residual(after, after, nn.UpsamplingNearest2d(scale_factor=2)) if last else None
                decoder.append(Stage(residual(width + skips.pop(), after), attention(level), upsample))
                width = after
        self.decoder = nn.ModuleList(decoder)

        self.output_norm = GroupNormSiLU(num_groups, base_channels)
        self.output = zero_initialized(nn.Conv2d(base_channels, IMAGE_CHANNELS, kernel_size=3, padding=1))

    def forward(self, x_t: Tensor, timestep: Tensor, channels_last: bool = False) -> Tensor:
        """Predict the noise in images.

        Args:
            x_t: Noised images, ``(B, 3, H, W)``; H and W multiples of ``stride``.
            timestep: Timestep of each image, ``(B,)``.
            channels_last: Whether to compute in channels-last memory.

        Returns:
            The noise, ``(B, 3, H, W)``.
        """
        # SiLU is applied once here, since every block projects SiLU of the embedding.
        time = F.silu(self.time_embedding(timestep, x_t.dtype))
        if channels_last:
            # Convolutions compute in the memory format of their input, whatever that of their weights.
            x_t = x_t.contiguous(memory_format=torch.channels_last)
        x = self.input_projection(x_t)
        skips = [x]
        for stage in self.encoder:
            x = self._run(stage, x, time)
            skips.append(x)
        for stage in self.middle:
            x = self._run(stage, x, time)
        for stage in self.decoder:
            # A statement of its own, so that the concatenated tensors are freed before the stage, where memory peaks.
            x = torch.cat((x, skips.pop()), dim=1)
            x = self._run(stage, x, time, overwrite=True)
        return self.output(self.output_norm(x, overwrite=True))

    def _run(self, stage: nn.Module, x: Tensor, time: Tensor, overwrite: bool = False) -> Tensor:
        """Run a stage; with checkpointing, its intermediate results are recomputed in the backward pass."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, x, time, overwrite, use_reentrant=False)
        return stage(x, time, overwrite)


def zero_initialized(layer: nn.Module) -> nn.Module:
    """Set weight and bias of a layer to zero, and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def check_unet(
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_blocks: Annotated[int, Range(1, 64, "Use 2, the published number.")],
    attention_levels: Sequence[int],
    num_heads: int,
    num_groups: Annotated[int, Range(1, MAX_WIDTH, "Use 32, the published number, or fewer.")],
) -> None:
    """Raise ValueError, naming the value, if a network of these sizes cannot be built."""
    check_arguments(check_unet, locals())
    multipliers = tuple(channel_multipliers)
    if base_channels < 2 or base_channels % 2 or base_channels % num_groups:
        step = math.lcm(2, num_groups)
        nearest = max(step, round(base_channels / step) * step)
        msg = (
            f"base_channels={base_channels} does not fit num_groups={num_groups}; expected a multiple of {step}, which "
            f"the groups of the normalization divide. Use {nearest}, or fewer groups (the published network has 128 "
            "channels and 32 groups)."
        )
        raise ValueError(msg)
    if not 1 <= len(multipliers) <= MAX_LEVELS or min(multipliers) < 1 or multipliers[0] != 1:
        msg = (
            f"channel_multipliers={multipliers} must name one whole number >= 1 for each level, the first 1, and at "
            f"most {MAX_LEVELS} levels. A wider network has more base_channels (published: 1, 1, 2, 2, 4, 4)."
        )
        raise ValueError(msg)
    if (widest := base_channels * max(multipliers)) > MAX_WIDTH:
        msg = (
            f"base_channels={base_channels} with channel_multipliers={multipliers} gives {widest} channels; expected "
            f"at most {MAX_WIDTH}. Lower one of them (the published network has 512)."
        )
        raise ValueError(msg)
    check_attention_levels(attention_levels, len(multipliers))
    # The middle of the network, at the lowest resolution, always has attention.
    attending = {base_channels * multipliers[level] for level in (*attention_levels, -1)}
    if num_heads < 1 or any(width % num_heads for width in attending):
        msg = (
            f"num_heads={num_heads} does not divide the {' and '.join(map(str, sorted(attending)))} channels with "
            "attention; expected a divisor of each. Use 4, the published number, or another divisor."
        )
        raise ValueError(msg)
