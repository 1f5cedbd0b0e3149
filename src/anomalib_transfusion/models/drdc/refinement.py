# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The diffusion refinement: each pixel of an image is painted anew at several timesteps, without having been seen."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from anomalib_transfusion.checks import Range, check_arguments, taken_by
from anomalib_transfusion.networks.acceleration import (
    buffers_kept,
    images_at_a_time,
    in_parts,
    prefers_channels_last,
    run_network,
)
from anomalib_transfusion.networks.gaussian import alpha_bar, linear_betas

from .conditioning import Conditioning, condition
from .denoiser import Denoiser
from .diffusion import Known, Process, restart
from .inpainting import assemble, fill, lattice_sets

__all__ = ["Refinement"]

# Of the noise at test time, which is the same for each image.
NOISE_SEED = 0


class Refinement(nn.Module):
    """The denoiser, and the reverse process by inpainting for images of one size (R3 to R6).

    Args:
        image_size: Height and width of the images in pixels.
        num_categories: Number C of categories.
        schedule_length: Length T of the linear noise schedule, 21 to 10,000.
        timesteps: The timesteps that are run, falling, each from 1 to T - 1; the first is t_max.
        cell_sizes: Sides of the cells in pixels, each of which divides the image.
        num_sets: Number of disjoint sets n_s; 1, all pixels, with the process ``noised`` alone.
        process: How hidden pixels are corrupted: ``shift``, ``ddpm`` or ``noised``.
        known: Whether known pixels are ``clean`` or ``noisy``.
        test_conditioning: What is done to an estimate before the next timestep.
        filter_size: Side of the mean filter of the conditionings that have one, odd.
        guidance_weight: Weight w of the guidance without a classifier; with 0 a pass is a pass.
        passes_at_once: Number of images with a set each that are in the denoiser at once; more are run in turn.
        base_channels: Channels of the denoiser at the highest resolution.
        channel_multipliers: Channels of each of its levels as multiples of ``base_channels``.
        num_blocks: Its residual blocks a level.
        attention_levels: Its levels with attention; negative ones count from the lowest resolution.
        channels_last: Whether it computes in channels-last memory; ``None``: where it is faster.
        compile: Whether it is compiled at its first call.

    Raises:
        ValueError: If a parameter is impossible; the message names it.
    """

    alpha_bar: Tensor
    masks: Tensor
    noise: Tensor

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        num_categories: int,
        schedule_length: Annotated[int, Range(21, 10_000, "Use 1000.")],
        timesteps: Sequence[int],
        cell_sizes: Sequence[int],
        num_sets: Annotated[int, Range(1, 64, "Use 4.")],
        process: Process,
        known: Known,
        test_conditioning: Conditioning,
        filter_size: int,
        guidance_weight: Annotated[float, Range(0, 1000, "Use 0, which takes half the passes.")],
        passes_at_once: Annotated[int, Range(1, 100_000, "Use 16.")],
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_blocks: int,
        attention_levels: Sequence[int],
        channels_last: bool | None,
        compile: bool,  # noqa: A002
    ) -> None:
        given = check_arguments(Refinement.__init__, locals())
        super().__init__()
        _check_timesteps(given["timesteps"], schedule_length)
        _check_cell_sizes(given["cell_sizes"])
        _check_sets(num_sets, process)
        self.timesteps: tuple[int, ...] = tuple(given["timesteps"])
        self.cell_sizes: tuple[int, ...] = tuple(given["cell_sizes"])
        self.num_sets = num_sets
        self.num_categories = num_categories
        self.process: Process = process
        self.known: Known = known
        self.test_conditioning: Conditioning = test_conditioning
        self.filter_size = filter_size
        self.guidance_weight = guidance_weight
        self.passes_at_once = passes_at_once
        self.channels_last = channels_last
        # Before the network: they say of wrong cells what is wrong with them.
        sets = [lattice_sets(image_size[0], image_size[1], cell_size, num_sets) for cell_size in self.cell_sizes]
        # None of these is in the state dict: they follow from the parameters.
        self.register_buffer("masks", torch.cat(sets), persistent=False)
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(1, 3, *image_size, generator=generator, device="cpu")
        self.register_buffer("noise", noise, persistent=False)
        self.register_buffer("alpha_bar", alpha_bar(linear_betas(schedule_length)).float(), persistent=False)
        self.denoiser = Denoiser(**taken_by(Denoiser, given))
        if compile:
            self.denoiser.compile()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Refinement":
        """Convert weights or move everything; tables and noise stay in their precision."""
        with buffers_kept(self):
            return super()._apply(fn, recurse)

    @property
    def num_passes(self) -> int:
        """Passes of the denoiser for an image: one for each timestep, cell size and set, and two with guidance."""
        return len(self.timesteps) * len(self.masks) * (2 if self.guidance_weight else 1)

    def paint(self, images: Tensor, categories: Tensor) -> Tensor:
        """Paint each pixel without having seen it, at each timestep and with each cell size.

        Args:
            images: Images x in [-1, 1], ``(B, 3, H, W)``.
            categories: Index of each image's category, ``(B,)``; C for the null category.

        Returns:
            Painted images X, ``(n_t, n_k, B, 3, H, W)``.
        """
        return torch.stack([painted for _, painted in self.steps(images, categories)])

    def steps(self, images: Tensor, categories: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Run the reverse process with all sets of all cell sizes in one batch.

        Args:
            images: As of :meth:`paint`.
            categories: As there.

        Returns:
            For each timestep what the denoiser is given, ``(n_k * n_s, B, 3, H, W)``, and what is painted,
            ``(n_k, B, 3, H, W)``.
        """
        # Not len(): in an export, the number of images is a symbol.
        folds, batch = self.masks.shape[0], images.shape[0]
        counts = (len(self.cell_sizes), self.num_sets, batch)
        masks = self.masks.to(images.dtype).unsqueeze(1).expand(-1, batch, -1, -1, -1).flatten(0, 1)
        seen = images.expand(folds, *images.shape).flatten(0, 1)
        chosen = categories.expand(folds, batch).flatten()
        noise = self.noise.to(images.dtype)
        # What hidden pixels are taken for.
        guess = seen
        if self.process != "noised":
            of_cells = [x.unflatten(0, counts).flatten(1, 2).unbind() for x in (seen, masks)]
            guess = torch.cat([
                fill(*of_cell, lattice=True) for of_cell in zip(*of_cells, self.cell_sizes, strict=True)
            ])
        sets = self.masks.unflatten(0, counts[:2]).unbind()
        results = []
        for timestep in self.timesteps:
            level = self.alpha_bar[timestep].view(1, 1, 1, 1).to(images.dtype)
            start = restart(guess, seen, masks, level, noise, self.known)
            times = torch.full_like(chosen, timestep)
            prediction = self.denoise(start, masks, times, chosen)
            prediction = condition(self.test_conditioning, prediction, seen, masks, self.filter_size)
            if self.process != "noised":
                guess = prediction
            parts = prediction.unflatten(0, counts).unbind()
            painted = [assemble(part, mask) for part, mask in zip(parts, sets, strict=True)]
            results.append((start.unflatten(0, (folds, batch)), torch.stack(painted)))
        return results

    def denoise(self, corrupted: Tensor, mask: Tensor, timestep: Tensor, categories: Tensor) -> Tensor:
        """Estimate clean images, with guidance where it has a weight.

        Args:
            corrupted: Corrupted images s, ``(B, 3, H, W)``.
            mask: 1 where a pixel is hidden, ``(B, 1, H, W)``.
            timestep: Timestep of each, ``(B,)``.
            categories: Index of each image's category, ``(B,)``; C for the null category.

        Returns:
            Estimates of x_0, ``(B, 3, H, W)``.
        """
        estimate = self._run(corrupted, mask, timestep, categories)
        if not self.guidance_weight or self.training:
            return estimate
        null = self._run(corrupted, mask, timestep, torch.full_like(categories, self.num_categories))
        return null + (1 + self.guidance_weight) * (estimate - null)

    def _run(self, *inputs: Tensor) -> Tensor:
        """Run the denoiser on as many images at a time as is best, at most ``passes_at_once``."""
        images = inputs[0]
        channels_last = prefers_channels_last(images) if self.channels_last is None else self.channels_last
        together = images_at_a_time(images)
        # In an export, the number of images is not known.
        if not (self.training or torch.compiler.is_exporting()):
            together = min(together or self.passes_at_once, self.passes_at_once)
        parts = in_parts(together, *inputs)
        estimates = [run_network(self.denoiser, *part, channels_last=channels_last) for part in parts]
        return torch.cat(estimates).to(images.dtype)


def _check_timesteps(timesteps: Sequence[int], schedule_length: int) -> None:
    """Raise ValueError if timesteps are none, not falling, or beyond the schedule."""
    wrong = [timestep for timestep in timesteps if not 1 <= timestep < schedule_length]
    if not timesteps or wrong:
        msg = (
            f"timesteps={list(timesteps)} is impossible: {wrong or 'it'} {'is' if len(wrong) < 2 else 'are'} "
            f"{'beyond the schedule' if wrong else 'empty'}; expected numbers from 1 to {schedule_length - 1}, with "
            f"schedule_length={schedule_length}. Use (250, 125, 50), or (250,) for speed."
        )
        raise ValueError(msg)
    if any(later >= earlier for earlier, later in pairwise(timesteps)):
        msg = (
            f"timesteps={list(timesteps)} do not fall; expected the largest first, for the process goes from much "
            f"noise to little. Use {sorted(set(timesteps), reverse=True)}."
        )
        raise ValueError(msg)


def _check_sets(num_sets: int, process: Process) -> None:
    """Raise ValueError if a single set hides all that there is to paint from."""
    if num_sets == 1 and process != "noised":
        msg = (
            f"num_sets=1 hides the whole image, and with process={process} nothing is left to paint it from; expected "
            "at least 2 sets. Use 4, or the process noised, which leaves hidden pixels under noise."
        )
        raise ValueError(msg)


def _check_cell_sizes(cell_sizes: Sequence[int]) -> None:
    """Raise ValueError if cell sizes are none, not positive, or one is there twice."""
    if not cell_sizes or min(cell_sizes) < 1 or len(set(cell_sizes)) < len(cell_sizes):
        msg = (
            f"cell_sizes={list(cell_sizes)} is impossible; expected different numbers of pixels, at least one, each at "
            "least 1. Use (8, 16) for images of 256 pixels, (8,) for speed."
        )
        raise ValueError(msg)
