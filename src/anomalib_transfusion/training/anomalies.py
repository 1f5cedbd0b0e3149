# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Synthetic anomalies for training, with textures and foreground masks from files, and the download of textures."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from anomalib.models.image.draem.lightning_model import DTD_DOWNLOAD_INFO

from anomalib_transfusion.checks import check_arguments
from anomalib_transfusion.data.download import download
from anomalib_transfusion.synthesis import ForegroundMasks, TextureBank, check_synthesis, estimate_foreground
from anomalib_transfusion.synthesis.sources import TextureResize

__all__ = ["AnomalySource", "TextureSource"]

logger = logging.getLogger(__name__)

TextureSource = Literal["folder", "photographs", "none"]


class AnomalySource(ABC):
    """Puts synthetic anomalies on normal images, on their device, with textures and foreground masks from files.

    A model's subclass implements :meth:`make_generator`, which decides how anomalies look.

    Args:
        dtd_dir: Folder with texture photographs in DTD's layout, for ``texture_source="folder"``.
        texture_source: Where texture anomalies come from: the ``folder`` (published), the ``photographs`` that
            scikit-image ships, or ``none``: structure anomalies alone.
        foreground: Where anomalies may be: ``none`` for anywhere, ``estimate`` for the object as estimated from each
            image, or a folder with one mask for each training image.
        structure_share: Share of the anomalies that come from the image itself, in [0, 1]; the others from a texture.
        min_perlin_scale: Exponent k of the smallest number ``2 ** k`` of Perlin noise cells along an axis, in [0, 5].
        grayscale_anomalies: Whether anomalies on gray images are gray, too.
        texture_resize: How the photographs of the folder are made smaller: ``area`` or ``bilinear`` (published).

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.
    """

    def __init__(
        self,
        *,
        dtd_dir: str | Path,
        texture_source: TextureSource,
        foreground: str | Path,
        structure_share: float,
        min_perlin_scale: int,
        grayscale_anomalies: bool,
        texture_resize: TextureResize,
    ) -> None:
        given = check_arguments(AnomalySource.__init__, locals())
        self.dtd_dir = Path(given["dtd_dir"])
        self.texture_source: TextureSource = given["texture_source"]
        self.foreground: str = given["foreground"]
        self.structure_share: float = given["structure_share"]
        self.min_perlin_scale: int = given["min_perlin_scale"]
        self.grayscale_anomalies: bool = given["grayscale_anomalies"]
        self.texture_resize: TextureResize = given["texture_resize"]
        check_synthesis(self.texture_source != "none", self.structure_share, self.min_perlin_scale)
        self._size: tuple[int, int] | None = None
        self._generator: Callable[..., Any]
        self._foreground_masks: ForegroundMasks | None = None

    @abstractmethod
    def make_generator(self, textures: TextureBank | None) -> Callable[..., Any]:
        """Return a function of images ``(B, 3, H, W)`` and a foreground ``(B, 1, H, W)`` or None that makes anomalies.

        Args:
            textures: The textures; ``None`` for structure anomalies alone.
        """

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
        """Set up textures and foreground masks for images of a size, unless that was done before.

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
        self._generator = self.make_generator(textures)
        if self.foreground not in {"none", "estimate"}:
            self._foreground_masks = ForegroundMasks.from_folder(Path(self.foreground), size)
        self._size = size

    def check_foreground(self, image_paths: Iterable[str]) -> None:
        """Check the foreground masks of all training images, if they are read from a folder.

        Args:
            image_paths: Files of the images.

        Raises:
            FileNotFoundError: If an image has no mask.
            ValueError: If an image has several masks, or its mask is unreadable, empty or of another aspect ratio.
        """
        if self._foreground_masks is not None:
            self._foreground_masks.check(image_paths)

    def draw(self, images: torch.Tensor, image_paths: list[str] | None = None) -> Any:  # noqa: ANN401
        """Draw anomalies for a batch.

        Args:
            images: Normal images in [0, 1], ``(B, 3, H, W)``.
            image_paths: Files of the images, needed to look up foreground masks.

        Returns:
            Result of the function that :meth:`make_generator` returned.

        Raises:
            FileNotFoundError: If an image has no foreground mask in the folder.
            ValueError: If the foreground is a folder of masks and ``image_paths`` is ``None``.
        """
        self.build((images.shape[-2], images.shape[-1]))
        return self._generator(images, self._find_foreground(images, image_paths))

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
