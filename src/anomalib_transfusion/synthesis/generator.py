# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Synthetic anomalies for a batch of normal images (TransFusion paper, Section 3.3)."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2.functional import rgb_to_grayscale

from anomalib_transfusion.checks import Range, check_arguments
from anomalib_transfusion.synthesis.augmentation import augment_each, send
from anomalib_transfusion.synthesis.geometry import rotate
from anomalib_transfusion.synthesis.masks import MAX_EXPONENT, anomaly_mask, draw_noise
from anomalib_transfusion.synthesis.sources import TextureBank, shuffle_tiles


class SyntheticAnomaly(NamedTuple):
    """Synthetic anomalies for the forward process (TransFusion paper, Eq. 2).

    Attributes:
        appearance: The anomalies' appearance in [-1, 1], zero where nothing is anomalous, shape ``(B, 3, H, W)``.
        mask: Anomaly masks, 0 or 1, shape ``(B, 1, H, W)``.
    """

    appearance: Tensor
    mask: Tensor


class AnomalyGenerator:
    """Put synthetic anomalies on half of the images of a batch.

    All random numbers come from torch's global generators. Numbers that control the computation
    are drawn on the CPU, so that the host never waits for an accelerator.

    Args:
        textures: Textures for the appearance of anomalies; ``None`` for no texture anomalies.
        structure_share: Share of the anomalies whose appearance is the shuffled image itself, in [0, 1]; the others
            take a texture. Without textures, all are shuffled images.
        min_perlin_scale: Noise for masks has ``2 ** min_perlin_scale`` to ``2 ** 5`` cells along an axis, in [0, 5].
        grayscale: Whether anomalies on gray images are gray, too.

    Raises:
        ValueError: If a parameter is out of its range, or there are neither textures nor shuffled images.
    """

    anomaly: ClassVar[Callable[..., Any]] = SyntheticAnomaly
    """Named tuple of the result, called with the appearance and the :meth:`masks`."""

    def __init__(
        self,
        textures: TextureBank | None,
        *,
        structure_share: float,
        min_perlin_scale: int,
        grayscale: bool,
    ) -> None:
        check_synthesis(textures is not None, structure_share, min_perlin_scale)
        self.textures = textures
        self.structure_share = structure_share
        self.min_perlin_scale = min_perlin_scale
        self.grayscale = grayscale

    def masks(self, noise: Tensor) -> tuple[Tensor, ...]:  # noqa: PLR6301
        """Return the anomaly mask of noise ``(B, 1, H, W)``; a subclass may add masks from the same noise."""
        return (anomaly_mask(noise),)

    @torch.no_grad()
    def __call__(self, images: Tensor, foreground: Tensor | None = None) -> Any:  # noqa: ANN401
        """Make anomalies for the first half of the batch; the rest stays normal.

        With an odd number of images, the one in the middle is anomalous with probability one half.

        Args:
            images: Normal images of shape ``(B, 3, H, W)`` in [0, 1].
            foreground: Where anomalies may be, 0 or 1, shape ``(B, 1, H, W)``; ``None`` for everywhere.

        Returns:
            The anomalies, an :attr:`anomaly` in the type of ``images``. Masks and appearance of normal samples are
            zero.

        Raises:
            ValueError: If the shapes of images, foreground and textures do not fit each other.
        """
        check_fit(images, foreground, self.textures)
        batch = len(images)
        count = batch // 2 + (batch % 2 if torch.rand(()) < 0.5 else 0)
        size = (images.shape[-2], images.shape[-1])
        noise = draw_noise(count, size, images.device, self.min_perlin_scale)
        masks = self.masks(noise)
        if foreground is not None:
            masks = tuple(mask * foreground[:count] for mask in masks)
        # Written in place, because allocations of this size are slow on a CPU.
        appearance = torch.empty(images.shape, device=images.device)
        appearance[count:].zero_()
        if count:
            # An antialiased resize may exceed 1 by rounding, which the augmentations cannot handle.
            sources = draw_appearances(images[:count].float().clamp(0, 1), self.textures, self.structure_share)
            torch.cat(sources, out=appearance[:count])
            if self.grayscale:
                match_gray(appearance[:count], images[:count])
            appearance[:count].mul_(2).sub_(1).mul_(masks[0])
        rest = (0, 0, 0, 0, 0, 0, 0, batch - count)
        return self.anomaly(appearance.to(images.dtype), *(pad(mask, rest).to(images.dtype) for mask in masks))


