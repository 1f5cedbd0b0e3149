# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

r"""The diffusion process of hidden pixels: what the denoiser is given, in training and between its passes.

Images are in [-1, 1], :math:`\bar\alpha_t` as in :mod:`anomalib_transfusion.networks.gaussian`. The paper (Zhan et al.
2024) turns diffusion into inpainting so that anomalies are not reconstructed; how the hidden pixels are made is ours.
"""

from typing import Literal

import torch
from torch import Tensor

from anomalib_transfusion.networks.gaussian import add_noise, rates

__all__ = ["Known", "Process", "corrupt", "restart"]

Process = Literal["shift", "ddpm", "noised"]
Known = Literal["clean", "noisy"]


def corrupt(
    images: Tensor,
    filled: Tensor,
    mask: Tensor,
    alpha_bar_t: Tensor,
    eta: Tensor,
    noise: Tensor,
    process: Process,
    known: Known,
) -> Tensor:
    """Corrupt training images at a timestep (R1 and R2).

    Args:
        images: The images x, ``(B, C, H, W)``.
        filled: The images with hidden pixels filled, ``(B, C, H, W)``.
        mask: 1 where a pixel is hidden, ``(B, 1, H, W)``.
        alpha_bar_t: Share of the image's variance that is left, ``(B, 1, 1, 1)``.
        eta: Share of the fill in the hidden pixels, t / t_max in [0, 1], ``(B, 1, 1, 1)``.
        noise: Standard normal noise, ``(B, C, H, W)``.
        process: ``shift`` moves hidden pixels towards the fill, so that nothing of them is left at t_max; ``ddpm`` and
            ``noised`` add noise alone.
        known: Whether known pixels stay ``clean``, or are as ``noisy`` as the hidden ones.

    Returns:
        The corrupted images, ``(B, C, H, W)``.
    """
    # With eta = 1 the fill itself; x + (filled - x) is x rounded, and holds a trace of it.
    target = (1 - eta) * images + eta * filled if process == "shift" else images
    return restart(target, images, mask, alpha_bar_t, noise, known)


def restart(
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    alpha_bar_t: Tensor,
    noise: Tensor,
    known: Known,
) -> Tensor:
    """Start a pass at a timestep from what hidden pixels are taken for, and the image's own known pixels (R4).

    That known pixels are the image's own in each pass is the conditioning of RePaint (Lugmayr et al. 2022).

    Args:
        prediction: Images whose hidden pixels are taken: the fill, or what the last pass has painted, ``(B, C, H, W)``.
        images: Images whose known pixels are taken, ``(B, C, H, W)``.
        mask: 1 where a pixel is hidden, ``(B, 1, H, W)``.
        alpha_bar_t: Share of the image's variance that is left, ``(B, 1, 1, 1)``.
        noise: Standard normal noise, ``(B, C, H, W)``.
        known: Whether known pixels stay ``clean``, or are as ``noisy`` as the hidden ones.

    Returns:
        What the denoiser is given, ``(B, C, H, W)``.
    """
    hidden = mask > 0.5
    noisy = add_noise(torch.where(hidden, prediction, images), noise, rates(alpha_bar_t))
    return noisy if known == "noisy" else torch.where(hidden, noisy, images)
