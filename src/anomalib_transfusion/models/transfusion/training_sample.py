# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Training samples from normal images: synthetic anomalies at a random timestep of the forward process."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch

from anomalib_transfusion.checks import Range, check_arguments
from anomalib_transfusion.synthesis import TextureBank, rotate_some
from anomalib_transfusion.training.anomalies import AnomalySource, TextureSource
from anomalib_transfusion.visualization.panels import TrainingPanels, largest

from .loss import Target
from .previous_mask import StepGenerator
from .transparency import forward_process
from .unet import Prediction

__all__ = ["TextureSource", "TrainingSample", "TrainingSampler", "panels_of"]


class TrainingSample(NamedTuple):
    """Input and ground truth of one training step.

    Attributes:
        x_t: Image at the timestep, in [-1, 1], ``(B, 3, H, W)``.
        previous_mask: Simulated mask of the step before in {0, 1}, ``(B, 1, H, W)``.
        timestep: Timestep of each sample, 1 to T - 1, ``(B,)``.
        target: Ground truth for ``x_t``.
    """

    x_t: torch.Tensor
    previous_mask: torch.Tensor
    timestep: torch.Tensor
    target: Target


class TrainingSampler(AnomalySource):
    """Draws training samples from normal images, on their device (paper Sections 3.2, 3.3 and 4.3).

    Args:
        rotation_probability: Share of the samples that are rotated by up to 20 degrees, in [0, 1].
        first_step_share: Share of the samples at ``start_timestep``, in [0, 1]; the others are drawn uniformly.
        start_timestep: First timestep of the reverse process; ``None`` for the last of the schedule.
        source: Parameters of :class:`AnomalySource`.

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.
    """

    def __init__(
        self,
        *,
        rotation_probability: Annotated[float, Range(0, 1, "0 rotates none.", "must be in [{least}, {most}];")],
        first_step_share: Annotated[
            float,
            Range(0, 1, "with 0 all timesteps are as frequent.", "must be in [{least}, {most}];"),
        ],
        start_timestep: int | None,
        **source: Any,  # noqa: ANN401
    ) -> None:
        given = check_arguments(TrainingSampler.__init__, locals())
        super().__init__(**source)
        self.rotation_probability: float = given["rotation_probability"]
        self.first_step_share: float = given["first_step_share"]
        self.start_timestep: int | None = given["start_timestep"]

    def make_generator(self, textures: TextureBank | None) -> Callable[..., Any]:
        """Return the generator of the paper's anomalies."""
        return StepGenerator(
            textures,
            structure_share=self.structure_share,
            min_perlin_scale=self.min_perlin_scale,
            grayscale=self.grayscale_anomalies,
        )

    def __call__(
        self,
        images: torch.Tensor,
        beta: torch.Tensor,
        image_paths: list[str] | None = None,
    ) -> TrainingSample:
        """Draw one training sample for each image.

        Args:
            images: Normal images in [0, 1], ``(B, 3, H, W)``.
            beta: Transparency schedule, ``(T,)``.
            image_paths: Files of the images, needed to look up foreground masks.

        Returns:
            The samples; about half of them carry an anomaly.
        """
        anomaly = self.draw(images, image_paths)
        last = len(beta) - 1
        first = self.start_timestep or last
        timestep = torch.randint(1, last + 1, (images.shape[0],), device=images.device)
        if self.first_step_share:
            at_first = torch.rand(len(images), device=images.device) < self.first_step_share
            timestep = timestep.where(~at_first, first)
        normal, appearance, mask, previous_mask = rotate_some(
            [2 * images - 1, anomaly.appearance, anomaly.mask, anomaly.previous_mask],
            probability=self.rotation_probability,
        )
        # The reverse process starts with an empty mask (paper Section 3.4).
        previous_mask = previous_mask * (timestep < first).view(-1, 1, 1, 1)
        x_t = forward_process(normal, appearance, mask, beta[timestep].view(-1, 1, 1, 1))
        return TrainingSample(x_t, previous_mask, timestep, Target(normal, appearance, mask))


@torch.no_grad()
def panels_of(sample: TrainingSample, prediction: Prediction, beta: torch.Tensor, number: int) -> TrainingPanels:
    """Return panels of some samples of a training step, those with the largest anomalies first.

    Args:
        sample: The samples.
        prediction: The network's prediction for them.
        beta: Transparency of each sample's anomaly, ``(B, 1, 1, 1)``.
        number: Largest number of samples.

    Returns:
        Panels: input, true and predicted mask, true and predicted normal appearance.
    """
    target = sample.target
    chosen = largest(target.mask, number)
    columns = {
        "input\nxₜ": (sample.x_t[chosen] + 1) / 2,
        "true\nmask": target.mask[chosen],
        "predicted\nmask": prediction.mask_logits[chosen].float().sigmoid(),
        "true normal\nappearance": (target.normal[chosen] + 1) / 2,
        "predicted normal\nappearance": (prediction.normal[chosen].float() + 1) / 2,
    }
    names = [f"βₜ = {value:.2f}" for value in beta.flatten()[chosen].tolist()]
    return TrainingPanels({head: images.cpu() for head, images in columns.items()}, names)