def draw_appearances(
    images: Tensor,
    textures: TextureBank | None,
    structure_share: float,
    shuffle: Callable[[Tensor], Tensor] = shuffle_tiles,
) -> list[Tensor]:
    """Draw the appearance of an anomaly for each image: the shuffled image itself or a texture, both augmented.

    Args:
        images: Normal images of shape ``(N, 3, H, W)`` in [0, 1].
        textures: The textures; ``None`` to shuffle all images.
        structure_share: Share of the appearances that are shuffled images, in [0, 1].
        shuffle: Function that shuffles images ``(N, 3, H, W)``.

    Returns:
        ``N`` appearances of shape ``(1, 3, H, W)`` in [0, 1].
    """
    count = len(images)
    from_texture = [False] * count if textures is None else (torch.rand(count) < 1 - structure_share).tolist()
    textured = [index for index, texture in enumerate(from_texture) if texture]
    structured = [index for index, texture in enumerate(from_texture) if not texture]
    parts = list(images.split(1))
    if textured and textures is not None:
        for index, texture in zip(textured, textures.sample(len(textured), images.device).split(1), strict=True):
            parts[index] = texture
    # Textures and images are augmented in the same way, and therefore together.
    parts = augment_each(parts)
    if structured:
        shuffled = shuffle(torch.cat([parts[index] for index in structured])).split(1)
        for index, image in zip(structured, shuffled, strict=True):
            parts[index] = image
    return parts


def check_fit(images: Tensor, foreground: Tensor | None, textures: TextureBank | None) -> None:
    """Raise ValueError if the shapes of images, foreground and textures do not fit each other."""
    if images.ndim != 4 or images.shape[1] != 3:
        msg = (
            f"images must have the shape (B, 3, H, W), got {tuple(images.shape)}. A single image becomes a batch"
            " with images[None], a gray one has three channels after images.expand(-1, 3, -1, -1)."
        )
        raise ValueError(msg)
    expected = (len(images), 1, *images.shape[-2:])
    if foreground is not None and foreground.shape != expected:
        msg = (
            f"foreground must have the shape {expected} of the images, got {tuple(foreground.shape)}. Resize the"
            " masks to the images' size, one for each."
        )
        raise ValueError(msg)
    if textures is not None and textures.size != tuple(images.shape[-2:]):
        msg = (
            f"the textures are {textures.size[0]}x{textures.size[1]}, the images"
            f" {images.shape[-2]}x{images.shape[-1]} pixels. Build the TextureBank with the images' size."
        )
        raise ValueError(msg)


def match_gray(appearance: Tensor, images: Tensor) -> None:
    """Convert the appearances of anomalies on gray images to gray, in place.

    Otherwise color alone would reveal every synthetic anomaly on a gray image.

    Args:
        appearance: Appearances in [0, 1], shape ``(N, 3, H, W)``.
        images: The images, shape ``(N, 3, H, W)`` in [0, 1]; one is gray if its channels agree within half a gray level
            of 8 bits.
    """
    color = (images.amax(dim=1) - images.amin(dim=1)).amax(dim=(1, 2)) > 0.5 / 255
    gray = rgb_to_grayscale(appearance, num_output_channels=3)
    torch.where(color.view(-1, 1, 1, 1), appearance, gray, out=appearance)


def check_synthesis(
    textured: bool,
    structure_share: Annotated[
        float,
        Range(0, 1, "0 takes every anomaly from a texture, 1 every one from the image itself.", "must be in [0, 1]:"),
    ],
    min_perlin_scale: Annotated[
        int,
        Range(0, MAX_EXPONENT, "(small ones only).", "must be from 0 (the paper's: anomalies of every size) to {most}"),
    ],
) -> None:
    """Raise ValueError, naming the value, if a parameter of the synthesis is impossible.

    Args:
        textured: Whether there are textures.
        structure_share: Share of anomalies whose appearance is the shuffled image itself, in [0, 1].
        min_perlin_scale: Exponent of the smallest number of noise cells along an axis, in [0, 5].
    """
    check_arguments(check_synthesis, locals())
    if not textured and structure_share == 0:
        msg = (
            f"structure_share={structure_share} leaves no source of anomalies, for there are no textures either. Give"
            " textures, or a share above 0."
        )
        raise ValueError(msg)


def rotate_some(tensors: list[Tensor], probability: float, degrees: float = 20.0) -> list[Tensor]:
    """Rotate some samples of a batch, all tensors of a sample by the same angle.

    Interpolation is by nearest neighbor, so that masks stay binary and appearances keep their values; pixels from
    outside of the image are zero. Samples that are not rotated stay as they are, bit for bit.

    Args:
        tensors: Tensors of shape ``(B, C_i, H, W)`` with the same batch, height and width.
        probability: The probability with which a sample is rotated.
        degrees: The largest angle; angles are uniform up to it in either direction.

    Returns:
        The tensors in the same order, with their shapes and types.
    """
    chosen = [index for index, draw in enumerate(torch.rand(len(tensors[0])).tolist()) if draw < probability]
    if not chosen:
        return list(tensors)
    # The host knows the chosen samples, so that only these are rotated.
    members = send(torch.tensor(chosen), tensors[0].device)
    stacked = torch.cat([tensor.index_select(0, members) for tensor in tensors], dim=1)
    angle = (2 * torch.rand(len(chosen), device=stacked.device) - 1) * degrees
    rotated = rotate(stacked, angle, mode="nearest").split([tensor.shape[1] for tensor in tensors], dim=1)
    return [tensor.index_copy(0, members, part.to(tensor.dtype)) for tensor, part in zip(tensors, rotated, strict=True)]
