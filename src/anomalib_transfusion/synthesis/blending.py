# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Synthetic anomalies that are blended into normal images, as in the training of DiffusionAD (paper Section III-E)."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from anomalib_transfusion.checks import Range, check_arguments
from anomalib_transfusion.synthesis.generator import check_fit, check_synthesis, draw_appearances, match_gray
from anomalib_transfusion.synthesis.masks import MAX_EXPONENT, ROTATION_DEGREES, THRESHOLD
from anomalib_transfusion.synthesis.perlin import perlin_noise
from anomalib_transfusion.synthesis.sources import TILES_PER_SIDE, TextureBank

__all__ = [
    "BlendedAnomalies",
    "BlendedAnomalyGenerator",
    "blend",
    "check_blending",
    "one_sided_masks",
    "shuffle_strips",
]

Share = Annotated[
    float,
    Range(
        0,
        1,
        "Use 0.5, the published share.",
        "is impossible; expected {least} (no anomalies) to {most} (nothing else).",
    ),
]
Attempts = Annotated[int, Range(1, 1000, "Use 50, the published number.")]


class BlendedAnomalies(NamedTuple):
    """A batch in which some images have an anomaly.

    Attributes:
        images: The images in [0, 1], ``(B, 3, H, W)``.
        mask: Anomaly masks in [0, 1], ``(B, 1, H, W)``; soft if the foreground is soft.
        label: 1 for an image with an anomaly, 0 for a normal one, ``(B,)``.
    """

    images: Tensor
    mask: Tensor
    label: Tensor


