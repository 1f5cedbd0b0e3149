# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The loss of DRDC: features, hidden pixels and categories, which share no weight that is trained."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .base_model import Reconstruction

__all__ = ["LossTerms", "Prediction", "drdc_loss", "inpainting_loss"]

# Weight of a known pixel, where that of a hidden one is 1 more.
KNOWN_WEIGHT = 0.1


class Prediction(NamedTuple):
    """What the networks make of a training batch; ``None`` for a part that is not trained.

    Attributes:
        features: Features and their reconstruction.
        logits: Logits of the category head, ``(B, C)``.
        estimate: Estimates of the clean images in [-1, 1], ``(B, 3, H, W)``.
    """

    features: Reconstruction | None
    logits: Tensor | None
    estimate: Tensor | None


class LossTerms(NamedTuple):
    """The loss and its terms, scalars; 0 for a part that is not trained.

    Attributes:
        total: Sum of the terms.
        base: Mean squared error of the features.
        refinement: Weighted squared error of the painted images.
        category: Cross-entropy of the category head.
    """

    total: Tensor
    base: Tensor
    refinement: Tensor
    category: Tensor


def inpainting_loss(estimate: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Return the squared error, in which hidden pixels count eleven times as much as known ones.

    Args:
        estimate: Estimates of the clean images, ``(B, C, H, W)``.
        images: The images, likewise.
        mask: 1 where a pixel is hidden, ``(B, 1, H, W)``.
    """
    weight = mask + KNOWN_WEIGHT
    return (weight * (estimate - images).square()).sum() / (images.shape[1] * weight.sum())


def drdc_loss(prediction: Prediction, images: Tensor, mask: Tensor, categories: Tensor) -> LossTerms:
    """Return the loss of a batch.

    Args:
        prediction: What the networks make of it.
        images: The images in [-1, 1], ``(B, 3, H, W)``.
        mask: 1 where a pixel is hidden, ``(B, 1, H, W)``.
        categories: Index of each image's category, ``(B,)``.
    """
    base = refinement = category = images.new_zeros(())
    if prediction.features is not None and prediction.logits is not None:
        base = F.mse_loss(prediction.features.reconstructed.float(), prediction.features.features.float())
        category = F.cross_entropy(prediction.logits.float(), categories)
    if prediction.estimate is not None:
        refinement = inpainting_loss(prediction.estimate.float(), images, mask)
    return LossTerms(base + refinement + category, base, refinement, category)
