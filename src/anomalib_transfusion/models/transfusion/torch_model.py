# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""TransFusion as a PyTorch module: images in, anomaly maps and scores out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.checks import (
    Range,
    check_arguments,
    check_images,
    check_odd,
    check_range,
    check_shape,
    taken_by,
)
from anomalib_transfusion.models.loop_export import Carry, scan_steps
from anomalib_transfusion.networks.acceleration import (
    Precision,
    autocast_network,
    buffers_kept,
    prefers_channels_last,
    run_network,
    working_dtype,
)
from anomalib_transfusion.training.tiling import check_tiler, predict_tiles

from .transparency import Schedule, inference_timesteps, reverse_step, transparency_schedule
from .unet import Prediction, RememberingPrediction, ResUNet

__all__ = ["MaskAggregation", "ReverseProcess", "ReverseStep", "TransFusionModel"]

MaskAggregation = Literal["mean", "last"]
AnyPrediction = Prediction | RememberingPrediction

Divisor = Annotated[
    int | None,
    Range(1, 1_000_000, "leave it out to divide by the number of passes.", "must be from {least} to {most};"),
]
Weight = Annotated[
    float,
    Range(0, 1, "1 uses the mask alone, 0 the reconstruction error alone.", "(lambda of Eq. 10) must be in [0, 1]:"),
]


class ReverseStep(NamedTuple):
    """One step of the reverse process, as passed to its callback.

    Attributes:
        timestep: Timestep t.
        next_timestep: Timestep of ``x_next``.
        x_t: Image before the step, in [-1, 1], ``(B, 3, H, W)``.
        mask: Mask probability M_t in [0, 1], ``(B, 1, H, W)``.
        anomaly: Anomaly appearance in about [-1, 1] (the prediction divided by beta_t), ``(B, 3, H, W)``.
        normal: Normal appearance in about [-1, 1], ``(B, 3, H, W)``.
        x_next: Image after the step, ``(B, 3, H, W)``.
    """

    timestep: int
    next_timestep: int
    x_t: torch.Tensor
    mask: torch.Tensor
    anomaly: torch.Tensor
    normal: torch.Tensor
    x_next: torch.Tensor


class ReverseProcess(NamedTuple):
    """Result of the whole reverse process.

    Attributes:
        mask: Mean of the mask probabilities of all steps (M_disc), or the last one, ``(B, 1, H, W)``.
        reconstruction: The anomaly-free image x_0 in about [-1, 1], ``(B, 3, H, W)``.
    """

    mask: torch.Tensor
    reconstruction: torch.Tensor


class _Step(NamedTuple):
    """Mask probability, predictions of the other two heads, the image after the step, and the memory's mask."""

    mask: torch.Tensor
    anomaly: torch.Tensor
    normal: torch.Tensor
    x_next: torch.Tensor
    memory: torch.Tensor | None


