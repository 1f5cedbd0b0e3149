# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Sums and means over square neighborhoods, of which pixels outside of the image are no part."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["box_mean", "box_sum"]


def box_sum(x: Tensor, radius: int) -> Tensor:
    """Sum over the square of ``2 * radius + 1`` pixels a side around each pixel, as far as it is inside of the image.

    Running sums make it as fast for a large square as for a small one.

    Args:
        x: Values, ``(B, C, H, W)``.
        radius: Pixels from the center of the square to its edge, at least 0.

    Returns:
        The sums, ``(B, C, H, W)``.
    """
    for dim in (-1, -2):
        size = x.shape[dim]
        running = torch.cat((torch.zeros_like(x.narrow(dim, 0, 1)), x.cumsum(dim)), dim=dim)
        index = torch.arange(size, device=x.device)
        after, before = (index + radius + 1).clamp(max=size), (index - radius).clamp(min=0)
        x = running.index_select(dim, after) - running.index_select(dim, before)
    return x


def box_mean(x: Tensor, size: int) -> Tensor:
    """Average over the square around each pixel, at the borders over those of its pixels that are in the image.

    Args:
        x: Values, ``(B, C, H, W)``.
        size: Side of the square in pixels, odd.

    Returns:
        The means, ``(B, C, H, W)``.
    """
    # Rows, then columns: all means of a row are over as many pixels, so that the mean of them is the mean of all.
    for kernel in ((1, size), (size, 1)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        x = F.avg_pool2d(x, kernel, stride=1, padding=padding, count_include_pad=False)
    return x
