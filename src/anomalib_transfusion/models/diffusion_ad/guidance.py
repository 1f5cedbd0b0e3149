# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

r"""Norm-guided one-step denoising: two estimates of the normal image, one guides the other (paper Section III-B).

The estimate from much noise is free of the anomaly, but vague; that from little noise keeps detail, and maybe the
anomaly. The paper writes the guidance as a correction of the predicted noise (:func:`guided_noise`). Its effect is to
move the estimate towards the guide (:func:`guided_reconstruction`), in each pixel by the same share
:math:`g = w (1 - \bar\alpha_{t_s})`.
"""

import torch
from torch import Tensor

from anomalib_transfusion.networks.gaussian import Rates, add_noise

__all__ = ["clamp_reconstruction", "guidance_share", "guided_noise", "guided_reconstruction"]


def clamp_reconstruction(x_0: Tensor) -> Tensor:
    """Clamp estimates ``(..., 3, H, W)`` to [-1, 1], as published, although images lie in [0, 1]."""
    return x_0.clamp(-1, 1)


def guidance_share(rates: Rates, weight: float) -> Tensor:
    """Return the share of the distance to its guide by which an estimate is moved.

    Args:
        rates: Rates of the small timesteps, ``(B, 1, 1, 1)``.
        weight: Weight w of the guidance.

    Returns:
        The share g, ``(B, 1, 1, 1)``; above 1, the estimate is moved beyond the guide.
    """
    return weight * rates.noise.square()


def guided_reconstruction(estimate: Tensor, guide: Tensor, share: Tensor) -> Tensor:
    """Move an estimate towards its guide: the guidance in closed form.

    Args:
        estimate: One-step estimate of the small scale, not clamped, ``(B, 3, H, W)``.
        guide: One-step estimate of the big scale in [-1, 1], ``(B, 3, H, W)``.
        share: Share g from :func:`guidance_share`, ``(B, 1, 1, 1)``.

    Returns:
        The guided reconstruction in [-1, 1], ``(B, 3, H, W)``.
    """
    return clamp_reconstruction(torch.lerp(estimate, guide, share.to(estimate.dtype)))


def guided_noise(x_t: Tensor, noise: Tensor, guide: Tensor, rates: Rates, weight: float) -> Tensor:
    """Correct the noise predicted at the small scale: the guidance as published (paper Section III-B).

    The predicted noise is added to the guide at the small scale. The correction is the gradient of half the squared
    distance between that and x_t. The reconstruction is the clamped one-step estimate with the corrected noise.

    Args:
        x_t: Image noised at the small scale, ``(B, 3, H, W)``.
        noise: Noise predicted for it, ``(B, 3, H, W)``.
        guide: One-step estimate of the big scale in [-1, 1], ``(B, 3, H, W)``.
        rates: Rates of the small timesteps, ``(B, 1, 1, 1)``.
        weight: Weight w of the guidance.

    Returns:
        The corrected noise, ``(B, 3, H, W)``.
    """
    return noise - rates.noise * weight * (add_noise(guide, noise, rates) - x_t)
