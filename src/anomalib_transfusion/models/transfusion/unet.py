# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The network of TransFusion: a ResUNet with time embedding, attention at low resolutions and three heads.

Paper Section 3.2. Three facts are from the published code, because the paper leaves them open: the positional
encoding is a single channel, the sine of the row index; attention blocks have no normalization; and the group
normalization of residual blocks has 32 groups (fewer in networks narrower than 32 channels). Patches, a
pretrained backbone and the normalization of queries and keys are not in the paper, and off by default.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.networks.blocks import AttentionBlock, ResidualBlock, TimeEmbedding, UNetBlock
from anomalib_transfusion.networks.normalization import GroupNormSiLU, activate
from anomalib_transfusion.networks.unet import (
    DecoderLevel,
    EncoderLevel,
    Levels,
    build_levels,
    check_architecture,
    run_levels,
)

from .architecture import check_patches
from .features import BackboneFeatures, Features

# Models that were exported before blocks and levels had files of their own look for them here.
__all__ = [
    "AttentionBlock",
    "DecoderLevel",
    "EncoderLevel",
    "Prediction",
    "RememberingPrediction",
    "ResUNet",
    "ResidualBlock",
    "TimeEmbedding",
    "UNetBlock",
]

IMAGE_CHANNELS = 3


class Prediction(NamedTuple):
    """Predictions of the three heads for an image x_t.

    Attributes:
        anomaly: beta_t times the anomaly appearance, ``(B, 3, H, W)``.
        normal: Normal appearance, ``(B, 3, H, W)``, in about [-1, 1].
        mask_logits: Logits of the anomaly mask, ``(B, 1, H, W)``.
    """

    anomaly: torch.Tensor
    normal: torch.Tensor
    mask_logits: torch.Tensor


class RememberingPrediction(NamedTuple):
    """Predictions of a network with a memory of normal features.

    Attributes:
        anomaly: As of :class:`Prediction`.
        normal: As of :class:`Prediction`.
        mask_logits: As of :class:`Prediction`.
        memory: What the distance to normal features alone says of the mask, in [0, 1], ``(B, 1, H, W)``. No head:
            nothing is trained by it.
    """

    anomaly: torch.Tensor
    normal: torch.Tensor
    mask_logits: torch.Tensor
    memory: torch.Tensor


class MaskHead(nn.Module):
    """Batch normalization, SiLU and a convolution to the logits of the anomaly mask.

    Args:
        channels: Channels of the input.
        logits: Channels of the output: one for each pixel of a patch.
    """

    def __init__(self, channels: int, logits: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, logits, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, H, W)`` to logits ``(B, logits, H, W)``."""
        return self.conv(activate(self.norm(x)))


class ResUNet(nn.Module):
    """ResUNet with three heads: anomaly appearance, normal appearance and anomaly mask (paper Section 3.2).

    Args:
        base_channels: Channels at the highest resolution, a multiple of 8.
        channel_multipliers: Channels of each level as multiples of ``base_channels``, highest resolution first.
        num_blocks: Number of residual blocks in each level (the decoder has one more).
        attention_levels: Indices of the levels with attention; negative ones count from the lowest resolution.
        positional_encoding: Whether the sine of the row index is an input.
        previous_mask: Whether the previous mask estimate is an input.
        patch_size: Side in pixels of the patches that become channels before the network, and pixels again after it.
        qk_norm: Whether queries and keys of the attention are normalized.
        backbone: timm's name of a pretrained network whose features of x_t are added in the encoder.
        backbone_layers: Names of its layers; ``None`` for those of stride 4, 8 and 16.
        memory_size: Number of feature vectors of normal images that features are compared with; 0 for none.

    Raises:
        ValueError: If a width, a number, a level or the backbone is impossible.
    """

    # Also class attributes, for networks that were pickled before these parameters existed.
    patch_size = 1
    qk_norm = False
    has_backbone = False

    def __init__(
        self,
        *,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_blocks: int,
        attention_levels: Sequence[int],
        positional_encoding: bool,
        previous_mask: bool,
        patch_size: int,
        qk_norm: bool,
        backbone: str | None,
        backbone_layers: Sequence[str] | None,
        memory_size: int,
    ) -> None:
        super().__init__()
        check_architecture(base_channels, channel_multipliers, num_blocks, attention_levels)
        check_patches(patch_size, backbone, backbone_layers, memory_size)
        num_levels = len(channel_multipliers)

        self.positional_encoding = positional_encoding
        self.previous_mask = previous_mask
        self.patch_size = patch_size
        self.qk_norm = qk_norm
        self.stride = patch_size * 2 ** (num_levels - 1)

        pixels = patch_size**2
        in_channels = IMAGE_CHANNELS + int(previous_mask) + int(positional_encoding)
        self.input_projection = nn.Conv2d(in_channels * pixels, base_channels, kernel_size=3, padding=1)
        self.time_embedding = TimeEmbedding(4 * base_channels)

        attend = partial(AttentionBlock, qk_norm=qk_norm)
        levels = build_levels(base_channels, channel_multipliers, num_blocks, attention_levels, attend)
        self.encoder, self.middle, self.decoder = levels

        self.output_norm = GroupNormSiLU(8, base_channels)
        self.anomaly_head = nn.Conv2d(base_channels, IMAGE_CHANNELS * pixels, kernel_size=3, padding=1)
        self.normal_head = nn.Conv2d(base_channels, IMAGE_CHANNELS * pixels, kernel_size=3, padding=1)
        self.mask_head = MaskHead(base_channels, pixels)

        if backbone is not None:
            # Last, so that the random weights above are the same with and without a backbone.
            strides = [patch_size * 2**level for level in range(num_levels)]
            widths = [base_channels * multiplier for multiplier in channel_multipliers]
            self.features = BackboneFeatures(backbone, backbone_layers, widths, strides, memory_size)
            self.stride = math.lcm(self.stride, *self.features.backbone.strides)
            self.has_backbone = True
            if memory_size:
                # How far the logits of the mask follow the evidence: at first as they are.
                self.evidence = nn.Conv2d(1, 1, kernel_size=1)
                nn.init.dirac_(self.evidence.weight)
                nn.init.constant_(self.evidence.get_parameter("bias"), 0)

    def forward(
        self,
        x_t: torch.Tensor,
        previous_mask: torch.Tensor,
        timestep: torch.Tensor,
        channels_last: bool = False,
    ) -> Prediction | RememberingPrediction:
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
        if self.patch_size > 1:
            x = F.pixel_unshuffle(x, self.patch_size)
        if channels_last:
            # Convolutions compute in the memory format of their input, whatever that of their weights.
            x = x.contiguous(memory_format=torch.channels_last)
        features = Features({}, None)
        if self.has_backbone:
            features = self.features(x_t.contiguous(memory_format=torch.channels_last) if channels_last else x_t)
        levels = Levels(self.encoder, self.middle, self.decoder)
        x = run_levels(levels, self.input_projection(x), time, features.added)

        heads = [self.anomaly_head(self.output_norm(x)), self.normal_head(x), self.mask_head(x)]
        if self.patch_size > 1:
            heads = [F.pixel_shuffle(head, self.patch_size) for head in heads]
        anomaly, normal, mask_logits = heads
        if features.evidence is None:
            return Prediction(anomaly, normal, mask_logits)
        size = x_t.shape[-2:]
        added, evidence = (
            F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            for logits in (self.evidence(features.evidence), features.evidence)
        )
        return RememberingPrediction(anomaly, normal, mask_logits + added, evidence.sigmoid())
