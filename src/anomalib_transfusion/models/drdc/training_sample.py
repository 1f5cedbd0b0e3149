# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What is drawn at random for a training step."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from anomalib_transfusion.visualization.panels import TrainingPanels

from .diffusion import corrupt
from .inpainting import fill, random_sets

if TYPE_CHECKING:
    from .refinement import Refinement

__all__ = ["TrainingSample", "draw_sample", "panels_of"]


class TrainingSample(NamedTuple):
    """A training batch with all that is drawn for it.

    Attributes:
        images: Normal images in [-1, 1], ``(B, 3, H, W)``.
        categories: Index of each image's category, ``(B,)``.
        conditions: The same; the null category for some of them.
        mask: 1 where a pixel is hidden, ``(B, 1, H, W)``.
        timestep: Timestep of each image, ``(B,)``.
        corrupted: What the denoiser is given, ``(B, 3, H, W)``.
        seed: Seed of the noise and the dropout of the base model.
    """

    images: Tensor
    categories: Tensor
    conditions: Tensor
    mask: Tensor
    timestep: Tensor
    corrupted: Tensor
    seed: int


def draw_sample(
    images: Tensor,
    categories: Tensor,
    refinement: "Refinement",
    category_dropout: float,
) -> TrainingSample:
    """Hide a set of each image's cells, and corrupt it (R1 and R2). All images of a step have cells of one size.

    Args:
        images: Normal images in [-1, 1], ``(B, 3, H, W)``.
        categories: Index of each image's category, ``(B,)``.
        refinement: What is trained: its cells, process and timesteps.
        category_dropout: Probability of the null category in place of the true one, in [0, 1].
    """
    device, (batch, _, height, width) = images.device, images.shape
    seed, choice = torch.randint(2**62, (2,)).tolist()
    cell_size = refinement.cell_sizes[choice % len(refinement.cell_sizes)]
    mask = random_sets(batch, height, width, cell_size, refinement.num_sets, device)
    last = refinement.timesteps[0]
    timestep = torch.randint(1, last + 1, (batch,), device=device)
    dropped = torch.rand(batch, device=device) < category_dropout
    corrupted = corrupt(
        images,
        fill(images, mask, cell_size),
        mask,
        refinement.alpha_bar[timestep].view(-1, 1, 1, 1),
        (timestep / last).view(-1, 1, 1, 1),
        torch.randn_like(images),
        refinement.process,
        refinement.known,
    )
    conditions = categories.masked_fill(dropped, refinement.num_categories)
    return TrainingSample(images, categories, conditions, mask, timestep, corrupted, seed)


def panels_of(sample: TrainingSample, estimate: Tensor, number: int) -> TrainingPanels:
    """Show some samples of a step: image, hidden pixels, what the denoiser is given, and what it makes of that.

    Args:
        sample: The samples.
        estimate: The denoiser's estimates in [-1, 1], ``(B, 3, H, W)``.
        number: Number of samples to show, at most.
    """
    columns = {"image": sample.images, "given": sample.corrupted, "painted": estimate.detach()}
    shown = {head: (images[:number] + 1) / 2 for head, images in columns.items()}
    shown = {"image": shown["image"], "hidden": sample.mask[:number], **shown}
    return TrainingPanels(shown, [f"t = {timestep}" for timestep in sample.timestep[:number].tolist()])
