# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""TransFusion for anomalib's engine: its parameters, training step and evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule

from anomalib_transfusion.checks import check_arguments, taken_by
from anomalib_transfusion.models.loop_export import LoopExport
from anomalib_transfusion.models.pictures import Explanation
from anomalib_transfusion.models.synthetic_anomalies import SyntheticAnomaliesMixin
from anomalib_transfusion.visualization.panels import RECONSTRUCTION

from .film_strip import ROW_NAMES, moments_of
from .loss import LossTerms, TransFusionLoss
from .memory import FillsMemory
from .official import import_official, infer_architecture, read_official
from .optimizer import ScheduledAdamWMixin
from .torch_model import MaskAggregation, TransFusionModel
from .training_sample import TrainingSampler, panels_of
from .transparency import Schedule

__all__ = ["TransFusion"]


class TransFusion(FillsMemory, ScheduledAdamWMixin, SyntheticAnomaliesMixin, LoopExport, AnomalibModule):  # type: ignore[misc]
    """TransFusion: a transparency-based diffusion model for anomaly detection (Fučka et al., ECCV 2024).

    The model learns from normal images with synthetic anomalies. At test time it makes anomalies transparent step by
    step while it localizes them. Image sides must be multiples of
    ``patch_size * 2 ** (len(channel_multipliers) - 1)``, and of the strides of ``backbone_layers``.

    Args:
        timesteps: Number of timesteps T of the diffusion process.
        schedule: Transparency schedule: ``linear``, ``quadratic`` or ``root`` (paper Table 4).
        base_channels: Channels of the network at the highest resolution, a multiple of 8.
        channel_multipliers: Channels of each level as multiples of ``base_channels``, highest
            resolution first.
        num_blocks: Number of residual blocks in each level.
        attention_levels: Levels with attention; negative ones count from the lowest resolution.
        positional_encoding: Whether the network sees the row of each pixel.
        previous_mask: Whether the network sees the mask of the step before.
        num_inference_steps: Network passes at test time, over timesteps spread evenly; ``None`` runs all
            of them. No retraining is needed.
        start_timestep: First timestep of the reverse process. ``None`` starts where the anomaly is opaque
            (the paper's); the published code starts one step lower, at 18 of 20.
        mask_divisor: What the sum of the masks is divided by. ``None`` gives their mean (the paper's); the
            published code divides by one more, 19.
        mask_aggregation: ``mean`` of the masks of all steps or the ``last`` mask only.
        discriminative_weight: Weight lambda of the masks against the reconstruction error in the anomaly map
            (Eq. 10), in [0, 1]; 1 uses the masks alone, 0 the reconstruction error alone.
        filter_size: Side in pixels of the mean filter over the anomaly map (Eq. 10), odd.
        normal_weight: Weight of the normal appearance loss (Eq. 5). A weight of 0 switches a loss off.
        mask_weight: Weight of the mask loss (Eq. 6).
        anomaly_weight: Weight of the anomaly appearance loss (Eq. 7).
        consistency_weight: Weight of the consistency loss (Eq. 8).
        focal_weight: Weight alpha of the focal loss inside of the mask loss (Eq. 6).
        rotation_probability: Share of the training samples that are rotated by up to 20 degrees.
        first_step_share: Share of the training samples at the timestep where the reverse process starts, in [0, 1],
            to train for few passes, or one. The other samples have uniformly drawn timesteps; 0 is the paper's.
        patch_size: Side in pixels of the patches whose pixels are channels of the network: space-to-depth before it,
            depth-to-space behind it. 1 for pixels (the paper's).
        qk_norm: Whether queries and keys of the attention are normalized, so that training is stable at a higher
            learning rate; in the paper they are not.
        backbone: timm's name of a network with ``features_only``, pretrained and frozen, whose features of x_t the
            encoder sees as well: ``tf_efficientnet_lite0``, ``resnet18``, ...; ``None`` for none (the paper's). Its
            weights are loaded when a training starts, and kept in checkpoints and exports.
        backbone_layers: Names of its layers in timm's ``feature_info``, such as ``layer1``; ``None`` for those of
            stride 4, 8 and 16. Each is added at the level of its stride, a coarser one at the last level.
        memory_size: Number of feature vectors of training images, at most a tenth of all, to which the distance is an
            input and where the mask's logits begin (PatchCore, Roth et al. 2022); 0 for none (the paper's).
        memory_weight: Weight of the mask from that distance alone in the anomaly map, where the network's has 1.
        shared: Parameters of :class:`ScheduledAdamWMixin`, :class:`SyntheticAnomaliesMixin` and :class:`DetectorMixin`.

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.

    Example:
        >>> from anomalib.data import MVTecAD
        >>> from anomalib.engine import Engine
        >>> from anomalib.models import TransFusion
        >>> model = TransFusion()
        >>> engine = Engine(max_epochs=1500)
        >>> engine.train(model=model, datamodule=MVTecAD(category="bottle", train_batch_size=8))
    """

    sampler: TrainingSampler
    trained_for = (
        "timesteps",
        "schedule",
        "base_channels",
        "channel_multipliers",
        "num_blocks",
        "attention_levels",
        "positional_encoding",
        "previous_mask",
        "patch_size",
        "qk_norm",
        "backbone",
        "backbone_layers",
        "memory_size",
    )
    weights_prefix = "model.network."
    stride_parameters = ("patch_size", "channel_multipliers", "backbone_layers")
    explanation = Explanation(ROW_NAMES, moments_of)

    def __init__(
        self,
        timesteps: int = 20,
        schedule: Schedule = "linear",
        base_channels: int = 64,
        channel_multipliers: Sequence[int] = (1, 2, 4, 8),
        num_blocks: int = 2,
        attention_levels: Sequence[int] = (-2, -1),
        positional_encoding: bool = True,
        previous_mask: bool = True,
        num_inference_steps: int | None = None,
        start_timestep: int | None = None,
        mask_divisor: int | None = None,
        mask_aggregation: MaskAggregation = "mean",
        discriminative_weight: float = 0.95,
        filter_size: int = 7,
        normal_weight: float = 1.0,
        mask_weight: float = 1.0,
        anomaly_weight: float = 1.0,
        consistency_weight: float = 1.0,
        focal_weight: float = 5.0,
        rotation_probability: float = 0.3,
        first_step_share: float = 0.0,
        patch_size: int = 1,
        qk_norm: bool = False,
        backbone: str | None = None,
        backbone_layers: Sequence[str] | None = None,
        memory_size: int = 0,
        memory_weight: float = 0.5,
        **shared: Any,  # noqa: ANN401
    ) -> None:
        given = check_arguments(TransFusion.__init__, locals())
        super().__init__(**shared)
        given |= self.shared
        self.model = TransFusionModel(**taken_by(TransFusionModel, given))
        self.loss = TransFusionLoss(**taken_by(TransFusionLoss, given))
        self.sampler = TrainingSampler(**taken_by(TrainingSampler, given))
        self.check_sizes()

    @classmethod
    def from_official_checkpoint(cls, path: str | Path, **parameters: Any) -> "TransFusion":  # noqa: ANN401
        """Build a model with the weights of a checkpoint that the authors' code saved; its network is inferred.

        Args:
            path: Pickled state dict (tensors only; nothing in the file is run) or safetensors.
            parameters: Further parameters of the model. ``start_timestep=18, mask_divisor=19`` evaluates as the
                published code does; the default follows the paper.

        Returns:
            TransFusion: The model, to train on, predict, save and export.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read, or belongs to another model; names the keys.
        """
        state = read_official(path)
        model = cls(**{**infer_architecture(state), **parameters})
        import_official(state, model.model.network)
        return model

    def training_terms(self, batch: ImageBatch) -> LossTerms:
        """Blend synthetic anomalies into a batch of normal images at random timesteps, and compute the loss (Eq. 9)."""
        images: torch.Tensor = batch.image  # type: ignore[assignment]
        with self.drawing(images.device):
            sample = self.sampler(images.float(), self.model.beta, batch.image_path)
        prediction = self.model(sample.x_t, sample.previous_mask, sample.timestep)
        beta = self.model.beta[sample.timestep].view(-1, 1, 1, 1)
        previous_beta = self.model.beta[sample.timestep - 1].view(-1, 1, 1, 1)
        if self.watched:
            self.training_panels = panels_of(sample, prediction, beta, self.watched)
        return self.loss(prediction, sample.target, sample.x_t, beta, previous_beta)

    def evaluate(self, images: torch.Tensor) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """Run the reverse process on a batch; its panel is the reconstruction x_0."""
        predictions, process = self.model.predict(images)
        return predictions, {RECONSTRUCTION: ((process.reconstruction + 1) / 2).clamp(0, 1)}

    @property
    def explained_timesteps(self) -> Sequence[int]:
        """Timesteps of the reverse process."""
        return self.model.inference_timesteps

    @property
    def evaluation_passes(self) -> float:
        """Network passes of the reverse process."""
        return len(self.model.inference_timesteps)
