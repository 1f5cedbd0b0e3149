# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DiffusionAD as a PyTorch module: images in, anomaly maps and scores out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, NamedTuple

import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler
from torch import Tensor, nn

from anomalib_transfusion.checks import Range, check_arguments, check_images, check_range, check_shape, taken_by
from anomalib_transfusion.networks.acceleration import (
    Precision,
    autocast_network,
    buffers_kept,
    images_at_a_time,
    in_parts,
    prefers_channels_last,
    run_network,
    working_dtype,
)
from anomalib_transfusion.networks.gaussian import (
    Rates,
    add_noise,
    alpha_bar,
    cosine_betas,
    linear_betas,
    predict_x_0,
    rates,
)
from anomalib_transfusion.training.tiling import check_tiler

from .checks import NoiseScales, Schedule, check_scales, warn_of_extrapolation
from .guidance import clamp_reconstruction, guidance_share, guided_reconstruction
from .loss import Prediction
from .segmentation import SegmentationUNet
from .unet import NoiseUNet

__all__ = ["Denoised", "Diffusion", "DiffusionADModel"]

# Side of the fixed noise image in pixels, as of the published images; it is tiled for larger images.
NOISE_SIDE = 256

Guidance = Annotated[
    float,
    Range(0, 1000, "Use 1, the published weight.", "is impossible; expected {least} (no guidance) to {most}."),
]
Draws = Annotated[int, Range(1, 1000, "Use 1, the published number; each draw takes as long as the first.")]
Seed = Annotated[
    int | None,
    Range(
        0,
        2**63 - 1,
        "Use 0, or None for noise that is drawn anew for each image.",
        "is impossible; expected a whole number from {least} to 2**63 - 1.",
    ),
]
# At most the pixels of the smallest image that the segmentation network accepts.
ScorePixels = Annotated[
    int,
    Range(
        1,
        32 * 32,
        "Use 50, the published number.",
        "is impossible; expected {least} to {most}, the pixels of the smallest image.",
    ),
]


class Diffusion(NamedTuple):
    """Timesteps and noise for a training batch at S noise scales, the small one first.

    Attributes:
        timestep: Timestep of each sample, ``(S, B)``.
        noise: Standard normal noise, ``(S, B, 3, H, W)``.
    """

    timestep: Tensor
    noise: Tensor


class Denoised(NamedTuple):
    """Result of one-step denoising at S noise scales, the small one first.

    Attributes:
        x_t: Noised images, ``(S, B, 3, H, W)``.
        noise: Predicted noise, ``(S, B, 3, H, W)``.
        estimates: One-step estimates of the normal image in [-1, 1], ``(S, B, 3, H, W)``.
        reconstruction: Their guided combination in [-1, 1], ``(B, 3, H, W)``.
    """

    x_t: Tensor
    noise: Tensor
    estimates: Tensor
    reconstruction: Tensor