def shuffle_strips(images: Tensor) -> Tensor:
    """Cut each image into 8 rows and 8 columns of tiles and put whole rows and columns into another order.

    As published, rows are in any order; the even columns (counted from 0) make the left half and the odd columns the
    right half, each in any order. A side that is no multiple of eight is extended by repeating its last row or column,
    and cropped again.

    Args:
        images: Images of shape ``(N, C, H, W)``.

    Returns:
        The shuffled images, shape ``(N, C, H, W)``.
    """
    count, _, height, width = images.shape
    device = images.device
    rows = torch.rand(count, TILES_PER_SIDE, device=device).argsort(dim=1)
    halves = torch.rand(count, 2, TILES_PER_SIDE // 2, device=device).argsort(dim=2)
    columns = (2 * halves + torch.arange(2, device=device).view(1, 2, 1)).flatten(1)
    below, right = -height % TILES_PER_SIDE, -width % TILES_PER_SIDE
    if below or right:
        images = pad(images, (0, right, 0, below), mode="replicate")
    sample = torch.arange(count, device=device).view(-1, 1, 1)
    row, column = _pixels(rows, images.shape[2]).unsqueeze(2), _pixels(columns, images.shape[3]).unsqueeze(1)
    return images[sample, :, row, column].permute(0, 3, 1, 2)[..., :height, :width]


def _pixels(strips: Tensor, side: int) -> Tensor:
    """Return the source pixel of each pixel along a side, ``(N, side)``, for an order of strips ``(N, 8)``."""
    length = side // TILES_PER_SIDE
    return (strips.unsqueeze(2) * length + torch.arange(length, device=strips.device)).flatten(1)


def one_sided_masks(
    batch: int,
    size: tuple[int, int],
    foreground: Tensor | None = None,
    device: torch.device | str = "cpu",
    exponents: tuple[int, int] = (0, MAX_EXPONENT),
    *,
    attempts: int,
) -> Tensor:
    """Draw masks where Perlin noise exceeds one half in the foreground; TransFusion compares its magnitude.

    Empty masks are drawn again together, with the same cells. The host must know whether any mask is empty, so it waits
    for an accelerator once per round; most batches take one or two rounds.

    Args:
        batch: Number of masks ``B``.
        size: Height and width in pixels.
        foreground: Where anomalies may be, in [0, 1], ``(B, 1, H, W)``; ``None`` for everywhere.
        device: Where the masks are drawn and stay.
        exponents: Smallest and largest exponent k of the ``2 ** k`` cells of noise along an axis.
        attempts: Largest number of times that a mask is drawn.

    Returns:
        The masks, the foreground's values or 0, ``(B, 1, H, W)``; zero where all attempts were empty.
    """
    cells = 2 ** torch.randint(exponents[0], exponents[1] + 1, (batch, 2), device=device)
    masks = torch.zeros(batch, 1, *size, device=device)
    empty = torch.arange(batch, device=device)
    for _ in range(attempts):
        if not len(empty):
            break
        angle = (2 * torch.rand(len(empty), device=device) - 1) * ROTATION_DEGREES
        drawn = (perlin_noise(cells[empty], size, angle, max_cells=2 ** exponents[1]) > THRESHOLD).float()
        if foreground is not None:
            drawn *= foreground[empty]
        masks[empty] = drawn
        empty = empty[drawn.flatten(1).amax(dim=1) == 0]
    return masks


def blend(images: Tensor, appearance: Tensor, mask: Tensor, image_share: Tensor) -> Tensor:
    """Blend anomalies into images: (1 - M) I + M (s I + (1 - s) A) (DiffusionAD paper, Section III-E).

    Args:
        images: Normal images I in [0, 1], ``(B, 3, H, W)``.
        appearance: Appearances A of anomalies in [0, 1], ``(B, 3, H, W)``.
        mask: Anomaly masks M in [0, 1], ``(B, 1, H, W)``.
        image_share: Share s of the image inside of the mask, in [0, 1], ``(B, 1, 1, 1)``.

    Returns:
        The images with anomalies, ``(B, 3, H, W)``. Outside of the mask they are unchanged, bit for bit.
    """
    return images + (1 - image_share) * mask * (appearance - images)


class BlendedAnomalyGenerator:
    """Blend synthetic anomalies into some images of a batch.

    All random numbers come from torch's global generators.

    Args:
        textures: Textures for the appearance of anomalies; ``None`` for no texture anomalies.
        structure_share: Share of the anomalies whose appearance is the shuffled image itself, in [0, 1]; the others
            take a texture. Without textures, all are shuffled images.
        anomalous_share: Share of the samples with an anomaly, in [0, 1].
        exact_share: Whether each batch has this share of anomalies, randomly rounded up or down. Otherwise each sample
            has one with this probability, as published; a small batch is then often without normal samples.
        min_perlin_scale: Exponent k of the smallest number ``2 ** k`` of noise cells along an axis, in [0, 5].
        max_perlin_scale: Exponent of the largest number of cells, in [``min_perlin_scale``, 5].
        mask_attempts: Largest number of times that a mask is drawn until it is not empty, 1 to 1000; if all are empty,
            the sample stays normal.
        image_share: Smallest and largest share with which the normal image is blended into an anomaly, in [0, 1].
        grayscale: Whether anomalies on gray images are gray, too.

    Raises:
        ValueError: If a parameter is out of its range, or there are neither textures nor shuffled images.
    """

    def __init__(
        self,
        textures: TextureBank | None,
        *,
        structure_share: float,
        anomalous_share: float,
        exact_share: bool,
        min_perlin_scale: int,
        max_perlin_scale: int,
        mask_attempts: int,
        image_share: Sequence[float],
        grayscale: bool,
    ) -> None:
        check_synthesis(textures is not None, structure_share, min_perlin_scale)
        check_blending(anomalous_share, min_perlin_scale, max_perlin_scale, mask_attempts, image_share)
        self.textures = textures
        self.structure_share = structure_share
        self.anomalous_share = anomalous_share
        self.exact_share = exact_share
        self.exponents = (min_perlin_scale, max_perlin_scale)
        self.mask_attempts = mask_attempts
        self.image_share = (float(image_share[0]), float(image_share[1]))
        self.grayscale = grayscale

    @torch.no_grad()
    def __call__(self, images: Tensor, foreground: Tensor | None = None) -> BlendedAnomalies:
        """Blend anomalies into the first images of the batch; the others stay normal.

        Args:
            images: Normal images of shape ``(B, 3, H, W)`` in [0, 1].
            foreground: Where anomalies may be, in [0, 1], shape ``(B, 1, H, W)``; ``None`` for everywhere.

        Returns:
            The batch, in the type of ``images``.

        Raises:
            ValueError: If the shapes of images, foreground and textures do not fit each other.
        """
        check_fit(images, foreground, self.textures)
        batch, device = len(images), images.device
        count = self._draw_count(batch)
        mask = torch.zeros(batch, 1, *images.shape[2:], device=device)
        blended = images
        if count:
            size = (images.shape[-2], images.shape[-1])
            where = None if foreground is None else foreground[:count]
            mask[:count] = one_sided_masks(count, size, where, device, self.exponents, attempts=self.mask_attempts)
            # An antialiased resize may exceed 1 by rounding, which the augmentations cannot handle.
            normal = images[:count].float().clamp(0, 1)
            appearance = torch.cat(draw_appearances(normal, self.textures, self.structure_share, shuffle_strips))
            if self.grayscale:
                match_gray(appearance, normal)
            share = torch.empty(count, 1, 1, 1, device=device).uniform_(*self.image_share)
            anomalous = blend(images[:count], appearance, mask[:count], share).to(images.dtype)
            blended = torch.cat((anomalous, images[count:]))
        label = mask.flatten(1).amax(dim=1) > 0
        return BlendedAnomalies(blended, mask.to(images.dtype), label.to(images.dtype))

    def _draw_count(self, batch: int) -> int:
        """Draw the number of samples of a batch that get an anomaly."""
        if self.exact_share:
            return int(batch * self.anomalous_share + torch.rand((), dtype=torch.float64).item())
        return int((torch.rand(batch) < self.anomalous_share).sum())


def check_blending(
    anomalous_share: Share,
    min_perlin_scale: int,
    max_perlin_scale: int,
    mask_attempts: Attempts,
    image_share: Sequence[float],
) -> None:
    """Raise ValueError, naming the value, if a parameter of the blending is impossible."""
    check_arguments(check_blending, locals())
    if not min_perlin_scale <= max_perlin_scale <= MAX_EXPONENT:
        msg = (
            f"max_perlin_scale={max_perlin_scale} is impossible; expected min_perlin_scale={min_perlin_scale} to "
            f"{MAX_EXPONENT}. Use 5, the published value, or a smaller one for larger anomalies."
        )
        raise ValueError(msg)
    if len(image_share) != 2 or not 0 <= image_share[0] <= image_share[1] <= 1:
        msg = (
            f"image_share={tuple(image_share)} is impossible; expected the smallest and the largest share of the image "
            "in an anomaly, in [0, 1]. Use 0.2 and 0.8, the published shares."
        )
        raise ValueError(msg)
