# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Mean and deviation of what is found in the normal images of each category."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["Moments"]

# 0, 2, 4, 8 and 16 were compared for 1 to 128 images: results/drdc/README.md#statistics-of-each-part-of-the-image.
WHOLE_IMAGES = 4


class Moments:
    """Mean and deviation by category of the pixels in each cell of a grid.

    Each cell counts the whole image as that of ``WHOLE_IMAGES`` further images, so that the cells of few images do not
    have deviations far too small.

    Args:
        shape: Number C of categories, and the grid's rows and columns.
        device: Where the sums are, in double precision.
    """

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.grid = (shape[1], shape[2])
        self.number = torch.zeros(shape[0], dtype=torch.float64, device=device)
        self.first, self.second = (torch.zeros(tuple(shape), dtype=torch.float64, device=device) for _ in range(2))

    def add(self, categories: Tensor, values: Tensor) -> None:
        """Add the values of images.

        Args:
            categories: Index of each image's category, ``(B,)``.
            values: Maps, ``(B, H, W)``.
        """
        values = values.double()
        self.number.index_add_(0, categories, torch.ones_like(categories, dtype=torch.float64))
        for total, moments in ((self.first, values), (self.second, values.square())):
            total.index_add_(0, categories, F.adaptive_avg_pool2d(moments, self.grid))

    def write(self, table: Tensor) -> None:
        """Write mean and deviation into a table; categories that no value was added for stay as they are.

        Args:
            table: Mean and deviation of each category and, in the last row, of all, ``(C + 1, 2, g, g)``.
        """
        number, first, second = (
            torch.cat((x, x.sum(dim=0, keepdim=True))) for x in (self.number, self.first, self.second)
        )
        known = (number > 0).nonzero().flatten()
        count = number[known].view(-1, 1, 1)
        mean, square = (
            (total[known] + WHOLE_IMAGES * total[known].mean(dim=(1, 2), keepdim=True) / count) / (count + WHOLE_IMAGES)
            for total in (first, second)
        )
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        table[known] = torch.stack((mean, deviation), dim=1).to(table.dtype)
