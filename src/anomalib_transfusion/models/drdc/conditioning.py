# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Test-time conditionings: what is done to a prediction before the next timestep starts from it (R5).

Zhan et al. (2024) have one, so that the reverse process does not stray from the image; which, is not known. These are
candidates. A guidance as of DDAD (Mousakhan et al. 2023), restricted to known pixels, is none: it moves the prediction
by w (1 - alpha_bar_t) (x - x0_hat) there, and neither the next timestep nor the map takes anything from known pixels of
a prediction. Unrestricted, it would give hidden pixels away.
"""

from typing import Literal

from torch import Tensor

from .filters import box_mean

__all__ = ["Conditioning", "condition", "correct_drift", "take_low_frequencies"]

Conditioning = Literal["known_pixels", "drift", "low_frequency"]


def condition(kind: Conditioning, prediction: Tensor, images: Tensor, mask: Tensor, filter_size: int) -> Tensor:
    """Condition a prediction on the image.

    Args:
        kind: ``known_pixels`` leaves it as it is: each timestep starts from the image's own known pixels anyway (as of
            RePaint, Lugmayr et al. 2022). ``drift``: :func:`correct_drift`; ``low_frequency``:
            :func:`take_low_frequencies`.
        prediction: Predictions x0_hat of the denoiser, ``(B, C, H, W)``.
        images: The images x, ``(B, C, H, W)``.
        mask: 1 where a pixel is hidden, ``(B, 1, H, W)``.
        filter_size: Side m of the mean filter in pixels, odd.

    Returns:
        The conditioned predictions, ``(B, C, H, W)``.
    """
    if kind == "drift":
        return correct_drift(prediction, images, mask, filter_size)
    if kind == "low_frequency":
        return take_low_frequencies(prediction, images, filter_size)
    return prediction


def correct_drift(prediction: Tensor, images: Tensor, mask: Tensor, filter_size: int) -> Tensor:
    """Add how far the known pixels around each pixel have drifted, on average, from the image.

    Hidden pixels of the image have no part in it. Pixels with no known one in reach stay: those in the middle of cells
    that are as wide as the filter, or wider.

    Args:
        prediction: Predictions of the denoiser, ``(B, C, H, W)``.
        images: The images, ``(B, C, H, W)``.
        mask: 1 where a pixel is hidden, ``(B, 1, H, W)``.
        filter_size: Side of the mean filter in pixels, odd.

    Returns:
        The corrected predictions, ``(B, C, H, W)``.
    """
    hidden = mask > 0.5
    share = box_mean((~hidden).to(prediction.dtype), filter_size)
    drift = box_mean((images - prediction).masked_fill(hidden, 0), filter_size)
    # A single known pixel has a share of at least 1 / filter_size ** 2; sums of zeros are 0.
    return prediction + drift / share.clamp(min=0.5 / filter_size**2)


def take_low_frequencies(prediction: Tensor, images: Tensor, filter_size: int) -> Tensor:
    """Make the low frequencies those of the image (as of ILVR, Choi et al. 2021, in x_0).

    What is left to differ is of high frequency: of a defect wider than the filter, its edge.

    Args:
        prediction: Predictions of the denoiser, ``(B, C, H, W)``.
        images: The images, hidden pixels included, ``(B, C, H, W)``.
        filter_size: Side of the mean filter in pixels, odd.

    Returns:
        The corrected predictions, ``(B, C, H, W)``.
    """
    return prediction + box_mean(images - prediction, filter_size)
