# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Common part of the models that are trained on synthetic anomalies."""

from pathlib import Path
from typing import Any

from anomalib_transfusion.checks import check_arguments
from anomalib_transfusion.synthesis.sources import TextureResize
from anomalib_transfusion.training.anomalies import AnomalySource, TextureSource
from anomalib_transfusion.training.image_files import training_images

from .base import DetectorMixin

__all__ = ["SyntheticAnomaliesMixin"]


class SyntheticAnomaliesMixin(DetectorMixin):
    """Mix-in for training on synthetic anomalies; it must come before :class:`AnomalibModule`.

    A model assigns ``self.sampler``.

    Args:
        dtd_dir: Folder of texture photographs in the layout of the Describable Textures Dataset, which is downloaded
            there when training starts if the folder is absent.
        texture_source: Where texture anomalies come from: the ``folder`` above (published), the ``photographs`` that
            scikit-image ships, or ``none``: structure anomalies alone.
        foreground: Where synthetic anomalies may lie: ``none`` for anywhere, ``estimate`` for the object as estimated
            from each image, or a folder with one mask for each training image.
        structure_share: Share of the synthetic anomalies whose appearance is the shuffled image itself, in [0, 1]; the
            others take a texture.
        min_perlin_scale: Masks of synthetic anomalies are thresholded Perlin noise with ``2 ** min_perlin_scale`` to 32
            cells along an axis, in [0, 5]; a larger value leaves out large anomalies.
        grayscale_anomalies: Whether synthetic anomalies on gray images are gray, too. Otherwise color alone reveals
            each of them.
        texture_resize: How the photographs of the folder are made smaller: ``area`` averages, ``bilinear`` aliases, as
            in the published code.
        shared: Parameters of :class:`DetectorMixin`.
    """

    sampler: AnomalySource

    def __init__(
        self,
        dtd_dir: Path | str = "./datasets/dtd",
        texture_source: TextureSource = "folder",
        foreground: Path | str = "none",
        structure_share: float = 0.5,
        min_perlin_scale: int = 0,
        grayscale_anomalies: bool = False,
        texture_resize: TextureResize = "area",
        **shared: Any,  # noqa: ANN401
    ) -> None:
        given = check_arguments(SyntheticAnomaliesMixin.__init__, locals())
        super().__init__(**shared)
        self.shared |= given

    def prepare_data(self) -> None:
        """Download the texture photographs for a training if they are needed and absent.

        Raises:
            RuntimeError: If the download fails; the message says what to pass instead.
        """
        if self.trainer.training:
            self.sampler.prepare()

    def on_fit_start(self) -> None:
        """Set up textures and foreground masks before the first batch, and seed the first epoch."""
        if self.input_size is not None:
            self.sampler.build(self.input_size)
        super().on_fit_start()

    def on_train_start(self) -> None:
        """Check the foreground masks of the training images before the first step."""
        self.sampler.check_foreground(training_images(self.trainer))
        super().on_train_start()
