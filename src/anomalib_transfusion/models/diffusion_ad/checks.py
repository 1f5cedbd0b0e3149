# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Parameters of DiffusionAD that are not what its diffusion and evaluation can work with."""

import warnings
from typing import Literal, get_args

from anomalib_transfusion.networks.gaussian import Rates

__all__ = ["NoiseScales", "Schedule", "check_diffusion", "check_evaluation", "warn_of_extrapolation"]

Schedule = Literal["linear", "cosine"]
NoiseScales = Literal["both", "small", "big"]

MAX_TIMESTEPS = 10_000
MAX_DRAWS = 1000
# Of the smallest image that the segmentation network takes.
MAX_SCORE_PIXELS = 32 * 32
MAX_GUIDANCE = 1000.0


def check_diffusion(
    timesteps: int,
    schedule: str,
    noise_scales: str,
    scale_split: int,
    small_timestep: int,
    big_timestep: int,
) -> None:
    """Raise ValueError, naming the value, if a parameter of the diffusion is impossible."""
    if not 2 <= timesteps <= MAX_TIMESTEPS:
        msg = f"timesteps={timesteps} is impossible; expected 2 to {MAX_TIMESTEPS}. Use 1000, the published number."
        raise ValueError(msg)
    for name, value, choices in (("schedule", schedule, Schedule), ("noise_scales", noise_scales, NoiseScales)):
        if value not in get_args(choices):
            msg = f"{name}={value!r} is unknown; choose one of {', '.join(get_args(choices))}."
            raise ValueError(msg)
    if not 1 <= scale_split < timesteps:
        msg = (
            f"scale_split={scale_split} leaves one of the noise scales without a timestep; expected 1 to "
            f"{timesteps - 1} with timesteps={timesteps}. The published split is 300 of 1000."
        )
        raise ValueError(msg)
    for name, timestep in (("small_timestep", small_timestep), ("big_timestep", big_timestep)):
        if not 0 <= timestep < timesteps:
            msg = (
                f"{name}={timestep} is no timestep; expected 0 to {timesteps - 1} with timesteps={timesteps}. Change "
                "one of them (published are 200 and 400 of 1000)."
            )
            raise ValueError(msg)
    if noise_scales == "both" and small_timestep >= big_timestep:
        msg = (
            f"small_timestep={small_timestep} must be below big_timestep={big_timestep}: the scale with more noise "
            "guides the other. Published are 200 and 400 of 1000."
        )
        raise ValueError(msg)


def check_evaluation(guidance_weight: float, noise_draws: int, noise_seed: int | None, score_pixels: int) -> None:
    """Raise ValueError, naming the value, if a parameter of the evaluation is impossible."""
    if not 0 <= guidance_weight <= MAX_GUIDANCE:
        msg = (
            f"guidance_weight={guidance_weight} is impossible; expected 0 (no guidance) to {MAX_GUIDANCE:g}. Use 1, "
            "the published weight."
        )
        raise ValueError(msg)
    if not 1 <= noise_draws <= MAX_DRAWS:
        msg = (
            f"noise_draws={noise_draws} is impossible; expected 1 to {MAX_DRAWS}. Use 1, the published number; each "
            "draw takes as long as the first."
        )
        raise ValueError(msg)
    if noise_seed is not None and not 0 <= noise_seed < 2**63:
        msg = (
            f"noise_seed={noise_seed} is impossible; expected a whole number from 0 to 2**63 - 1. Use 0, or None for "
            "noise that is drawn anew for each image."
        )
        raise ValueError(msg)
    if not 1 <= score_pixels <= MAX_SCORE_PIXELS:
        msg = (
            f"score_pixels={score_pixels} is impossible; expected 1 to {MAX_SCORE_PIXELS}, the pixels of the smallest "
            "image. Use 50, the published number."
        )
        raise ValueError(msg)


def warn_of_extrapolation(table: Rates, weight: float, timestep: int) -> None:
    """Warn where the guidance moves an estimate beyond its guide.

    Args:
        table: Rates of all timesteps.
        weight: Weight of the guidance.
        timestep: The largest timestep of the small scale.
    """
    full = table.noise[timestep].square().item()
    if weight * full > 1:
        warnings.warn(
            f"guidance_weight={weight} moves the reconstruction by {weight * full:.3g} of the way to its guide at "
            f"timestep {timestep}; expected at most 1, for beyond it lies no estimate of either scale. Use "
            f"{1 / full:.3g} or less.",
            UserWarning,
            stacklevel=3,
        )
