# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The segmentation sub-network of DiffusionAD: DRAEM's discriminative network with a single logit for each pixel.

anomalib's Draem has that network with two logits and 2x upsampling with ``align_corners=False``; DiffusionAD's
published code has ``align_corners=True``.
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from anomalib_transfusion.checks import Range, check_arguments

__all__ = ["SegmentationUNet"]

# Channels of image and reconstruction.
IN_CHANNELS = 6
# Channels of each level as multiples of the width, highest resolution first.
MULTIPLIERS = (1, 2, 4, 8, 8, 8)

Width = Annotated[
    int,
    Range(
        1,
        1024,
        "Use 64, the published width, or less for a smaller network.",
        "is impossible; expected {least} to {most} channels.",
    ),
]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization that also accepts a single value per channel.

    A training batch of one image of 32 x 32 pixels has one value per channel at the lowest resolution, and so no
    variance. It is normalized by the running statistics, as in evaluation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize features ``(B, C, H, W)``."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return nn.functional.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                eps=self.eps,
            )
        return super().forward(x)


def convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Return a 3x3 convolution, batch normalization and ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        BatchNorm(out_channels),
        nn.ReLU(inplace=True),
    ]


def double_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return two 3x3 convolutions, each with batch normalization and ReLU."""
    return nn.Sequential(*convolution(in_channels, out_channels), *convolution(out_channels, out_channels))


class UpBlock(nn.Module):
    """Doubles the resolution, and merges the encoder's features of that resolution.

    Args:
        in_channels: Channels of the input.
        skip_channels: Channels of the encoder's features.
        out_channels: Channels of the output, and of the doubled input.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            *convolution(in_channels, out_channels),
        )
        self.merge = double_convolution(out_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` and ``(B, skip_channels, 2 H, 2 W)`` to ``(B, out_channels, 2 H, 2 W)``."""
        return self.merge(torch.cat((self.up(x), skip), dim=1))


class SegmentationUNet(nn.Module):
    """U-Net that compares an image with its reconstruction (paper Section III-C).

    Args:
        segmentation_width: Channels at the highest resolution, 1 to 1024.

    Raises:
        TypeError: If the width is no whole number.
        ValueError: If the width is impossible.
    """

    # The resolution is halved five times.
    stride = 2 ** (len(MULTIPLIERS) - 1)

    def __init__(self, segmentation_width: Width) -> None:
        width: int = check_arguments(SegmentationUNet.__init__, locals())["segmentation_width"]
        super().__init__()
        widths = [width * multiplier for multiplier in MULTIPLIERS]
        self.encoder = nn.ModuleList(
            double_convolution(before, after) for before, after in zip([IN_CHANNELS, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        # Each stage has the channels of the level above the one that it leads to; the last two have the width.
        decoder, before = [], widths[-1]
        for skip, after in zip(widths[-2::-1], (8 * width, 4 * width, 2 * width, width, width), strict=True):
            decoder.append(UpBlock(before, skip, after))
            before = after
        self.decoder = nn.ModuleList(decoder)
        self.output = nn.Conv2d(width, 1, kernel_size=3, padding=1)

    def forward(self, images: Tensor, reconstruction: Tensor, channels_last: bool = False) -> Tensor:
        """Predict the anomaly mask of images.

        Args:
            images: Images in [0, 1], ``(B, 3, H, W)``; H and W multiples of 32.
            reconstruction: Their reconstructions in [-1, 1], ``(B, 3, H, W)``.
            channels_last: Whether to compute in channels-last memory.

        Returns:
            Logits, ``(B, 1, H, W)``.
        """
        x = torch.cat((images, reconstruction), dim=1)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for block in self.encoder:
            x = block(self.pool(x) if skips else x)
            skips.append(x)
        skips.pop()
        for block in self.decoder:
            x = block(x, skips.pop())
        return self.output(x)