class DiffusionADModel(nn.Module):
    """The two networks of DiffusionAD and norm-guided one-step denoising (paper Sections III-B and III-C).

    Args:
        timesteps: Number of timesteps T, up to 10,000; with the linear schedule at least 21.
        schedule: Noise schedule, ``linear`` or ``cosine``.
        noise_scales: Scales that the image is reconstructed from: ``both``, the big one guiding the small one, or
            ``small`` or ``big`` alone, which takes one pass of the network instead of two.
        scale_split: In training, timesteps below it are the small scale, the others the big one; 1 to T - 1.
        small_timestep: Timestep of the small scale in evaluation, at least 0.
        big_timestep: Timestep of the big scale in evaluation, above ``small_timestep`` and below T.
        guidance_weight: Weight w of the guidance, from 0 to 1000. With 0 evaluation takes one pass of the network.
        detach_guide: Whether the loss of the mask trains the network through the small scale alone.
        noise_draws: Number of noise images that maps are averaged over, 1 to 1000.
        noise_seed: Seed of the noise in evaluation, which is the same for each image. ``None`` draws it anew for each,
            as published: maps then change from run to run.
        score_pixels: Number of the largest pixels of a map whose mean is the image's score, 1 to 1024.
        base_channels: Channels of the reconstruction network at the highest resolution, a multiple of ``num_groups``.
        channel_multipliers: Channels of each level of the reconstruction network as multiples of ``base_channels``,
            highest resolution first; the first is 1.
        num_blocks: Number of residual blocks in each level of the reconstruction network.
        attention_levels: Levels of the reconstruction network with attention; negative ones count from the lowest
            resolution.
        num_heads: Number of its attention heads, a divisor of the channels of the levels with attention.
        num_groups: Number of groups for its group normalization.
        segmentation_width: Channels of the segmentation network at the highest resolution, 1 to 1024.
        precision: Precision of the networks' matrix products: ``bfloat16``, ``single`` (published), or ``auto`` for
            bfloat16 if the device is faster with it. Weights, losses and the diffusion stay in single precision. If the
            weights were converted, as by ``half()``, the networks compute in their precision; results are in double
            precision with double weights, otherwise in single.
        channels_last: Whether the networks compute in channels-last memory; ``None`` for where it is faster.
        checkpointing: Whether training saves memory by running the reconstruction network's stages a second time in the
            backward pass; results do not change.
        compile: Whether the networks are compiled by ``torch.compile`` at their first call.

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.
    """

    rate_tables: Tensor
    test_timestep: Tensor
    test_noise: Tensor | None

    def __init__(
        self,
        *,
        timesteps: Annotated[int, Range(2, 10_000, "Use 1000, the published number.")],
        schedule: Schedule,
        noise_scales: NoiseScales,
        scale_split: int,
        small_timestep: int,
        big_timestep: int,
        guidance_weight: Guidance,
        detach_guide: bool,
        noise_draws: Draws,
        noise_seed: Seed,
        score_pixels: ScorePixels,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_blocks: int,
        attention_levels: Sequence[int],
        num_heads: int,
        num_groups: int,
        segmentation_width: int,
        precision: Precision,
        channels_last: bool | None,
        checkpointing: bool,
        compile: bool,  # noqa: A002
    ) -> None:
        given = check_arguments(DiffusionADModel.__init__, locals())
        super().__init__()
        check_scales(**taken_by(check_scales, given))
        self.unet = NoiseUNet(**taken_by(NoiseUNet, given))
        self.segmentation = SegmentationUNet(segmentation_width)
        # Both are powers of two.
        self.stride = max(self.unet.stride, self.segmentation.stride)

        table = rates(alpha_bar(linear_betas(timesteps) if schedule == "linear" else cosine_betas(timesteps)))
        if noise_scales == "both":
            warn_of_extrapolation(table, guidance_weight, max(small_timestep, scale_split - 1))
        # Buffers outside of the state dict: they follow from the parameters, and the authors' checkpoints lack them.
        self.register_buffer("rate_tables", torch.stack(table), persistent=False)
        tested = [big_timestep] if noise_scales == "big" else [small_timestep]
        # With a weight of 0 the big scale has no effect and need not be computed.
        if noise_scales == "both" and guidance_weight > 0:
            tested.append(big_timestep)
        self.register_buffer("test_timestep", torch.tensor(tested), persistent=False)
        test_noise = None
        if noise_seed is not None:
            generator = torch.Generator().manual_seed(noise_seed)
            # The draws are the first dimension, so that the first draws do not depend on their number.
            test_noise = torch.randn(noise_draws, 2, 3, NOISE_SIDE, NOISE_SIDE, generator=generator, device="cpu")
        self.register_buffer("test_noise", test_noise, persistent=False)

        self.timesteps = timesteps
        self.noise_scales: NoiseScales = noise_scales
        self.scale_split = scale_split
        self.guidance_weight = guidance_weight
        self.detach_guide = detach_guide
        self.noise_draws = noise_draws
        self.score_pixels = score_pixels
        self.precision: Precision = precision
        self.channels_last = channels_last
        if compile:
            self.unet.compile()
            self.segmentation.compile()
        self._tiler: Tiler | None = None

    @property
    def rates(self) -> Rates:
        """Rates of image and noise of all timesteps, each ``(T,)``."""
        return Rates(*self.rate_tables.unbind())

    @property
    def tiler(self) -> Tiler | None:
        """The tiler of anomalib's ``TilerConfigurationCallback``. Only the networks run on tiles."""
        return self._tiler

    @tiler.setter
    def tiler(self, tiler: Tiler | None) -> None:
        if tiler is not None:
            check_tiler(tiler, self.stride)
        self._tiler = tiler

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DiffusionADModel":
        """Convert or move weights and buffers; rates and noise stay in single precision."""
        with buffers_kept(self):
            return super()._apply(fn, recurse)

    def forward(
        self,
        images: Tensor,
        timestep: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Prediction | InferenceBatch:
        """Predict the inputs of the loss in training mode, scores and anomaly maps in evaluation mode.

        Args:
            images: Images in [0, 1], ``(B, 3, H, W)``; in training mode some with synthetic anomalies.
            timestep: Training mode: timestep of each sample at each of S scales, ``(S, B)``.
            noise: Training mode: noise of each sample at each scale, ``(S, B, 3, H, W)``.

        Returns:
            Training mode: predicted noise, reconstruction and logits of the mask. Evaluation mode: ``pred_score``
            ``(B,)`` and ``anomaly_map`` ``(B, 1, H, W)``, both in [0, 1].

        Raises:
            TypeError: If the images are not floating point numbers.
            ValueError: If a shape is wrong, the images are not in [0, 1] in evaluation mode, their sides are no
                multiples of the stride, or training lacks timestep or noise.
        """
        if not self.training:
            return self.predict(images)[0]
        if timestep is None or noise is None:
            given = {"timestep": timestep, "noise": noise}
            absent = " and no ".join(name for name, value in given.items() if value is None)
            msg = (
                f"There is no {absent}: in training mode DiffusionADModel needs timestep and noise beside the images, "
                "as draw_diffusion(images) gives them. Pass both, or call .eval() first to get anomaly maps."
            )
            raise ValueError(msg)
        check_images(images, self.stride)
        images = images.to(working_dtype(self.unet))
        scales = 2 if self.noise_scales == "both" else 1
        check_shape("timestep", timestep, scales, images.shape[0])
        check_shape("noise", noise, scales, *images.shape)
        with autocast_network(self.precision, images.device):
            denoised = self._denoise(images, timestep, noise.to(images.dtype))
            logits = self._segment(images, denoised.reconstruction)
        return Prediction(denoised.noise, denoised.reconstruction, logits)

    def draw_diffusion(self, images: Tensor) -> Diffusion:
        """Draw timesteps and independent noise for a training batch, on its device.

        Args:
            images: The images, ``(B, 3, H, W)``.

        Returns:
            Timesteps, uniform on 0 ... ``scale_split`` - 1 for the small scale and on ``scale_split`` ... T - 1 for the
            big one, and noise.
        """
        ranges = {"small": (0, self.scale_split), "big": (self.scale_split, self.timesteps)}
        drawn = [
            torch.randint(*bounds, (len(images),), device=images.device)
            for scale, bounds in ranges.items()
            if self.noise_scales in {"both", scale}
        ]
        return Diffusion(torch.stack(drawn), _draw((len(drawn), *images.shape), images.device))

    @torch.no_grad()
    def predict(self, images: Tensor, noise: Tensor | None = None) -> tuple[InferenceBatch, Denoised]:
        """Return anomaly maps and scores together with the reconstructions behind them.

        Args:
            images: Images in [0, 1], ``(B, 3, H, W)``.
            noise: Standard normal noise to use instead of the model's own, ``(S, B, 3, H, W)``.

        Returns:
            The predictions and the denoised images, averaged over the draws of noise.

        Raises:
            TypeError: If the images are not floating point numbers.
            ValueError: If a shape is wrong, values are not in [0, 1] (but for the overshoot of a bicubic resize), or
                the networks cannot divide the image's sides.
        """
        check_images(images, self.stride)
        check_range(images)
        images = images.to(working_dtype(self.unet))
        scales = len(self.test_timestep)
        if noise is not None:
            check_shape("noise", noise, scales, *images.shape)
        timestep = self.test_timestep[:, None].expand(-1, images.shape[0])
        sums: list[Tensor] = []
        draws = self._draw_noise(images, scales) if noise is None else [noise.to(images.dtype)]
        # One context for all draws, so that a GPU converts the weights only once.
        with autocast_network(self.precision, images.device):
            for drawn in draws:
                denoised = self._denoise(images, timestep, drawn)
                results = [self._segment(images, denoised.reconstruction).sigmoid(), *denoised]
                sums = [before + result for before, result in zip(sums, results, strict=True)] if sums else results
        anomaly_map, *averages = (total / len(draws) for total in sums)
        # Rounding may lift a mean of numbers close to 1 above 1.
        scores = anomaly_map.flatten(1).topk(self.score_pixels).values.mean(dim=1).clamp(max=1)
        return InferenceBatch(pred_score=scores, anomaly_map=anomaly_map), Denoised(*averages)

    def _draw_noise(self, images: Tensor, scales: int) -> list[Tensor]:
        """Return noise ``(S, B, 3, H, W)`` for each draw: the same for all images, or new noise if there is no seed."""
        if self.test_noise is None:
            shape = (scales, *images.shape)
            return [_draw(shape, images.device).to(images.dtype) for _ in range(self.noise_draws)]
        # Indexed, so that an exported model accepts images of any size.
        rows, columns = (torch.arange(side, device=images.device) % NOISE_SIDE for side in images.shape[2:])
        noise = self.test_noise.to(images.dtype)[:, :scales, :, rows][..., columns]
        return [drawn.unsqueeze(1).expand(-1, *images.shape) for drawn in noise]

    def _denoise(self, images: Tensor, timestep: Tensor, noise: Tensor) -> Denoised:
        """Reconstruct images ``(B, 3, H, W)`` from all noise scales in one batch."""
        chosen = self.rates.at(timestep)
        x_t = add_noise(images, noise, chosen)
        predicted = self._predict_noise(x_t.flatten(0, 1), timestep.flatten()).view_as(x_t)
        estimates = predict_x_0(x_t, predicted, chosen)
        clamped = clamp_reconstruction(estimates)
        if len(estimates) == 1:
            return Denoised(x_t, predicted, clamped, clamped[0])
        guide = clamped[1].detach() if self.detach_guide else clamped[1]
        share = guidance_share(Rates(*(table[0] for table in chosen)), self.guidance_weight)
        return Denoised(x_t, predicted, clamped, guided_reconstruction(estimates[0], guide, share))

    def _predict_noise(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """Run the reconstruction network on ``(B, 3, H, W)`` and ``(B,)``, on tiles if a tiler is set."""
        if self.tiler is None:
            return self._run_unet(x_t, timestep)
        tiles = self.tiler.tile(x_t)
        # All tiles of an image follow each other.
        return self.tiler.untile(self._run_unet(tiles, timestep.repeat_interleave(len(tiles) // len(x_t))))

    def _run_unet(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """Run the reconstruction network on the fastest number of images or tiles at a time."""
        parts = in_parts(images_at_a_time(x_t), x_t, timestep)
        predicted = [run_network(self.unet, *part, channels_last=self._channels_last(part[0])) for part in parts]
        return torch.cat(predicted).to(x_t.dtype)

    def _segment(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Run the segmentation network, on tiles if a tiler is set."""
        run = partial(run_network, self.segmentation, channels_last=self._channels_last(images))
        if self.tiler is None:
            return run(images, reconstruction).to(images.dtype)
        return self.tiler.untile(run(self.tiler.tile(images), self.tiler.tile(reconstruction))).to(images.dtype)

    def _channels_last(self, images: Tensor) -> bool:
        return prefers_channels_last(images) if self.channels_last is None else self.channels_last


def _draw(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw standard normal noise in single precision, so that the numbers do not depend on the images' precision."""
    return torch.randn(shape, device=device, dtype=torch.float32)
