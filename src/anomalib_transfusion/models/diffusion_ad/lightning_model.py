# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DiffusionAD for anomalib's engine: its parameters, training step and evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from anomalib_transfusion.checks import check_arguments, taken_by
from anomalib_transfusion.models.graph_export import GraphExport
from anomalib_transfusion.models.pictures import Explanation
from anomalib_transfusion.models.synthetic_anomalies import SyntheticAnomaliesMixin
from anomalib_transfusion.training.learning_rate import check_rates
from anomalib_transfusion.visualization.panels import RECONSTRUCTION

from .checks import NoiseScales, Schedule
from .film_strip import ROW_NAMES, moments_of
from .loss import DiffusionADLoss, LossTerms
from .official import import_official, infer_architecture, read_official
from .optimizer import SegmentationSchedule, configure_adam
from .torch_model import DiffusionADModel
from .training_sample import AnomalySampler, ProductKind, panels_of

__all__ = ["DiffusionAD"]

PANELS = ("Little noise", "Much noise")


class DiffusionAD(SyntheticAnomaliesMixin, GraphExport, AnomalibModule):  # type: ignore[misc]
    """DiffusionAD: norm-guided one-step denoising diffusion for anomaly detection (Zhang et al., TPAMI 2025).

    The model learns from normal images with synthetic anomalies. A network denoises an image in one step from little
    and from much noise; the second estimate guides the first. A second network compares the result with the image.
    Image sides must be multiples of 32.

    Args:
        timesteps: Number of timesteps T of the diffusion process, up to 10,000.
        schedule: Noise schedule, ``linear`` (published) or ``cosine``.
        noise_scales: Noise scales that the image is reconstructed from: ``both``, the big one guiding the small one, or
            ``small`` or ``big`` alone, which takes one pass of the network instead of two.
        scale_split: In training, timesteps below it are the small scale, the others the big one.
        small_timestep: Timestep of the small scale at test time.
        big_timestep: Timestep of the big scale at test time.
        guidance_weight: Weight w of the guidance; with 0 a test takes one pass of the network.
        detach_guide: Whether the loss of the mask trains the reconstruction through the small scale alone.
        noise_draws: Number of noise images that maps are averaged over.
        noise_seed: Seed of the noise at test time, which is the same for each image. ``None`` draws it anew for each,
            as published: maps then change from run to run.
        score_pixels: Number of the largest pixels of a map whose mean is the image's score.
        base_channels: Channels of the reconstruction network at the highest resolution, a multiple of ``num_groups``.
        channel_multipliers: Channels of each level of the reconstruction network as multiples of ``base_channels``,
            highest resolution first; the first is 1.
        num_blocks: Number of residual blocks in each level of the reconstruction network.
        attention_levels: Levels of the reconstruction network with attention; negative ones count from the lowest
            resolution.
        num_heads: Number of attention heads of the reconstruction network.
        num_groups: Number of groups for group normalization in the reconstruction network.
        segmentation_width: Channels of the segmentation network at the highest resolution.
        checkpointing: Whether training saves memory by running the reconstruction network's stages a second time in the
            backward pass; results do not change.
        noise_weight: Weight of the noise loss, a mean over both scales and the normal samples (the paper's). The
            published code sums over the scales, which is a weight of 2.
        focal_weight: Weight of the focal loss of the mask.
        smooth_l1_weight: Weight of the smooth L1 loss of the mask.
        focal_alpha: Factor of the focal loss, the same for both classes.
        focal_gamma: Exponent of the focal loss.
        focal_from_logits: Whether the focal loss is computed from logits, so that a pixel that is wrong with certainty
            has a gradient. ``False`` computes it from probabilities, as published.
        product_kind: Kind of product: anomalies on a ``texture`` are made of photographs alone, those on an ``object``
            also of the image itself. ``auto`` chooses by the name of the category, as published; unknown names are
            objects.
        anomalous_share: Share of the training samples with an anomaly, in [0, 1].
        exact_share: Whether each batch has this share of anomalies. Otherwise each sample has one with this
            probability, as published; a small batch is then often without normal samples.
        max_perlin_scale: Masks of synthetic anomalies are thresholded Perlin noise with at most
            ``2 ** max_perlin_scale`` cells along an axis.
        mask_attempts: Largest number of times that a mask is drawn until it is not empty.
        image_share: Smallest and largest share with which the normal image is blended into an anomaly, in [0, 1].
        learning_rate: Learning rate of Adam for the reconstruction network.
        segmentation_learning_rate: Learning rate of Adam for the segmentation network.
        segmentation_schedule: Schedule of ``segmentation_learning_rate``: ``constant``, ``cosine`` down to 0 over the
            training, or ``swing``: down to 0 and up again every 20 steps, as published.
        shared: Parameters of :class:`SyntheticAnomaliesMixin` and :class:`DetectorMixin`.

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.

    Example:
        >>> from anomalib.data import MVTecAD
        >>> from anomalib.engine import Engine
        >>> from anomalib.models import DiffusionAD
        >>> model = DiffusionAD()
        >>> engine = Engine(max_epochs=3000)
        >>> engine.train(model=model, datamodule=MVTecAD(category="bottle", train_batch_size=16))
    """

    sampler: AnomalySampler
    trained_for = (
        "timesteps",
        "schedule",
        "base_channels",
        "channel_multipliers",
        "num_blocks",
        "attention_levels",
        "num_heads",
        "num_groups",
        "segmentation_width",
    )
    weights_prefix = "model.unet."
    stride_parameters = ("channel_multipliers",)
    explanation = Explanation(ROW_NAMES, moments_of)

    def __init__(
        self,
        timesteps: int = 1000,
        schedule: Schedule = "linear",
        noise_scales: NoiseScales = "both",
        scale_split: int = 300,
        small_timestep: int = 200,
        big_timestep: int = 400,
        guidance_weight: float = 1.0,
        detach_guide: bool = False,
        noise_draws: int = 1,
        noise_seed: int | None = 0,
        score_pixels: int = 50,
        base_channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4),
        num_blocks: int = 2,
        attention_levels: Sequence[int] = (-3, -2, -1),
        num_heads: int = 4,
        num_groups: int = 32,
        segmentation_width: int = 64,
        checkpointing: bool = False,
        noise_weight: float = 1.0,
        focal_weight: float = 5.0,
        smooth_l1_weight: float = 1.0,
        focal_alpha: float = 0.5,
        focal_gamma: float = 4.0,
        focal_from_logits: bool = True,
        product_kind: ProductKind = "auto",
        anomalous_share: float = 0.5,
        exact_share: bool = True,
        max_perlin_scale: int = 5,
        mask_attempts: int = 50,
        image_share: Sequence[float] = (0.2, 0.8),
        learning_rate: float = 1e-4,
        segmentation_learning_rate: float = 1e-5,
        segmentation_schedule: SegmentationSchedule = "cosine",
        **shared: Any,  # noqa: ANN401
    ) -> None:
        given = check_arguments(DiffusionAD.__init__, locals())
        super().__init__(**shared)
        given |= self.shared
        self.learning_rate: float = given["learning_rate"]
        self.segmentation_learning_rate: float = given["segmentation_learning_rate"]
        self.segmentation_schedule: SegmentationSchedule = given["segmentation_schedule"]
        check_rates(
            learning_rate=self.learning_rate,
            segmentation_learning_rate=self.segmentation_learning_rate,
        )
        self.model = DiffusionADModel(**taken_by(DiffusionADModel, given))
        self.loss = DiffusionADLoss(**taken_by(DiffusionADLoss, given))
        self.sampler = AnomalySampler(**taken_by(AnomalySampler, given))
        self.check_sizes()

    @classmethod
    def from_official_checkpoint(cls, path: str | Path, **parameters: Any) -> "DiffusionAD":  # noqa: ANN401
        """Build a model with the weights of a checkpoint that the authors' code saved; its networks are inferred.

        Args:
            path: File ``params-best.pt`` or ``params-last.pt`` (nothing in it is run), or safetensors.
            parameters: Further parameters of the model.

        Returns:
            DiffusionAD: The model, to train on, predict, save and export.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read, or belongs to another model; names the keys.
        """
        checkpoint = read_official(path)
        model = cls(**{**infer_architecture(checkpoint), **parameters})
        import_official(checkpoint, model.model)
        return model

    def on_fit_start(self) -> None:
        """Choose the kind of product, set up textures and foreground masks, and seed the first epoch."""
        self.sampler.choose_kind(getattr(getattr(self.trainer, "datamodule", None), "category", None))
        super().on_fit_start()

    def training_terms(self, batch: ImageBatch) -> LossTerms:
        """Blend anomalies into normal images, add noise at both scales, and compute the loss."""
        images: torch.Tensor = batch.image  # type: ignore[assignment]
        with self.drawing(images.device):
            sample = self.sampler(images.float(), self.model, batch.image_path)
        prediction = self.model(sample.images, sample.timestep, sample.target.noise)
        if self.watched:
            self.training_panels = panels_of(sample, prediction, self.watched)
        return self.loss(prediction, sample.target)

    def evaluate(self, images: torch.Tensor) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """Reconstruct and segment a batch; its panels are the guided reconstruction and both estimates."""
        with torch.no_grad():
            predictions, denoised = self.model.predict(images)
        panels = {RECONSTRUCTION: denoised.reconstruction}
        if len(denoised.estimates) > 1:
            panels |= zip(PANELS, denoised.estimates, strict=True)
        return predictions, {name: panel.clamp(0, 1) for name, panel in panels.items()}

    @property
    def explained_timesteps(self) -> Sequence[int]:
        """Timesteps of the noise scales, the small one first."""
        return self.model.test_timestep.tolist()

    @property
    def evaluation_passes(self) -> float:
        """Number of times that both networks run to evaluate an image: once for each noise image."""
        return self.model.noise_draws

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Configure Adam with a rate for each of the two networks."""
        return configure_adam(self)  # type: ignore[return-value]
