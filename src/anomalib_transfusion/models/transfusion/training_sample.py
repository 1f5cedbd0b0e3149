# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""From normal images to training samples: synthetic anomalies at a random timestep of the forward process."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from anomalib.models.image.draem.lightning_model import DTD_DOWNLOAD_INFO

from anomalib_transfusion.data.download import download
from anomalib_transfusion.synthesis import (
    AnomalyGenerator,
    ForegroundMasks,
    TextureBank,
    check_synthesis,
    estimate_foreground,
    rotate_some,
)
from anomalib_transfusion.synthesis.sources import TextureResize, check_texture_resize

from .loss import Target
from .parameters import check_arguments
from .transparency import forward_process

__all__ = ["TextureSource", "TrainingSample", "TrainingSampler"]

logger = logging.getLogger(__name__)

TextureSource = Literal["folder", "photographs", "none"]


class TrainingSample(NamedTuple):
    """Input and truth of one training step.

    Attributes:
        x_t: Image at the timestep, in [-1, 1], ``(B, 3, H, W)``.
        previous_mask: Simulated mask of the step before in {0, 1}, ``(B, 1, H, W)``.
        timestep: Timestep of each sample, 1 to T - 1, ``(B,)``.
        target: The truth behind ``x_t``.
    """

    x_t: torch.Tensor
    previous_mask: torch.Tensor
    timestep: torch.Tensor
    target: Target


class TrainingSampler:
    """Draws training samples from normal images, on their device (paper Sections 3.2, 3.3 and 4.3).

    Args:
        dtd_dir: Folder with texture photographs in DTD's layout, for ``texture_source="folder"``.
        texture_source: Where texture anomalies come from: the ``folder`` (the paper's), the ``photographs`` that
            scikit-image ships, or ``none``: structure anomalies alone.
        foreground: ``none``, ``estimate``, or a folder with one mask for each training image.
        rotation_probability: Share of the samples that are rotated by up to 20 degrees.
        structure_share: Share of the anomalies that come from the image itself, in [0, 1]; the others from a texture.
        min_perlin_scale: Smallest power of two of the cells of noise along an axis, in [0, 5].
        grayscale_anomalies: Whether anomalies on gray images are gray, too.
        texture_resize: How the photographs of the folder are made smaller: ``area`` or ``bilinear`` (the published
            code's).

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.
    """

    def __init__(
        self,
        dtd_dir: str | Path,
        texture_source: TextureSource = "folder",
        foreground: str | Path = "none",
        rotation_probability: float = 0.3,
        structure_share: float = 0.5,
        min_perlin_scale: int = 0,
        grayscale_anomalies: bool = False,
        texture_resize: TextureResize = "area",
    ) -> None:
        given = check_arguments(TrainingSampler.__init__, locals())
        self.dtd_dir = Path(given["dtd_dir"])
        self.texture_source: TextureSource = given["texture_source"]
        self.foreground: str = given["foreground"]
        self.rotation_probability: float = given["rotation_probability"]
        self.structure_share: float = given["structure_share"]
        self.min_perlin_scale: int = given["min_perlin_scale"]
        self.grayscale_anomalies: bool = given["grayscale_anomalies"]
        if self.texture_source not in get_args(TextureSource):
            known = ", ".join(get_args(TextureSource))
            msg = f"texture_source={self.texture_source!r} is unknown; choose one of {known}."
            raise ValueError(msg)
        if not 0 <= self.rotation_probability <= 1:
            msg = f"rotation_probability={self.rotation_probability} must be in [0, 1]; 0 rotates none."
            raise ValueError(msg)
        check_texture_resize(given["texture_resize"])
        check_synthesis(self.texture_source != "none", self.structure_share, self.min_perlin_scale)
        self.texture_resize: TextureResize = given["texture_resize"]
        self._size: tuple[int, int] | None = None
        self._generator: AnomalyGenerator
        self._foreground_masks: ForegroundMasks | None = None

    def prepare(self) -> None:
        """Download DTD where its folder is absent, as anomalib's Draem does.

        Raises:
            RuntimeError: If the download fails; the message says what to pass instead.
        """
        if self.texture_source != "folder" or self.dtd_dir.is_dir():
            return
        logger.info("No texture photographs in %s; downloading the Describable Textures Dataset.", self.dtd_dir)
        download(
            self.dtd_dir,
            DTD_DOWNLOAD_INFO,
            what="A folder of texture photographs",
            remedy=(
                "pass the folder of an unpacked Describable Textures Dataset or of any texture photographs "
                "(dtd_dir, on the command line --model.dtd_dir), or ask for textures that need no folder "
                '(texture_source="photographs", on the command line --model.texture_source photographs)'
            ),
        )

    def build(self, size: tuple[int, int]) -> None:
        """Read the sources for images of a size; nothing is done where they are there already.

        Args:
            size: Height and width of the training images in pixels.

        Raises:
            FileNotFoundError: If a folder is missing or holds no image.
        """
        if self._size == size:
            return
        textures = {
            "folder": lambda: TextureBank.from_folder(self.dtd_dir, size, resize=self.texture_resize),
            "photographs": lambda: TextureBank.from_photographs(size),
            "none": lambda: None,
        }[self.texture_source]()
        self._generator = AnomalyGenerator(
            textures,
            self.structure_share,
            self.min_perlin_scale,
            self.grayscale_anomalies,
        )
        if self.foreground not in {"none", "estimate"}:
            self._foreground_masks = ForegroundMasks.from_folder(Path(self.foreground), size)
        self._size = size

    def check_foreground(self, image_paths: Iterable[str]) -> None:
        """Look at the foreground masks of all training images, where there is a folder of them.

        Args:
            image_paths: Files of the images.

        Raises:
            FileNotFoundError: If an image has no mask.
            ValueError: If a mask is no mask of its image.
        """
        if self._foreground_masks is not None:
            self._foreground_masks.check(image_paths)

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
        self.build((images.shape[-2], images.shape[-1]))
        anomaly = self._generator(images, self._find_foreground(images, image_paths))
        last = len(beta) - 1
        timestep = torch.randint(1, last + 1, (images.shape[0],), device=images.device)
        normal, appearance, mask, previous_mask = rotate_some(
            [2 * images - 1, anomaly.appearance, anomaly.mask, anomaly.previous_mask],
            probability=self.rotation_probability,
        )
        # The reverse process starts at the last timestep with an empty mask (paper Section 3.4).
        previous_mask = previous_mask * (timestep < last).view(-1, 1, 1, 1)
        x_t = forward_process(normal, appearance, mask, beta[timestep].view(-1, 1, 1, 1))
        return TrainingSample(x_t, previous_mask, timestep, Target(normal, appearance, mask))

    def _find_foreground(self, images: torch.Tensor, image_paths: list[str] | None) -> torch.Tensor | None:
        """Return the foreground masks ``(B, 1, H, W)`` of the images, or ``None`` where anomalies may be anywhere."""
        if self.foreground == "none":
            return None
        if self.foreground == "estimate":
            return estimate_foreground(images)
        if self._foreground_masks is None or image_paths is None:
            msg = (
                f"foreground={self.foreground!r} needs the file of each image, but this batch has no image_path. Use a "
                'data module that gives it, or foreground="estimate" or "none".'
            )
            raise ValueError(msg)
        return self._foreground_masks.lookup(image_paths, images.device)
