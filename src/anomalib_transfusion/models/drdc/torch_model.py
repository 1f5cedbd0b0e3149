# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DRDC as a PyTorch module: images in, anomaly maps and scores out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_transfusion.checks import (
    Range,
    check_arguments,
    check_image_size,
    check_images,
    check_odd,
    check_range,
    taken_by,
)
from anomalib_transfusion.networks.acceleration import (
    Precision,
    autocast_network,
    buffers_kept,
    prefers_channels_last,
    run_network,
    working_dtype,
)
from anomalib_transfusion.training.numerics import seeded

from .base_model import BaseModel, Reconstruction, base_heat_map, in_pixels
from .category import UNKNOWN, chosen_category
from .heatmaps import Difference, Fusion, bound, box_mean, fuse, per_pixel, refinement_map, standardized
from .loss import Prediction
from .moments import Moments
from .refinement import Refinement
from .training_sample import TrainingSample

__all__ = ["DrdcModel", "Evaluation"]

Refine = Literal["all", "uncertain"]
Trained = Literal["both", "base", "refinement"]


class Evaluation(NamedTuple):
    """How images were evaluated.

    Attributes:
        categories: Index of the category that each image was taken for; C for the null category, ``(B,)``.
        base_map: Maps of the base model, in deviations from those of normal images, ``(B, 1, H, W)``.
        refinement: Maps of the refinement, likewise; ``None`` where there is none.
        painted: Painted images at each timestep with each cell size, ``(n_t, n_k, B, 3, H, W)``; ``None`` likewise.
    """

    categories: Tensor
    base_map: Tensor
    refinement: Tensor | None
    painted: Tensor | None


