# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""From normal images to training samples: blended anomalies, and noise at two scales."""

from typing import Literal, NamedTuple

from torch import Tensor

from anomalib_transfusion.synthesis.blending import BlendedAnomalyGenerator

from .loss import Target
from .torch_model import DiffusionADModel

__all__ = ["ProductKind", "TrainingSample", "draw_training_sample", "product_kind", "published_structure_share"]

ProductKind = Literal["object", "texture"]

# Zipper is among them in the published code.
PUBLISHED_TEXTURES = frozenset({
    "carpet",
    "zipper",
    "leather",
    "tile",
    "wood",
    "grid",
    *(f"class{number}" for number in range(1, 11)),
})


class TrainingSample(NamedTuple):
    """Input and truth of one training step.

    Attributes:
        images: Images in [0, 1], some with an anomaly, ``(B, 3, H, W)``.
        timestep: Timestep of each sample at each of S noise scales, ``(S, B)``.
        target: The truth; its noise is an input of the model, too.
    """

    images: Tensor
    timestep: Tensor
    target: Target


def product_kind(category: str) -> ProductKind:
    """Return which kind of product a category of MVTec AD, VisA, MPDD or DAGM is in the published code.

    Args:
        category: Name of the category, in upper or lower case.

    Returns:
        ``texture`` for carpet, zipper, leather, tile, wood, grid and DAGM's Class1 to Class10, else ``object``.
    """
    return "texture" if category.lower() in PUBLISHED_TEXTURES else "object"


def published_structure_share(kind: ProductKind) -> float:
    """Return the share of anomalies that are made of the image itself: one half for objects, none for textures."""
    return 0.0 if kind == "texture" else 0.5


def draw_training_sample(
    generator: BlendedAnomalyGenerator,
    model: DiffusionADModel,
    images: Tensor,
    foreground: Tensor | None = None,
) -> TrainingSample:
    """Draw one training sample for each image, on the images' device.

    Args:
        generator: Blends the anomalies.
        model: The model, whose noise scales are drawn.
        images: Normal images in [0, 1], ``(B, 3, H, W)``.
        foreground: Where anomalies may be, in [0, 1], ``(B, 1, H, W)``; ``None`` for everywhere.

    Returns:
        The samples.

    Raises:
        ValueError: If the shapes of images and foreground do not fit each other.
    """
    blended = generator(images, foreground)
    timestep, noise = model.draw_diffusion(images)
    return TrainingSample(blended.images, timestep, Target(noise, blended.mask, blended.label))
