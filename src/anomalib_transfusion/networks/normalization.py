# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Group normalization followed by SiLU, in the memory format of its input."""

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["GroupNormSiLU", "activate", "group_norm", "groups_of", "memory_format", "normalized_in_strips"]

# Number of groups in the published network, whose narrowest layers have 64 channels.
PUBLISHED_GROUPS = 32
# Four megabytes in single precision: small enough for a cache, large enough that threads seldom wait for each other.
STRIP_VALUES = 2**20


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """Return the memory format of a tensor ``(B, C, H, W)``; contiguous if it is both contiguous and channels last."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


class GroupNormSiLU(nn.GroupNorm):
    """Group normalization followed by SiLU, in the precision of its input."""

    def forward(self, x: torch.Tensor, overwrite: bool = False) -> torch.Tensor:  # type: ignore[override]
        """Normalize a tensor ``(B, C, H, W)`` and apply SiLU.

        Args:
            x: The input, ``(B, C, H, W)``.
            overwrite: Whether the output may be written into the memory of the input.

        Returns:
            The output, ``(B, C, H, W)``, in the memory format of the input.
        """
        if x.dtype != torch.float32:
            # Autocast would convert to 32 bits and back.
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
                return activate(F.group_norm(x, self.num_groups, weight, bias, self.eps))
        if normalized_in_strips(x):
            return _normalize_strips(x, self, overwrite)
        return activate(super().forward(x))


def normalized_in_strips(x: torch.Tensor) -> bool:
    """Tell whether PyTorch's group normalization of a tensor would be inexact, and no gradient is needed.

    It is inexact in single precision in channels-last memory on a CPU.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and memory_format(x) == torch.channels_last
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def _normalize_strips(x: torch.Tensor, norm: nn.GroupNorm, overwrite: bool) -> torch.Tensor:
    """Normalize and activate channels-last ``(B, C, H, W)`` in single precision on a CPU, strip by strip.

    PyTorch's own implementation sums the squares of a whole group sequentially here, which is hundreds of times less
    exact than in contiguous memory (error 4e-4 at 64 channels and 256 pixels). Strips also save a pass over the memory.
    """
    out = x if overwrite else torch.empty_like(x)
    channels, height, width = x.shape[1:]
    in_group = channels // norm.num_groups
    # Several small images make up one strip; a large image is split into several strips.
    together = max(1, STRIP_VALUES // (channels * height * width))
    size = max(1, STRIP_VALUES // channels)

    def of_groups(sums: torch.Tensor) -> torch.Tensor:
        """Turn sums over pixels, ``(B, C)``, into means over the pixels of a group, repeated for its channels."""
        sums_of_groups = sums.unflatten(1, (-1, in_group)).sum(dim=2)
        return (sums_of_groups / (in_group * height * width)).repeat_interleave(in_group, dim=1)

    pixels, results = (tensor.permute(0, 2, 3, 1).flatten(1, 2).split(together) for tensor in (x, out))
    for images, places in zip(pixels, results, strict=True):
        mean = of_groups(images.sum(dim=1)).unsqueeze(1)
        strips = images.split(size, dim=1)
        squares = torch.stack([(strip - mean).square_().sum(dim=1) for strip in strips]).sum(dim=0)
        scale = (norm.weight * (of_groups(squares) + norm.eps).rsqrt()).unsqueeze(1)
        shift = norm.bias - mean * scale
        for strip, place in zip(strips, places.split(size, dim=1), strict=True):
            F.silu(torch.addcmul(shift, strip, scale, out=place), inplace=True)
    return out


def groups_of(base_channels: int) -> int:
    """Return the number of groups for group normalization in a network with this many channels.

    It is the published 32. Narrower networks have half as many groups as channels, so that a group has two channels at
    the highest resolution, as in the published network: normalizing a single channel would cancel any constant that
    was added to it, such as a bias or the embedding of the timestep.
    """
    return PUBLISHED_GROUPS if base_channels >= PUBLISHED_GROUPS else base_channels // 2


def group_norm(channels: int, groups: int) -> GroupNormSiLU:
    """Return a group normalization with the greatest common divisor of ``groups`` and ``channels`` as its groups."""
    return GroupNormSiLU(math.gcd(groups, channels), channels)


def activate(x: torch.Tensor) -> torch.Tensor:
    """Apply SiLU, in place if gradients are disabled; the input must not be used afterwards."""
    return F.silu(x, inplace=not torch.is_grad_enabled())
