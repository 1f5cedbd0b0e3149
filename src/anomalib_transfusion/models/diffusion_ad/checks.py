# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks of DiffusionAD's noise scales and guidance weight."""

import warnings
from typing import Literal

from anomalib_transfusion.networks.gaussian import Rates

__all__ = ["NoiseScales", "Schedule", "check_scales", "warn_of_extrapolation"]

Schedule = Literal["linear", "cosine"]
NoiseScales = Literal["both", "small", "big"]


def check_scales(
    timesteps: int,
    noise_scales: NoiseScales,
    scale_split: int,
    small_timestep: int,
    big_timestep: int,
) -> None:
    """Raise ValueError, naming the value, if a noise scale is empty, or a timestep out of range or order."""
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


def warn_of_extrapolation(table: Rates, weight: float, timestep: int) -> None:
    """Warn if the guidance extrapolates: if it moves an estimate beyond its guide.

    Args:
        table: Rates of all timesteps, ``(T,)`` each.
        weight: Weight w of the guidance.
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
