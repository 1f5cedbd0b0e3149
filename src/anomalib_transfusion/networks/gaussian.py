# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

r"""Gaussian diffusion (Ho et al. 2020): noise schedules, the forward process and estimates of the clean image.

:math:`\bar\alpha_t` is the product of :math:`1 - \beta_s` for s = 0 ... t. Timesteps count from 0, so t = 200 is the
201st. Schedules are in double precision: in single precision :math:`1 - \bar\alpha_t` has less than
four significant digits at t = 0.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Posterior",
    "Rates",
    "add_noise",
    "alpha_bar",
    "ancestral_step",
    "cosine_betas",
    "linear_betas",
    "posterior",
    "predict_x_0",
    "rates",
]

# Number of steps for which the ends of the linear schedule were published.
PUBLISHED_TIMESTEPS = 1000
COSINE_OFFSET = 0.008
MAX_BETA = 0.999


class Rates(NamedTuple):
    r"""Coefficients of image and noise in a noised image, in single precision (Ho et al. 2020, Eq. 4).

    Each is of shape ``(T,)`` for all timesteps, or ``(B, 1, 1, 1)`` for the timestep of each sample.

    Attributes:
        signal: :math:`\sqrt{\bar\alpha_t}`.
        noise: :math:`\sqrt{1 - \bar\alpha_t}`.
        inverse_signal: 1 / ``signal``.
        noise_to_signal: ``noise`` / ``signal``.
    """

    signal: Tensor
    noise: Tensor
    inverse_signal: Tensor
    noise_to_signal: Tensor

    def at(self, timestep: Tensor) -> "Rates":
        """Look up the rates of timesteps.

        Args:
            timestep: Timesteps in [0, T - 1], of any shape, such as ``(B,)``.

        Returns:
            The rates with three more dimensions, for channels, rows and columns, such as ``(B, 1, 1, 1)``.
        """
        return Rates(*(table[timestep][..., None, None, None] for table in self))


class Posterior(NamedTuple):
    """Weights and variance of x_(t-1) given x_t and x_0 (Ho et al. 2020, Eq. 6 and 7), in double precision.

    Attributes:
        x_0: Weight of x_0 in the mean, ``(T,)``.
        x_t: Weight of x_t in the mean, ``(T,)``.
        variance: The variance, ``(T,)``.
    """

    x_0: Tensor
    x_t: Tensor
    variance: Tensor


def linear_betas(timesteps: int = PUBLISHED_TIMESTEPS, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Return noise variances beta_t that rise linearly (Ho et al. 2020, Section 4).

    Args:
        timesteps: Number of timesteps T. Both variances are multiplied by 1000 / T, so that x_T is noise for any T.
        first: Variance of the first of 1000 timesteps.
        last: Variance of the last of 1000 timesteps.

    Returns:
        The variances, float64, ``(T,)``.

    Raises:
        ValueError: If there are so few timesteps that the last variance is 1 or more.
    """
    scale = PUBLISHED_TIMESTEPS / timesteps
    if not scale * last < 1:
        msg = (
            f"timesteps={timesteps} gives noise of a variance of {scale * last:g} in the last one; expected one below "
            f"1. Take more than {math.floor(PUBLISHED_TIMESTEPS * last)} timesteps."
        )
        raise ValueError(msg)
    return torch.linspace(scale * first, scale * last, timesteps, dtype=torch.float64)


def cosine_betas(timesteps: int = PUBLISHED_TIMESTEPS) -> Tensor:
    """Return noise variances beta_t whose alpha_bar falls like a squared cosine (Nichol and Dhariwal 2021, Eq. 17).

    Args:
        timesteps: Number of timesteps T.

    Returns:
        The variances, at most 0.999, float64, ``(T,)``.
    """
    time = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    level = ((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).cos().square()
    return (1 - level[1:] / level[:-1]).clamp(max=MAX_BETA)


def alpha_bar(betas: Tensor) -> Tensor:
    """Return alpha_bar_t, the share of the image's variance that is left at each timestep (Ho et al. 2020, Section 2).

    Args:
        betas: Noise variances, ``(T,)``.

    Returns:
        alpha_bar in (0, 1), falling, ``(T,)``.
    """
    return (1 - betas).cumprod(dim=0)


def rates(alpha_bar: Tensor) -> Rates:
    """Return the rates of image and noise, rounded once to single precision.

    Args:
        alpha_bar: Share of the image's variance, float64, ``(T,)``.

    Returns:
        The rates, float32, ``(T,)`` each.
    """
    tables = (alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), (1 / alpha_bar).sqrt(), (1 / alpha_bar - 1).sqrt())
    return Rates(*(table.float() for table in tables))


def posterior(betas: Tensor) -> Posterior:
    """Return the distribution of x_(t-1) given x_t and x_0 for each timestep (Ho et al. 2020, Eq. 6 and 7).

    Args:
        betas: Noise variances, float64, ``(T,)``.

    Returns:
        Weights and variances. At t = 0 the mean is x_0 and the variance 0.
    """
    level = alpha_bar(betas)
    before = torch.cat((torch.ones_like(level[:1]), level[:-1]))
    return Posterior(
        x_0=betas * before.sqrt() / (1 - level),
        x_t=(1 - before) * (1 - betas).sqrt() / (1 - level),
        variance=betas * (1 - before) / (1 - level),
    )


def add_noise(x_0: Tensor, noise: Tensor, rates: Rates) -> Tensor:
    """Return x_t, the image with the noise of a timestep (Ho et al. 2020, Eq. 4).

    Args:
        x_0: Images, ``(B, C, H, W)``.
        noise: Standard normal noise, ``(B, C, H, W)``.
        rates: Rates of the timesteps, ``(B, 1, 1, 1)``.

    Returns:
        Noised images, ``(B, C, H, W)``.
    """
    return rates.signal * x_0 + rates.noise * noise


def predict_x_0(x_t: Tensor, noise: Tensor, rates: Rates) -> Tensor:
    """Return x_0 given x_t and the noise: :func:`add_noise` solved for x_0 (Ho et al. 2020, Eq. 15).

    Args:
        x_t: Noised images, ``(B, C, H, W)``.
        noise: The noise, or a prediction of it, ``(B, C, H, W)``.
        rates: Rates of the timesteps, ``(B, 1, 1, 1)``.

    Returns:
        The images, not clamped, ``(B, C, H, W)``.
    """
    return rates.inverse_signal * x_t - rates.noise_to_signal * noise


def ancestral_step(x_t: Tensor, x_0: Tensor, noise: Tensor, timestep: Tensor, betas: Tensor) -> Tensor:
    """Draw x_(t-1) given x_t and an estimate of x_0, with the variance beta_t (Ho et al. 2020, Algorithm 2).

    Args:
        x_t: Noised images, ``(B, C, H, W)``.
        x_0: Estimates of the images, ``(B, C, H, W)``.
        noise: Standard normal noise, ``(B, C, H, W)``; none is added at t = 0.
        timestep: Timesteps t in [0, T - 1], ``(B,)``.
        betas: Noise variances, float64, ``(T,)``.

    Returns:
        Images x_(t-1), ``(B, C, H, W)``.
    """
    given = posterior(betas)
    deviation = betas.sqrt() * (torch.arange(len(betas), device=betas.device) > 0)
    weights = (table[timestep].view(-1, 1, 1, 1).to(x_t.dtype) for table in (given.x_0, given.x_t, deviation))
    weight_0, weight_t, weight_noise = weights
    return weight_0 * x_0 + weight_t * x_t + weight_noise * noise
