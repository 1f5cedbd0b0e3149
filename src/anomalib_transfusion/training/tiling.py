# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The network on tiles of an image, as anomalib's ``TilerConfigurationCallback`` asks for it."""

from collections.abc import Callable
from typing import TypeVar

import torch
from anomalib.data.utils.tiler import Tiler

__all__ = ["check_tiler", "predict_tiles"]

Prediction = TypeVar("Prediction", bound=tuple[torch.Tensor, ...])


def check_tiler(tiler: Tiler, stride: int) -> None:
    """Raise ValueError if the network cannot divide the tiles, or if they would not cover the image.

    Args:
        tiler: anomalib's tiler.
        stride: Number that the sides of a tile must be multiples of.
    """
    sides = (tiler.tile_size_h, tiler.tile_size_w)
    if not all(side > 0 and side % stride == 0 for side in sides):
        msg = (
            f"tile_size={sides} does not fit the network: both sides must be multiples of {stride}. Choose such sides "
            "in the TilerConfigurationCallback."
        )
        raise ValueError(msg)
    if tiler.remove_border_count:
        # The tiler fills the border of the image with zeros, which as a mask logit is a probability of one half.
        msg = (
            f"remove_border_count={tiler.remove_border_count} would leave the border of the image without a "
            "prediction. Use 0 in the TilerConfigurationCallback, and a stride below tile_size for tiles that overlap."
        )
        raise ValueError(msg)


def predict_tiles(
    network: Callable[..., Prediction],
    tiler: Tiler,
    x_t: torch.Tensor,
    previous_mask: torch.Tensor,
    timestep: torch.Tensor,
) -> Prediction:
    """Run the network on the tiles of images, and merge its predictions; overlapping tiles are averaged.

    Args:
        network: Maps tiles of ``x_t`` and ``previous_mask``, and ``timestep``, to a named tuple of maps
            ``(B, C, H, W)``.
        tiler: anomalib's tiler.
        x_t: Images in [-1, 1], ``(B, 3, H, W)``.
        previous_mask: Masks of the step before in {0, 1}, ``(B, 1, H, W)``.
        timestep: Timestep of each image, ``(B,)``.

    Returns:
        Predictions for the whole images, ``(B, C, H, W)`` each.
    """
    # The tiler returns single precision whatever its input.
    tiles = tiler.tile(torch.cat((x_t, previous_mask), dim=1)).to(x_t.dtype)
    # All tiles of an image follow each other.
    timesteps = timestep.repeat_interleave(len(tiles) // len(x_t))
    predicted = network(tiles[:, :3], tiles[:, 3:], timesteps)
    return type(predicted)(*map(tiler.untile, predicted))
