# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Training samples from normal images: blended anomalies, and noise at two scales."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from anomalib_transfusion.checks import check_arguments, taken_by
from anomalib_transfusion.synthesis import TextureBank
from anomalib_transfusion.synthesis.blending import BlendedAnomalyGenerator, check_blending
from anomalib_transfusion.training.anomalies import AnomalySource
from anomalib_transfusion.visualization.panels import TrainingPanels, largest

from .loss import Prediction, Target
from .torch_model import DiffusionADModel

__all__ = ["AnomalySampler", "ProductKind", "TrainingSample", "kind_of_product", "panels_of"]

ProductKind = Literal["auto", "object", "texture"]

# The published code counts zipper as a texture.
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
    """Input and ground truth of one training step.

    Attributes:
        images: Images in [0, 1], some with an anomaly, ``(B, 3, H, W)``.
        timestep: Timestep of each sample at each of S noise scales, ``(S, B)``.
        target: Ground truth; its noise is also an input of the model.
    """

    images: Tensor
    timestep: Tensor
    target: Target


def kind_of_product(category: str) -> ProductKind:
    """Return which kind of product a category of MVTec AD, VisA, MPDD or DAGM is in the published code.

    Args:
        category: Name of the category, in upper or lower case.

    Returns:
        ``texture`` for carpet, zipper, leather, tile, wood, grid and DAGM's Class1 to Class10, else ``object``.
    """
    return "texture" if category.lower() in PUBLISHED_TEXTURES else "object"


class AnomalySampler(AnomalySource):
    """Draws training samples from normal images, on their device.

    Args:
        product_kind: ``object``, ``texture`` (no anomalies from the image itself), or ``auto``: by the category.
        anomalous_share: Passed to :class:`BlendedAnomalyGenerator`.
        exact_share: Passed to :class:`BlendedAnomalyGenerator`.
        max_perlin_scale: Passed to :class:`BlendedAnomalyGenerator`.
        mask_attempts: Passed to :class:`BlendedAnomalyGenerator`.
        image_share: Passed to :class:`BlendedAnomalyGenerator`.
        source: Parameters of :class:`AnomalySource`.

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.
    """

    def __init__(
        self,
        *,
        product_kind: ProductKind,
        anomalous_share: float,
        exact_share: bool,
        max_perlin_scale: int,
        mask_attempts: int,
        image_share: Sequence[float],
        **source: Any,  # noqa: ANN401
    ) -> None:
        given = check_arguments(AnomalySampler.__init__, locals())
        super().__init__(**source)
        self.product_kind: ProductKind = given.pop("product_kind")
        self.blending = given
        self._texture = self.product_kind == "texture"
        # Impossible values are refused here, before any file is read.
        check_blending(min_perlin_scale=self.min_perlin_scale, **taken_by(check_blending, given))

    def choose_kind(self, category: str | None) -> None:
        """Choose the kind of product for ``product_kind="auto"``.

        Args:
            category: Name of the category that is trained on; ``None`` if unknown, which counts as an object.
        """
        if self.product_kind == "auto":
            self._texture = category is not None and kind_of_product(category) == "texture"

    def make_generator(self, textures: TextureBank | None) -> Callable[..., Any]:
        """Return the generator of blended anomalies."""
        # Without photographs, anomalies on textures come from the image itself as well.
        share = 0.0 if self._texture and textures is not None else self.structure_share
        return BlendedAnomalyGenerator(
            textures,
            structure_share=share,
            min_perlin_scale=self.min_perlin_scale,
            grayscale=self.grayscale_anomalies,
            **self.blending,
        )

    def __call__(
        self,
        images: Tensor,
        model: DiffusionADModel,
        image_paths: list[str] | None = None,
    ) -> TrainingSample:
        """Draw one training sample for each image.

        Args:
            images: Normal images in [0, 1], ``(B, 3, H, W)``.
            model: The model, which draws timesteps and noise of its scales.
            image_paths: Files of the images, needed to look up foreground masks.

        Returns:
            The samples.

        Raises:
            ValueError: If the shapes of images and foreground do not fit each other.
        """
        blended = self.draw(images, image_paths)
        timestep, noise = model.draw_diffusion(images)
        return TrainingSample(blended.images, timestep, Target(noise, blended.mask, blended.label))


@torch.no_grad()
def panels_of(sample: TrainingSample, prediction: Prediction, number: int) -> TrainingPanels:
    """Return panels of some samples of a training step, those with the largest anomalies first.

    Args:
        sample: The samples.
        prediction: The networks' prediction for them.
        number: Largest number of samples.

    Returns:
        Panels: input, true and predicted mask, and guided reconstruction.
    """
    chosen = largest(sample.target.mask, number)
    columns = {
        "input": sample.images[chosen],
        "true\nmask": sample.target.mask[chosen],
        "predicted\nmask": prediction.mask_logits[chosen].float().sigmoid(),
        "reconstruction": prediction.reconstruction[chosen].float(),
    }
    # One timestep for each scale, the small one first.
    names = [f"t = {', '.join(map(str, row))}" for row in sample.timestep[:, chosen].T.tolist()]
    return TrainingPanels({head: images.cpu() for head, images in columns.items()}, names)