class DrdcModel(nn.Module):
    """Base model, refinement and category head, and the fusion of what they find.

    Args:
        image_size: Height and width of the images in pixels: positions are learned, so no other size is taken.
        num_categories: Number C of categories.
        gamma: Weight of the refinement in the final map; 0 for the base model alone, without a pass of the denoiser.
        filter_size: Side of the mean filter of the final map in pixels, odd.
        statistics_grid: Cells a side of the grid in whose cells maps are standardized each by its own statistics.
        difference: How an image is compared with what was painted.
        fusion: How the maps of both parts become one: their ``sum`` or their ``product``.
        refine: Which images are refined: ``all``, or those whose base score is ``uncertain``.
        uncertain_band: Lower and upper end of the base scores that are, in deviations from the mean of normal images.
        train: Which part is trained: ``both``, or one.
        category_confidence: Probability below which an image of unknown category is of the null category.
        precision: Of the denoiser's matrix products; the base model's are in single precision.
        channels_last: Whether the networks compute in channels-last memory; ``None``: where it is faster.
        compile: Whether the networks are compiled at their first call.
        parts: Parameters of :class:`BaseModel` and :class:`Refinement`.

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.
    """

    statistics: Tensor
    base_scores: Tensor

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        num_categories: int,
        gamma: Annotated[float, Range(0, 1000, "Use 1, or 0 for the base model alone.")],
        filter_size: Annotated[int, Range(1, 99, "Use 7.")],
        statistics_grid: Annotated[int, Range(1, 64, "Use 8, or 1 for the whole image.")],
        difference: Difference,
        fusion: Fusion,
        refine: Refine,
        uncertain_band: Sequence[float],
        train: Trained,
        category_confidence: Annotated[float, Range(0, 1, "Use 0.5.")],
        precision: Precision,
        channels_last: bool | None,
        compile: bool,  # noqa: A002
        **parts: Any,  # noqa: ANN401
    ) -> None:
        given = check_arguments(DrdcModel.__init__, locals()) | parts
        super().__init__()
        check_odd("filter_size", filter_size, "a pixel is in the middle of its filter")
        _check_band(uncertain_band)
        self.base = BaseModel(**taken_by(BaseModel, given))
        self.refinement = Refinement(**taken_by(Refinement, given))
        self.stride: int = max(self.base.stride, self.refinement.denoiser.stride)
        origin = {name: given[name] for name in ("backbone_layers", "feature_stride", "channel_multipliers")}
        check_image_size((image_size[0], image_size[1]), self.stride, origin)
        self.head = nn.Linear(self.base.channels, num_categories)
        # One row a category, the last one of all: for images of the null category.
        start = torch.tensor([0.0, 1, 0, 1]).view(1, 4, 1, 1)
        self.register_buffer("statistics", start.repeat(num_categories + 1, 1, statistics_grid, statistics_grid))
        self.register_buffer("base_scores", torch.tensor([0.0, 1]).repeat(num_categories + 1, 1))
        self.image_size = (image_size[0], image_size[1])
        self.gamma = gamma
        self.filter_size = filter_size
        self.difference: Difference = difference
        self.fusion: Fusion = fusion
        self.refine: Refine = refine
        self.uncertain_band = tuple(uncertain_band)
        self.trained: Trained = train
        self.category_confidence = category_confidence
        self.precision: Precision = precision
        self.channels_last = channels_last
        if compile:
            self.base.compile()
        for part, left in ((self.base, "refinement"), (self.head, "refinement"), (self.refinement, "base")):
            if train == left:
                part.requires_grad_(requires_grad=False)

    @property
    def num_categories(self) -> int:
        """Number C of categories."""
        return self.head.out_features

    @property
    def tiler(self) -> None:
        """There is none; anomalib's ``TilerConfigurationCallback`` sets one."""
        return

    @tiler.setter
    def tiler(self, tiler: Any) -> None:  # noqa: ANN401, PLR6301
        if tiler is not None:
            msg = (
                f"tile_size={(tiler.tile_size_h, tiler.tile_size_w)}: the base model takes whole images of one size, "
                "for it learns each position; expected no tiles. Leave the TilerConfigurationCallback out, and set the "
                "image size with the Resize of the pre-processor."
            )
            raise ValueError(msg)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DrdcModel":
        """Convert weights or move everything; statistics stay in their precision."""
        with buffers_kept(self):
            return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Load weights; statistics of another grid are fitted to this one until they are measured anew."""
        table = state_dict.get(f"{prefix}statistics")
        if table is not None and table.ndim == 4 and table.shape[:2] == self.statistics.shape[:2]:
            fitted = nn.functional.adaptive_avg_pool2d(table, self.statistics.shape[-1])
            state_dict = {**state_dict, f"{prefix}statistics": fitted}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def train(self, mode: bool = True) -> "DrdcModel":
        """Set training or evaluation mode; a part that is not trained stays in evaluation mode."""
        super().train(mode)
        if self.trained == "refinement":
            self.base.eval()
        return self

    def forward(self, images: Tensor, sample: TrainingSample | None = None) -> Prediction | InferenceBatch:
        """Predict what the loss needs in training mode, anomaly maps in evaluation mode.

        Args:
            images: Evaluation mode: images in [0, 1], ``(B, 3, H, W)``. Training mode: those of the sample.
            sample: Training mode: what was drawn for a batch.

        Returns:
            Training mode: features, logits and estimates. Evaluation mode: ``pred_score`` ``(B,)`` and ``anomaly_map``
            ``(B, 1, H, W)``, both in [0, 1].

        Raises:
            TypeError: If the images are not floating point numbers.
            ValueError: If their shape is wrong, they are not in [0, 1] in evaluation mode, or training lacks a sample.
        """
        if not self.training:
            return self.predict(images)[0]
        if sample is None:
            msg = (
                "There is no sample: in training mode DrdcModel needs what draw_sample(...) draws beside the images. "
                "Pass it, or call .eval() first to get anomaly maps."
            )
            raise ValueError(msg)
        self._check(images)
        features = logits = estimate = None
        if self.trained != "refinement":
            rows, columns = self.base.grid
            # Dropout too: nothing that is drawn depends on what was drawn before.
            with seeded(sample.seed, images.device):
                noise = torch.randn(len(images), rows * columns, self.base.channels, device=images.device)
                features, logits = self._reconstruct(sample.images, noise)
        if self.trained != "base":
            with autocast_network(self.precision, images.device):
                estimate = self.refinement.denoise(
                    sample.corrupted,
                    sample.mask,
                    sample.timestep,
                    sample.conditions,
                )
        return Prediction(features, logits, estimate)

    @torch.no_grad()
    def predict(self, images: Tensor, categories: Tensor | None = None) -> tuple[InferenceBatch, Evaluation]:
        """Return anomaly maps and scores together with what they come from.

        Args:
            images: Images in [0, 1], ``(B, 3, H, W)``.
            categories: Index of each image's category, ``(B,)``; -1, or ``None`` for all, where the head is to tell it.

        Returns:
            The batch of predictions, and how the images were evaluated.

        Raises:
            TypeError: If the images are not floating point numbers.
            ValueError: If their shape is wrong, or values are not in [0, 1] (but for the overshoot of a resize).
        """
        self._check(images)
        check_range(images)
        x = 2 * images.to(working_dtype(self.refinement)) - 1
        features, logits = self._reconstruct(x)
        told = chosen_category(logits, self.category_confidence)
        categories = told if categories is None else torch.where(categories == UNKNOWN, told, categories)
        base_map = base_heat_map(features.features, features.reconstructed, self.image_size)
        statistics = per_pixel(self.statistics[categories].to(x.dtype), self.image_size)
        painted = None
        refined = None
        if self.gamma:
            painted, refined = self._refine(x, categories, base_map, statistics)
        fused = fuse(base_map, refined, statistics, self.gamma, self.filter_size, self.fusion)
        anomaly_map = bound(fused)
        standard = None if refined is None else standardized(refined, statistics[:, 2:])
        found = Evaluation(categories, standardized(base_map, statistics[:, :2]), standard, painted)
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map), found

    @torch.no_grad()
    def measure(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Measure the maps of normal images: mean and deviation of their pixels, then of the base model's scores.

        Args:
            batches: Normal images in [0, 1], ``(B, 3, H, W)``, and the index of each one's category, ``(B,)``.
        """
        was = self.training
        self.eval()
        shape = (self.num_categories, *self.statistics.shape[2:])
        base, refinement = (Moments(shape, self.statistics.device) for _ in range(2))
        scored: dict[int, list[Tensor]] = {}
        for images, categories in batches:
            x = 2 * images.to(working_dtype(self.refinement)) - 1
            features, _ = self._reconstruct(x)
            base_map = base_heat_map(features.features, features.reconstructed, self.image_size)
            base.add(categories, base_map[:, 0])
            if self.gamma:
                refinement.add(categories, self._paint(x, categories)[1][:, 0])
            # Kept by token: scores are of maps that are standardized by what is being measured.
            distances = base_heat_map(features.features, features.reconstructed, self.base.grid)
            for index in categories.unique().tolist():
                scored.setdefault(index, []).append(distances[categories == index])
            scored.setdefault(self.num_categories, []).append(distances)
        base.write(self.statistics[:, :2])
        refinement.write(self.statistics[:, 2:])
        for index, parts in scored.items():
            statistics = per_pixel(self.statistics[index : index + 1, :2].to(parts[0].dtype), self.image_size)
            scores = torch.cat([self._score(in_pixels(part, self.image_size), statistics) for part in parts]).double()
            self.base_scores[index] = torch.stack((scores.mean(), scores.std(correction=0))).to(self.base_scores.dtype)
        self.train(was)

    def _check(self, images: Tensor) -> None:
        """Raise an error if a tensor is no batch of images of the size that the model was built for."""
        check_images(images, self.stride)
        size = (images.shape[-2], images.shape[-1])
        if size != self.image_size:
            msg = (
                f"The images are {size[0]}x{size[1]} pixels, and the model is for {self.image_size[0]}x"
                f"{self.image_size[1]} (height x width), for it learns each position; expected that size. Set it with "
                "the Resize of the pre-processor, and train on the size that you test."
            )
            raise ValueError(msg)

    def _reconstruct(self, x: Tensor, noise: Tensor | None = None) -> tuple[Reconstruction, Tensor]:
        """Run base model and category head on images in [-1, 1]."""
        given = (x,) if noise is None else (x, noise)
        channels_last = prefers_channels_last(x) if self.channels_last is None else self.channels_last
        found = run_network(self.base, *given, channels_last=channels_last)
        found = Reconstruction(*(part.to(x.dtype) for part in found))
        return found, self.head(found.summary.to(self.head.weight.dtype)).to(x.dtype)

    def _paint(self, x: Tensor, categories: Tensor) -> tuple[Tensor, Tensor]:
        """Return painted images, and the maps of the refinement."""
        with autocast_network(self.precision, x.device):
            painted = self.refinement.paint(x, categories)
        return painted, refinement_map(self.difference, x, painted.flatten(0, 1))

    def _refine(self, x: Tensor, categories: Tensor, base_map: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Paint all images, or those whose base score leaves a doubt; of the others, the image itself is returned.

        Their maps are those of a normal image, so that scores of both kinds compare.
        """
        if self.refine == "all" or torch.compiler.is_compiling():
            return self._paint(x, categories)
        score = self._score(base_map, statistics[:, :2])[:, None]
        score = standardized(score, self.base_scores[categories].to(x.dtype))[:, 0]
        lowest, highest = self.uncertain_band
        doubtful = ((score >= lowest) & (score <= highest)).nonzero().flatten()
        counts = (len(self.refinement.timesteps), len(self.refinement.cell_sizes))
        painted = x.expand(*counts, *x.shape).clone()
        maps = statistics[:, 2:3].expand_as(base_map).clone()
        if len(doubtful):
            painted[:, :, doubtful], maps[doubtful] = self._paint(x[doubtful], categories[doubtful])
        return painted, maps

    def _score(self, base_map: Tensor, statistics: Tensor) -> Tensor:
        """Return the base model's own score of each image, ``(B,)``."""
        return box_mean(standardized(base_map, statistics), self.filter_size).amax(dim=(1, 2, 3))


def _check_band(band: Sequence[float]) -> None:
    """Raise ValueError if the ends of the band of uncertain scores are not two, the lower first."""
    if len(band) != 2 or band[0] >= band[1]:
        msg = (
            f"uncertain_band={list(band)} is impossible; expected two numbers, the smaller first. Use (-1, 4), in "
            "deviations of the scores of normal images."
        )
        raise ValueError(msg)
