# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Features of a pretrained backbone for the levels of TransFusion's encoder. Not in the paper."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.networks.backbone import FrozenBackbone, RunningNorm
from anomalib_transfusion.networks.memory import FeatureMemory

__all__ = ["BackboneFeatures", "Features"]

# A distance of as many deviations speaks neither for an anomaly nor against one; with the other, a smooth step.
NEUTRAL_DISTANCE = 3.0
STEP_WIDTH = 1.5
# The coarsest layers, as PatchCore has it, are compared with the memory.
REMEMBERED_LAYERS = 2


class Features(NamedTuple):
    """What a pretrained backbone says of a batch.

    Attributes:
        added: Features to add, by the index of the encoder level, ``(B, C, H / stride, W / stride)`` with the level's
            channels and stride.
        evidence: Logits of an anomaly by the distance to normal features, ``(B, 1, h, w)``; ``None`` without memory.
    """

    added: dict[int, torch.Tensor]
    evidence: torch.Tensor | None


class BackboneFeatures(nn.Module):
    """Normalized feature maps of a frozen backbone, projected by 1x1 convolutions to the channels of encoder levels.

    A layer belongs to the level of its stride. Layers coarser than all levels are upsampled to the coarsest level.

    Args:
        backbone: timm's name of the network.
        layers: Names of its layers; ``None`` for those of stride 4, 8 and 16.
        widths: Channels of each level, highest resolution first.
        strides: Stride of each level.
        memory_size: Number of feature vectors of normal images that the coarsest layers are compared with; 0 for none.

    Raises:
        ValueError: If the backbone or a layer is unknown, or has a stride for which there is no level.
    """

    # Also a class attribute, for networks that were pickled before there was a memory.
    has_memory = False

    def __init__(
        self,
        backbone: str,
        layers: Sequence[str] | None,
        widths: Sequence[int],
        strides: Sequence[int],
        memory_size: int,
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

        if memory_size:
            self.has_memory = True
            self.memory = FeatureMemory(memory_size, self.backbone.channels[-REMEMBERED_LAYERS:])
            finest = self.backbone.strides[-REMEMBERED_LAYERS:][0]
            self.memory_level = strides.index(min(finest, coarsest))
            self.memory_enlargement = max(finest // coarsest, 1)
            self.memory_projection = nn.Conv2d(1, widths[self.memory_level], kernel_size=1)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the feature vectors of images in [-1, 1] that a memory keeps some of, ``(B, C, h, w)``."""
        return FeatureMemory.embed(self.backbone(images)[-REMEMBERED_LAYERS:])

    def forward(self, images: torch.Tensor) -> Features:
        """Compute the features to add at each encoder level, and the evidence of the memory.

        Args:
            images: Images in [-1, 1], ``(B, 3, H, W)``; H and W multiples of the strides.

        Returns:
            The features.
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
        if not self.has_memory:
            return Features(added, None)
        evidence = (self.memory(maps[-REMEMBERED_LAYERS:]) - NEUTRAL_DISTANCE) / STEP_WIDTH
        level = self.memory_level
        projected = self.memory_projection(evidence)
        if self.memory_enlargement > 1:
            projected = F.interpolate(projected, scale_factor=self.memory_enlargement, mode="nearest")
        added[level] = added[level] + projected if level in added else projected
        return Features(added, evidence)