class TransFusionModel(nn.Module):
    """The network of TransFusion and its reverse process (paper Sections 3.1, 3.2 and 3.4).

    Args:
        timesteps: Number of timesteps T; the network is trained on t = 1 ... T - 1.
        schedule: Transparency schedule: ``linear``, ``quadratic`` or ``root``.
        base_channels: Channels at the highest resolution, a multiple of 8.
        channel_multipliers: Channels of each level as multiples of ``base_channels``, highest resolution first.
        num_blocks: Number of residual blocks in each level.
        attention_levels: Levels with attention; negative ones count from the lowest resolution.
        positional_encoding: Whether the sine of the row index is an input of the network.
        previous_mask: Whether the previous mask estimate is an input of the network.
        num_inference_steps: Network passes at test time; ``None`` runs all.
        start_timestep: First timestep of the reverse process; ``None`` starts at T - 1 (the paper's).
        mask_divisor: Divisor of the sum of masks; ``None`` divides by the number of passes (the mean).
        mask_aggregation: ``mean`` of the masks of all steps, or the ``last`` mask only.
        discriminative_weight: Weight lambda of the mask against the reconstruction error (Eq. 10), in [0, 1].
        filter_size: Side of the mean filter in pixels (Eq. 10), odd.
        precision: Precision of the network's matrix products: ``bfloat16``, ``single``, or ``auto`` for bfloat16 if the
            device is faster with it. Weights, losses and the reverse process stay in single precision. If the weights
            were converted, as by ``half()``, the network computes in their precision; results are in double precision
            with double weights, otherwise in single.
        channels_last: Whether the network computes in channels-last memory. ``None`` for where it is faster: in
            bfloat16 on a GPU or with AMX, and in inference on any CPU except for a single small image.
        compile: Whether the network is compiled by ``torch.compile`` at its first call.
        patch_size: Side in pixels of the patches whose pixels are channels of the network.
        qk_norm: Whether queries and keys of the attention are normalized.
        backbone: timm's name of a pretrained network whose features the network sees; ``None`` for none.
        backbone_layers: Names of its layers; ``None`` for those of stride 4, 8 and 16.
        memory_size: Number of feature vectors of normal images that features are compared with; 0 for none.
        memory_weight: Weight of the memory's mask against the network's, which has 1.

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.
    """

    beta: torch.Tensor

    def __init__(
        self,
        *,
        timesteps: int,
        schedule: Schedule,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_blocks: int,
        attention_levels: Sequence[int],
        positional_encoding: bool,
        previous_mask: bool,
        num_inference_steps: int | None,
        start_timestep: int | None,
        mask_divisor: Divisor,
        mask_aggregation: MaskAggregation,
        discriminative_weight: Weight,
        # Far beyond any use, and far below what takes minutes for one image.
        filter_size: Annotated[int, Range(1, 999, "The paper's is 7.")],
        precision: Precision,
        channels_last: bool | None,
        compile: bool,  # noqa: A002
        patch_size: int,
        qk_norm: bool,
        backbone: str | None,
        backbone_layers: Sequence[str] | None,
        memory_size: int,
        memory_weight: Annotated[float, Range(0, 1000, "0 is the network's mask alone.")],
    ) -> None:
        given = check_arguments(TransFusionModel.__init__, locals())
        super().__init__()
        beta = transparency_schedule(given["timesteps"], given["schedule"])
        passes, start = given["num_inference_steps"], given["start_timestep"]
        self.inference_timesteps = inference_timesteps(given["timesteps"], passes, start)
        check_odd("filter_size", given["filter_size"], "a pixel is in the middle of its filter")
        self.network = ResUNet(**taken_by(ResUNet, given))
        # Not in the state dict: the schedule follows from the parameters, and the authors' checkpoints lack it.
        self.register_buffer("beta", beta, persistent=False)
        self.timesteps: int = given["timesteps"]
        self.mask_divisor: int | None = given["mask_divisor"]
        self.mask_aggregation: MaskAggregation = given["mask_aggregation"]
        self.discriminative_weight: float = given["discriminative_weight"]
        self.filter_size: int = given["filter_size"]
        self.memory_weight: float = given["memory_weight"]
        self.precision: Precision = given["precision"]
        self.channels_last: bool | None = given["channels_last"]
        if given["compile"]:
            self.network.compile()
        self._tiler: Tiler | None = None

    @property
    def stride(self) -> int:
        """Number that the sides of images must be multiples of."""
        return self.network.stride

    @property
    def tiler(self) -> Tiler | None:
        """The tiler of anomalib's ``TilerConfigurationCallback``. Only the network runs on tiles."""
        return self._tiler

    @tiler.setter
    def tiler(self, tiler: Tiler | None) -> None:
        if tiler is not None:
            check_tiler(tiler, self.stride)
        self._tiler = tiler

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "TransFusionModel":
        """Convert or move weights and buffers; the schedule stays in single precision."""
        with buffers_kept(self):
            return super()._apply(fn, recurse)

    def _predict(self, x_t: torch.Tensor, previous_mask: torch.Tensor, timestep: torch.Tensor) -> AnyPrediction:
        """Run the network, on tiles if a tiler is set."""
        channels_last = prefers_channels_last(x_t) if self.channels_last is None else self.channels_last
        network = partial(run_network, self.network, channels_last=channels_last)
        if self.tiler is None:
            return network(x_t, previous_mask, timestep)
        return predict_tiles(network, self.tiler, x_t, previous_mask, timestep)

    def forward(
        self,
        images: torch.Tensor,
        previous_mask: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,
    ) -> AnyPrediction | InferenceBatch:
        """Predict one step in training mode, run the whole reverse process in evaluation mode.

        Args:
            images: In training mode x_t in [-1, 1], in evaluation mode images in [0, 1]; ``(B, 3, H, W)``.
            previous_mask: Training mode: mask of the step before in {0, 1}, ``(B, 1, H, W)``.
            timestep: Training mode: timestep of each sample, ``(B,)``.

        Returns:
            Training mode: the predictions of the three heads. Evaluation mode: ``pred_score`` ``(B,)`` and
            ``anomaly_map`` ``(B, 1, H, W)``.

        Raises:
            TypeError: If the images are not floating point numbers.
            ValueError: If a shape is wrong, the images are not in [0, 1] in evaluation mode, their sides are no
                multiples of the stride, or training lacks mask or timestep.
        """
        if not self.training:
            return self.predict(images)[0]
        if previous_mask is None or timestep is None:
            given = {"previous_mask": previous_mask, "timestep": timestep}
            absent = " and no ".join(name for name, value in given.items() if value is None)
            msg = (
                f"There is no {absent}: in training mode TransFusionModel needs previous_mask and timestep beside the "
                "image. Pass both, or call .eval() first to get anomaly maps."
            )
            raise ValueError(msg)
        check_images(images, self.stride)
        check_shape("previous_mask", previous_mask, images.shape[0], 1, *images.shape[2:])
        check_shape("timestep", timestep, images.shape[0])
        with autocast_network(self.precision, images.device):
            prediction = self._predict(images, previous_mask, timestep)
        dtype = working_dtype(self.network)
        return type(prediction)(*(part.to(dtype) for part in prediction))

    def predict(self, images: torch.Tensor) -> tuple[InferenceBatch, ReverseProcess]:
        """Return anomaly maps and scores together with the masks and reconstructions behind them.

        Args:
            images: Images in [0, 1], ``(B, 3, H, W)``.

        Returns:
            The batch of predictions and the result of the reverse process.

        Raises:
            TypeError: If the images are not floating point numbers.
            ValueError: If their shape is wrong, their values are not in [0, 1] (but for the overshoot of a bicubic
                resize), or the network cannot divide their sides.
        """
        process = self.reverse_process(images)
        anomaly_map = self.final_map(images, process)
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map), process

    @torch.no_grad()
    def reverse_process(
        self,
        images: torch.Tensor,
        callback: Callable[[ReverseStep], None] | None = None,
    ) -> ReverseProcess:
        """Make anomalies transparent step by step while localizing them (paper Section 3.4).

        Args:
            images: Images in [0, 1], ``(B, 3, H, W)``.
            callback: Called after each step with its inputs and results.

        Returns:
            The aggregated mask and the reconstruction.

        Raises:
            TypeError: If the images are not floating point numbers.
            ValueError: If their shape is wrong, their values are not in [0, 1] (but for the overshoot of a bicubic
                resize), or the network cannot divide their sides.
        """
        check_images(images, self.stride)
        check_range(images)
        x_t = 2 * images.to(working_dtype(self.network)) - 1
        mask = torch.zeros_like(x_t[:, :1])
        found = mask
        timesteps = self.inference_timesteps
        next_timesteps = [*timesteps[1:], 0]
        # One context for all steps, so that a GPU converts the weights only once.
        with autocast_network(self.precision, images.device):
            # A loop of one step is none, and runtimes optimize the steps of none.
            if torch.onnx.is_in_onnx_export() and len(timesteps) > 1:
                inputs = (
                    torch.tensor(timesteps, device=images.device),
                    self.beta[timesteps],
                    self.beta[next_timesteps],
                )
                x_t, mask, found = scan_steps(self._exported_step, (x_t, mask, found), inputs)
            else:
                for t, next_t in zip(timesteps, next_timesteps, strict=True):
                    timestep = torch.full((images.shape[0],), t, device=images.device)
                    step = self._step(x_t, mask, timestep, self.beta[t], self.beta[next_t])
                    if callback is not None:
                        anomaly = step.anomaly / self.beta[t]
                        callback(ReverseStep(t, next_t, x_t, step.mask, anomaly, step.normal, step.x_next))
                    x_t, mask = step.x_next, step.mask
                    found = self._aggregated(found, step)
                    # Freed before the next pass of the network, where memory peaks.
                    del step
        if self.mask_aggregation == "last":
            return ReverseProcess(found, x_t)
        return ReverseProcess(found / (self.mask_divisor or len(timesteps)), x_t)

    def _aggregated(self, found: torch.Tensor, step: "_Step") -> torch.Tensor:
        """Add the mask of a step to those found before, or replace them if the last mask alone counts."""
        mask = step.mask
        if step.memory is not None:
            mask = (mask + self.memory_weight * step.memory) / (1 + self.memory_weight)
        return mask if self.mask_aggregation == "last" else found + mask

    def _step(
        self,
        x_t: torch.Tensor,
        mask: torch.Tensor,
        timestep: torch.Tensor,
        beta: torch.Tensor,
        next_beta: torch.Tensor,
    ) -> "_Step":
        """Take one step of the reverse process from images ``(B, 3, H, W)`` and the masks of the step before."""
        prediction = self._predict(x_t, (mask > 0.5).to(x_t.dtype), timestep)
        anomaly, normal, logits = (head.to(x_t.dtype) for head in prediction[:3])
        mask = logits.sigmoid()
        memory = prediction.memory.to(x_t.dtype) if isinstance(prediction, RememberingPrediction) else None
        return _Step(mask, anomaly, normal, reverse_step(x_t, mask, anomaly, normal, beta, next_beta), memory)

    def _exported_step(
        self,
        state: Carry,
        timestep: torch.Tensor,
        beta: torch.Tensor,
        next_beta: torch.Tensor,
    ) -> Carry:
        """Take one step of the reverse process in the form of :func:`scan_steps`."""
        x_t, mask, found = state
        step = self._step(x_t, mask, timestep.expand(x_t.shape[0]), beta, next_beta)
        # A loop's state must keep even its strides, including the meaningless ones of a dimension of size 1.
        x_next, mask = (part.clone(memory_format=torch.contiguous_format) for part in (step.x_next, step.mask))
        aggregated = self._aggregated(found, step._replace(mask=mask))
        return x_next, mask, aggregated.clone(memory_format=torch.contiguous_format)

    def final_map(self, images: torch.Tensor, process: ReverseProcess) -> torch.Tensor:
        """Combine mask and reconstruction error, and smooth the result (paper Eq. 10).

        Args:
            images: Images in [0, 1], ``(B, 3, H, W)``.
            process: Result of the reverse process on them.

        Returns:
            Anomaly map in [0, 1], ``(B, 1, H, W)``. Its maximum is the image's score (Eq. 11).
        """
        reconstruction = ((process.reconstruction + 1) / 2).clamp(0, 1)
        error = (images.to(reconstruction.dtype).clamp(0, 1) - reconstruction).square().mean(dim=1, keepdim=True)
        weight = self.discriminative_weight
        combined = weight * process.mask + (1 - weight) * error
        return F.avg_pool2d(combined, self.filter_size, stride=1, padding=self.filter_size // 2)
