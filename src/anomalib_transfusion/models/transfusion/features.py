# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Features of a pretrained backbone for the levels of TransFusion's encoder. Not in the paper."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.networks.backbone import FrozenBackbone, RunningNorm

__all__ = ["BackboneFeatures"]


class BackboneFeatures(nn.Module):
    """Normalized feature maps of a frozen backbone, projected by 1x1 convolutions to the channels of encoder levels.

    A layer belongs to the level of its stride. Layers coarser than all levels are upsampled to the coarsest level.

    Args:
        backbone: timm's name of the network.
        layers: Names of its layers; ``None`` for those of stride 4, 8 and 16.
        widths: Channels of each level, highest resolution first.
        strides: Stride of each level.

    Raises:
        ValueError: If the backbone or a layer is unknown, or has a stride for which there is no level.
    """

    def __init__(
        self,
        backbone: str,
        layers: Sequence[str] | None,
        widths: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.backbone = FrozenBackbone(backbone, layers)
        coarsest = strides[-1]
        own = self.backbone.strides
        if misfit := [stride for stride in own if stride not in strides and (stride < coarsest or stride % coarsest)]:
            msg = (
                f"backbone_layers={self.backbone.layers} of {backbone} have strides {own}, and the levels of the "
                f"network {list(strides)}: there is no level for {misfit}; expected a stride of a level, or a multiple "
                "of the last. Choose other backbone_layers, or another patch_size."
            )
            raise ValueError(msg)
        self.levels = [strides.index(min(stride, coarsest)) for stride in own]
        self.enlargements = [max(stride // coarsest, 1) for stride in own]
        self.norms = nn.ModuleList(RunningNorm(channels) for channels in self.backbone.channels)
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, widths[level], kernel_size=1)
            for channels, level in zip(self.backbone.channels, self.levels, strict=True)
        )

    def forward(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
        """Compute the features to add at each encoder level.

        Args:
            images: Images in [-1, 1], ``(B, 3, H, W)``; H and W multiples of the strides.

        Returns:
            Features by the index of the level, ``(B, C, H / stride, W / stride)`` with the level's channels and stride.
        """
        added: dict[int, torch.Tensor] = {}
        maps = self.backbone(images)
        for features, norm, project, level, enlargement in zip(
            maps,
            self.norms,
            self.projections,
            self.levels,
            self.enlargements,
            strict=True,
        ):
            projected = project(norm(features))
            if enlargement > 1:
                projected = F.interpolate(projected, scale_factor=enlargement, mode="nearest")
            added[level] = added[level] + projected if level in added else projected
        return added
