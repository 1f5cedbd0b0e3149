# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Rotation of image batches, each image by its own angle."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def rotate(images: Tensor, degrees: Tensor, mode: str = "bilinear") -> Tensor:
    """Rotate each image about its center; pixels from outside of it are zero.

    The sampling grid is written out instead of taken from ``affine_grid``, whose matrix product would run at the
    reduced precision of autocast or TF32 and move pixels.

    Args:
        images: Floating point images of shape ``(B, C, H, W)``.
        degrees: Angles of shape ``(B,)`` in degrees; a positive angle turns counter-clockwise.
        mode: ``"bilinear"`` or ``"nearest"``.

    Returns:
        The rotated images, shape ``(B, C, H, W)``, in the type of ``images``.
    """
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device, dtype=torch.float32) - (height - 1) / 2
    x = torch.arange(width, device=images.device, dtype=torch.float32) - (width - 1) / 2
    y, x = y.view(1, -1, 1), x.view(1, 1, -1)
    radians = torch.deg2rad(degrees.to(images.device, torch.float32)).view(-1, 1, 1)
    cosine, sine = radians.cos(), radians.sin()
    # Pixel offsets from the center, in the normalized coordinates of align_corners=False.
    across = x * (cosine * (2 / width)) - y * (sine * (2 / width))
    down = x * (sine * (2 / height)) + y * (cosine * (2 / height))
    grid = torch.stack((across, down), dim=-1)
    return grid_sample(images, grid.to(images.dtype), mode=mode, padding_mode="zeros", align_corners=False)
