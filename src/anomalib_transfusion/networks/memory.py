# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Distances of features to those of normal images, after PatchCore (Roth et al. 2022)."""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.networks.acceleration import in_parts, items_at_a_time

__all__ = ["FeatureMemory", "largest_size"]

# Side of the neighborhoods whose mean is taken, and the largest share of all vectors that is kept: those of PatchCore.
# The finest map is taken as it is, unlike there: means hide defects of its size (results/quality/fast-recipe.md).
POOLING = 3
LARGEST_SHARE = 0.1
# Distances of each feature map computed at a time on a CPU: 2 MiB in single precision, which stay in its caches.
MOST_DISTANCES = 2**19
# Below the deviation of any channel or distance.
SMALLEST_DEVIATION = 1e-6


class FeatureMemory(nn.Module):
    """Feature vectors of normal images, and the distance of others to the nearest of them.

    Where there are several feature maps, the distance in all channels, which PatchCore has, and those in the channels
    of each map alone are summed, each in its deviations: a small defect is far from all normal ones in the finest map,
    and hardly in all channels. The memory is empty until :meth:`fill`; nothing in it is trained by gradients.

    Args:
        size: Number K of vectors.
        channels: Channels C_i of each feature map, the finest first; the vectors have their sum C.
    """

    vectors: torch.Tensor
    channel_mean: torch.Tensor
    channel_deviation: torch.Tensor
    part_deviations: torch.Tensor
    distance_mean: torch.Tensor
    distance_deviation: torch.Tensor
    filled: torch.Tensor

    def __init__(self, size: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        width = sum(channels)
        self.register_buffer("vectors", torch.zeros(size, width))
        self.register_buffer("channel_mean", torch.zeros(width))
        self.register_buffer("channel_deviation", torch.ones(width))
        self.register_buffer("part_deviations", torch.ones(len(channels) + 1 if len(channels) > 1 else 1))
        self.register_buffer("distance_mean", torch.zeros(()))
        self.register_buffer("distance_deviation", torch.ones(()))
        self.register_buffer("filled", torch.tensor(data=False))

    @property
    def size(self) -> int:
        """Number K of vectors."""
        return self.vectors.shape[0]

    @staticmethod
    def embed(maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Join the finest feature map and the neighborhood means of the others, at the resolution of the finest.

        Args:
            maps: Feature maps ``(B, C_i, h_i, w_i)``, the finest first.

        Returns:
            Vectors, ``(B, C, h, w)``.
        """
        finest, *coarser = maps
        means = [
            F.avg_pool2d(part, POOLING, stride=1, padding=POOLING // 2, count_include_pad=False) for part in coarser
        ]
        size = finest.shape[-2:]
        rest = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in means]
        return torch.cat([finest, *rest], dim=1)

    @torch.no_grad()
    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return how far features are from the nearest vector of the memory.

        Args:
            maps: Feature maps ``(B, C_i, h_i, w_i)``, the finest first.

        Returns:
            Sums of the distances in deviations from the mean of normal images, ``(B, 1, h, w)``.
        """
        # In 16 bits, the squares of the distances would be lost in those of the vectors.
        with torch.autocast(maps[0].device.type, enabled=False):
            dtype = torch.promote_types(self.vectors.dtype, torch.float32)
            embedded = self.embed([part.to(dtype) for part in maps])
            batch, channels, height, width = embedded.shape
            distances = self._sum(self.distances(embedded.permute(0, 2, 3, 1).reshape(-1, channels)))
            distances = distances.view(batch, 1, height, width).to(maps[0].dtype)
        return (distances - self.distance_mean) / self.distance_deviation.clamp(min=SMALLEST_DEVIATION)

    @torch.no_grad()
    def fill(
        self,
        pool: torch.Tensor,
        others: torch.Tensor,
        choose: Callable[[torch.Tensor, int], Sequence[int]],
        rare: torch.Tensor | None = None,
    ) -> int:
        """Keep vectors of normal images, and measure the distances of others to them.

        Args:
            pool: Vectors, ``(N, C)``, as :meth:`embed` gives them. They have the mean and deviation of each channel.
            others: Vectors of normal images that are not in the pool, ``(M, C)``.
            choose: Returns the indices of a number of vectors to keep, of those that there are, normalized.
            rare: Further vectors to choose from that are not typical, ``(L, C)``.

        Returns:
            Number of different vectors in the memory: K, or a tenth of those to choose from if that is less.
        """
        self.channel_mean.copy_(pool.mean(dim=0))
        self.channel_deviation.copy_(pool.std(dim=0).clamp(min=SMALLEST_DEVIATION))
        normalized = self.normalized(pool if rare is None else torch.cat([pool, rare]))
        number = min(self.size, largest_size(len(normalized)))
        kept = normalized[list(choose(normalized, number))]
        self.vectors.copy_(kept.repeat(-(-self.size // len(kept)), 1)[: self.size])
        parts = self.distances(others.to(self.vectors.dtype))
        self.part_deviations.copy_(parts.std(dim=1).clamp(min=SMALLEST_DEVIATION))
        distances = self._sum(parts)
        self.distance_mean.copy_(distances.mean())
        self.distance_deviation.copy_(distances.std())
        self.filled.fill_(value=True)
        return number

    def normalized(self, vectors: torch.Tensor) -> torch.Tensor:
        """Normalize the channels of vectors, ``(N, C)``."""
        return (vectors - self.channel_mean.to(vectors.dtype)) / self.channel_deviation.to(vectors.dtype)

    def distances(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the distances of vectors to the nearest kept ones, in deviations of the channels.

        Args:
            vectors: Vectors, ``(N, C)``.

        Returns:
            Distances in all channels, ``(1, N)``, and where there are several feature maps in those of each,
            ``(1 + maps, N)``.
        """
        given, kept = self.normalized(vectors), self.vectors.to(vectors.dtype)
        compared = list(zip(given.split(self.channels, dim=1), kept.split(self.channels, dim=1), strict=True))
        kept_squares = [part.square().sum(dim=1) for _, part in compared]
        found = []
        for chunk in in_parts(items_at_a_time(given, MOST_DISTANCES // self.size), *(part for part, _ in compared)):
            # Of |g|^2 + |k|^2 - 2gk, the first term is the same for all k: one pass over the large matrix less.
            rest = [
                torch.addmm(squares, part, kept_part.T, alpha=-2)
                for part, squares, (_, kept_part) in zip(chunk, kept_squares, compared, strict=True)
            ]
            own = [part.square().sum(dim=1) for part in chunk]
            nearest = [squares + part.amin(dim=1) for squares, part in zip(own, rest, strict=True)]
            if len(compared) > 1:
                # In place: new matrices of this size take longer than the sum.
                joint = reduce(torch.Tensor.add_, rest).amin(dim=1)
                nearest.insert(0, torch.stack(own).sum(dim=0) + joint)
            found.append(torch.stack(nearest))
        return torch.cat(found, dim=1).clamp(min=0).sqrt()

    def _sum(self, distances: torch.Tensor) -> torch.Tensor:
        """Return the sum of distances ``(parts, N)``, each in its deviations, ``(N,)``."""
        return (distances / self.part_deviations.to(distances.dtype)[:, None]).sum(dim=0)


def largest_size(number: int) -> int:
    """Return how many of a number of vectors a memory keeps at most, at least one."""
    return max(1, int(LARGEST_SHARE * number))
