# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The denoiser: a U-Net that paints the hidden pixels of an image of a given category.

Its conditioning on the category is the first of the paper's two (Zhan et al. 2024); that the embedding of the category
is added to the timestep's is how guided diffusion has it (Dhariwal and Nichol 2021).
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from anomalib_transfusion.checks import Range, check_arguments
from anomalib_transfusion.networks.blocks import AttentionBlock, TimeEmbedding
from anomalib_transfusion.networks.normalization import GroupNormSiLU, groups_of
from anomalib_transfusion.networks.unet import Levels, build_levels, check_architecture, run_levels

__all__ = ["Denoiser"]

IMAGE_CHANNELS = 3
EMBEDDING_DEVIATION = 0.02


class Denoiser(nn.Module):
    """Category-conditional U-Net that predicts the clean image (R3).

    Args:
        base_channels: Channels at the highest resolution, a multiple of 8.
        channel_multipliers: Channels of each level as multiples of ``base_channels``, highest resolution first.
        num_blocks: Residual blocks a level (the decoder has one more).
        attention_levels: Indices of the levels with attention; negative ones count from the lowest resolution.
        num_categories: Number C of categories. Number C itself is the null category, an image's whose category is not
            known.

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
        num_categories: Annotated[int, Range(1, 100_000, "Name at least one category.")],
    ) -> None:
        check_arguments(Denoiser.__init__, locals())
        check_architecture(base_channels, channel_multipliers, num_blocks, attention_levels)
        super().__init__()
        self.stride = 2 ** (len(channel_multipliers) - 1)
        self.null_category = num_categories
        # The mask is the fourth channel.
        self.input_projection = nn.Conv2d(IMAGE_CHANNELS + 1, base_channels, kernel_size=3, padding=1)
        self.time_embedding = TimeEmbedding(4 * base_channels)
        self.category_embedding = nn.Embedding(num_categories + 1, 4 * base_channels)
        nn.init.normal_(self.category_embedding.weight, std=EMBEDDING_DEVIATION)
        levels = build_levels(base_channels, channel_multipliers, num_blocks, attention_levels, AttentionBlock)
        self.encoder, self.middle, self.decoder = levels
        self.output_norm = GroupNormSiLU(groups_of(base_channels), base_channels)
        self.output = nn.Conv2d(base_channels, IMAGE_CHANNELS, kernel_size=3, padding=1)

    def forward(
        self,
        corrupted: Tensor,
        mask: Tensor,
        timestep: Tensor,
        category: Tensor,
        channels_last: bool = False,
    ) -> Tensor:
        """Predict the clean image.

        Args:
            corrupted: Image with corrupted hidden pixels, ``(B, 3, H, W)``; H and W multiples of ``stride``.
            mask: 1 where a pixel is hidden, ``(B, 1, H, W)``.
            timestep: Timestep of each sample, ``(B,)``.
            category: Category of each sample in [0, C], ``(B,)``.
            channels_last: Whether to compute in channels-last memory.

        Returns:
            The image in about [-1, 1], not clamped, ``(B, 3, H, W)``.
        """
        embedding = self.time_embedding(timestep, corrupted.dtype) + self.category_embedding(category)
        x = torch.cat((corrupted, mask.to(corrupted.dtype)), dim=1)
        if channels_last:
            # Convolutions follow the format of their input, whatever that of their weights.
            x = x.contiguous(memory_format=torch.channels_last)
        levels = Levels(self.encoder, self.middle, self.decoder)
        return self.output(self.output_norm(run_levels(levels, self.input_projection(x), embedding)))
