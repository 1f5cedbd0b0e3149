# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DRDC for anomalib's engine: its parameters, its training step and what it evaluates images to."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Callback

from anomalib_transfusion.checks import Range, check_arguments, taken_by
from anomalib_transfusion.models.default_parts import DEFAULT_IMAGE_SIZE
from anomalib_transfusion.models.graph_export import GraphExport
from anomalib_transfusion.models.pictures import Explanation
from anomalib_transfusion.visualization.panels import RECONSTRUCTION

from .base_model import BaseModel
from .category import CategoryNames, names_of_data
from .conditioning import Conditioning
from .diffusion import Known, Process
from .film_strip import ROW_NAMES, moments_of
from .heatmaps import Difference, Fusion, bound
from .loss import LossTerms, drdc_loss
from .optimizer import TwoRatesMixin
from .refinement import Refinement
from .standardization import MeasuresNormalMaps
from .torch_model import DrdcModel, Refine, Trained
from .training_sample import draw_sample, panels_of

__all__ = ["Drdc"]

CATEGORIES_KEY = "drdc_categories"


class Drdc(MeasuresNormalMaps, TwoRatesMixin, GraphExport, AnomalibModule):  # type: ignore[misc]
    """DRDC: diffusion refinement with dual conditioning, one model for all categories (after Zhan et al. 2024).

    After the published abstract; the details are ours. A transformer reconstructs features of a frozen network, for a
    coarse map. A diffusion model that knows the category paints disjoint parts of the image anew at full resolution;
    where it differs from the image, the map is corrected. Learns from normal images of one category or several
    (``MultiCategory``).

    Args:
        categories: Names of the categories; ``None`` for those of the training data.
        backbone: timm's name of the network whose features are reconstructed. Its pretrained weights are loaded when a
            training starts, and kept in checkpoints.
        backbone_layers: Names of its layers in timm's ``feature_info``, such as ``blocks.2``; ``None`` for those of
            stride 2, 4, 8 and 16.
        feature_stride: Pixels a token of the base model is wide: 16, or 8 for images below 224 pixels.
        normalize_features: Whether each channel of the features is normalized by its running statistics.
        feature_pooling: Side in tokens of the mean filter of the features, odd, as Patchcore's 3; 1 for none.
        hidden_dim: Width of the transformer, a multiple of 8.
        num_layers: Layers of its encoder, and of its decoder.
        neighbor_size: Side in tokens of the window around itself that no token sees, odd; at most half of the grid.
        jitter_scale: Scale of the noise that is added to the features in training.
        dropout: Share of its attention weights and hidden units that a training step leaves out.
        schedule_length: Length T of the noise schedule.
        timesteps: Timesteps that are run, falling (the paper's n_t of them, from t_nt on); the first is the largest
            that is trained.
        cell_sizes: Sides in pixels of the cells that are hidden, each of which divides the image.
        num_sets: Number of disjoint sets of cells (the paper's n_s).
        process: How hidden pixels are corrupted: ``shift`` takes them away altogether; ``ddpm`` adds noise in training
            and begins from the mean of the known ones in testing; ``noised`` adds noise to the image in both, so that
            they show through, and takes a single set as well: diffusion without inpainting, to compare with.
        known: Whether the pixels that are not hidden are ``clean``, or as ``noisy`` as the others.
        test_conditioning: What ties an estimate to the image at test time: its ``known_pixels`` alone, its colors
            around (``drift``), or its ``low_frequency``.
        guidance_weight: Weight of the guidance without a classifier, which doubles the passes; 0 for none.
        category_dropout: Share of the training samples whose category is not told to the denoiser.
        category_confidence: Probability below which the category head leaves a category open.
        difference: How an image is compared with what was painted: ``absolute``, ``high_pass``, ``gradient`` or
            ``structural``.
        fusion: How the maps of both parts become one: their ``sum``, or their ``product``, both cut off below 0.
        gamma: Weight of the refinement in the map (the paper's gamma); 0 for the base model alone.
        filter_size: Side of the mean filter of the map in pixels, odd (the paper's m).
        refine: Which images are refined: ``all``, or those whose base score is ``uncertain``; exports refine all.
        uncertain_band: Lower and upper end of these scores, in deviations from the mean of normal images.
        statistics_images: Training images of each category by which its maps are standardized.
        statistics_grid: Cells a side of a grid over the image, in each of which maps are standardized by statistics of
            their own, bilinear in between: borders, and parts that always lie alike, differ more in some places than in
            others. 1 for one mean and deviation of all pixels.
        passes_at_once: Passes of the denoiser that run in one batch.
        base_channels: Channels of the denoiser at the highest resolution.
        channel_multipliers: Channels of each of its levels as multiples of ``base_channels``, highest resolution first.
        num_blocks: Its residual blocks a level.
        attention_levels: Its levels with attention; negative ones count from the lowest resolution.
        train: Which part is trained: ``both``, ``base`` or ``refinement``; the other one's passes are left out.
        shared: As of :class:`TwoRatesMixin` and :class:`DetectorMixin`.

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.

    Example:
        >>> from anomalib.data import MultiCategory
        >>> from anomalib.engine import Engine
        >>> from anomalib.models import Drdc
        >>> model = Drdc()
        >>> engine = Engine(max_epochs=1000)
        >>> engine.train(model=model, datamodule=MultiCategory(dataset="MVTecAD", train_batch_size=16))
    """

    trained_for = (
        "backbone",
        "backbone_layers",
        "feature_stride",
        "normalize_features",
        "feature_pooling",
        "hidden_dim",
        "num_layers",
        "neighbor_size",
        "schedule_length",
        "process",
        "known",
        "base_channels",
        "channel_multipliers",
        "num_blocks",
        "attention_levels",
    )
    weights_prefix = "model.refinement."
    explanation = Explanation(ROW_NAMES, moments_of)

    def __init__(
        self,
        categories: Sequence[str] | None = None,
        backbone: str = "efficientnet_b4",
        backbone_layers: Sequence[str] | None = None,
        feature_stride: int = 16,
        normalize_features: bool = False,
        feature_pooling: int = 1,
        hidden_dim: int = 256,
        num_layers: int = 4,
        neighbor_size: int = 7,
        jitter_scale: float = 20.0,
        dropout: float = 0.1,
        schedule_length: int = 1000,
        timesteps: Sequence[int] = (250, 125, 50),
        cell_sizes: Sequence[int] = (8, 16),
        num_sets: int = 4,
        process: Process = "shift",
        known: Known = "clean",
        test_conditioning: Conditioning = "known_pixels",
        guidance_weight: float = 0.0,
        category_dropout: Annotated[float, Range(0, 1, "Use 0.1.")] = 0.1,
        category_confidence: float = 0.5,
        difference: Difference = "absolute",
        fusion: Fusion = "sum",
        gamma: float = 1.0,
        filter_size: int = 7,
        refine: Refine = "all",
        uncertain_band: Sequence[float] = (-1.0, 4.0),
        statistics_images: Annotated[int, Range(1, 100_000, "Use 64.")] = 64,
        statistics_grid: int = 8,
        passes_at_once: int = 16,
        base_channels: int = 32,
        channel_multipliers: Sequence[int] = (1, 2, 4, 4),
        num_blocks: int = 2,
        attention_levels: Sequence[int] = (-1,),
        train: Trained = "both",
        **shared: Any,  # noqa: ANN401
    ) -> None:
        given = check_arguments(Drdc.__init__, locals())
        super().__init__(**shared)
        self._given = given | self.shared
        self.names = CategoryNames(given["categories"])
        self.category_dropout: float = given["category_dropout"]
        self.statistics_images: int = given["statistics_images"]
        self.model = self._build()
        self.check_sizes()

    def configure_callbacks(self) -> Sequence[Callback]:
        """Take the categories of the data before a training; callbacks may copy the model then."""
        if self.trainer.training:
            self.names.learn(names_of_data(getattr(self.trainer, "datamodule", None)))
            self._fit_size()
        return super().configure_callbacks()

    def training_terms(self, batch: ImageBatch) -> LossTerms:
        """Hide parts of normal images, reconstruct features and pixels, and compute the loss."""
        images = 2 * batch.image.float() - 1  # type: ignore[union-attr]
        categories = self.names.training_indices(batch, getattr(self.trainer, "datamodule", None))
        with self.drawing(images.device):
            sample = draw_sample(images, categories, self.model.refinement, self.category_dropout)
        prediction = self.model(images, sample)
        if self.watched and prediction.estimate is not None:
            self.training_panels = panels_of(sample, prediction.estimate, self.watched)
        return drdc_loss(prediction, images, sample.mask, categories)

    def evaluate_batch(self, batch: ImageBatch) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """Evaluate the images of a batch with the categories that batch or data tell."""
        categories = self.names.indices(batch, getattr(self._trainer, "datamodule", None))
        return self.evaluate(batch.image, categories)  # type: ignore[arg-type]

    def evaluate(
        self,
        images: torch.Tensor,
        categories: torch.Tensor | None = None,
    ) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """Return scores and maps; the panels are what was painted last, and the maps of both parts.

        Args:
            images: Images in [0, 1], ``(B, 3, H, W)``.
            categories: Index of each image's category, ``(B,)``; -1, or ``None`` for all, where the head tells it.
        """
        predictions, found = self.model.predict(images, categories)
        panels = {"Base map": bound(found.base_map)}
        if found.painted is not None and found.refinement is not None:
            panels = {
                RECONSTRUCTION: ((found.painted[-1].mean(dim=0) + 1) / 2).clamp(0, 1),
                **panels,
                "Refinement": bound(found.refinement),
            }
        return predictions, panels

    @property
    def explained_timesteps(self) -> Sequence[int]:
        """Timesteps of the refinement, the largest first."""
        return self.model.refinement.timesteps if self.model.gamma else ()

    @property
    def evaluation_passes(self) -> float:
        """Passes of the denoiser for an image, and one of the base model; a training step takes about three."""
        return 1 + (self.model.refinement.num_passes if self.model.gamma else 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the names of the categories."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CATEGORIES_KEY] = list(self.names.names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take names of categories and image size from a checkpoint, and build what depends on their number.

        Raises:
            ValueError: If it is of another model, of other parameters or categories, or was not trained up to the
                timesteps that are to be run.
        """
        super().on_load_checkpoint(checkpoint)
        trained = checkpoint.get("hyper_parameters", {}).get("timesteps", self.model.refinement.timesteps)
        if max(self.model.refinement.timesteps) > max(trained):
            msg = (
                f"timesteps={list(self.model.refinement.timesteps)} begin beyond those of the checkpoint, which was "
                f"trained up to {max(trained)}; expected at most that. Choose smaller ones, or train with these."
            )
            raise ValueError(msg)
        self.names.restore(checkpoint.get(CATEGORIES_KEY) or self.names.names)
        self._fit_size()

    def _build(self) -> DrdcModel:
        """Build networks for the number of categories and the size that the pre-processor gives."""
        size = self.input_size or DEFAULT_IMAGE_SIZE
        given = self._given | {"image_size": tuple(size), "num_categories": len(self.names)}
        parts = [taken_by(part, given) for part in (DrdcModel, BaseModel, Refinement)]
        return DrdcModel(**{name: value for part in parts for name, value in part.items()})

    def _fit_size(self) -> None:
        """Build the networks anew where the number of categories or the size of the images has changed.

        What depends on neither keeps its weights: those of the backbone may be the user's own.
        """
        size = tuple(self.input_size or DEFAULT_IMAGE_SIZE)
        before = self.model
        if (before.num_categories, before.image_size) == (len(self.names), size):
            return
        self.model = self._build().to(before.statistics.device).train(before.training)
        fitting = self.model.state_dict()
        weights = before.state_dict().items()
        kept = {name: weight for name, weight in weights if weight.shape == fitting[name].shape}
        self.model.load_state_dict(kept, strict=False)
