# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The losses of DiffusionAD: of the predicted noise, and of the predicted mask (paper Section III-D)."""

from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.checks import Range, check_arguments, check_shape

__all__ = ["DiffusionADLoss", "LossTerms", "Prediction", "Target", "cross_entropy", "focal_loss", "noise_loss"]

# Lower bound of logarithms of probabilities, as in torch's binary cross entropy.
MIN_LOG = -100.0

Weight = Annotated[
    float,
    Range(0, remedy="Use 0 to switch the term off.", problem="is impossible; expected a weight of at least {least}."),
]
Gamma = Annotated[
    float,
    Range(0, 10, "Use 4, the published one.", "is impossible; expected {least} (cross entropy) to {most}."),
]


class Prediction(NamedTuple):
    """Predictions of the two networks for a training batch.

    Attributes:
        noise: Noise at each of S scales, ``(S, B, 3, H, W)``.
        reconstruction: Guided reconstruction in [-1, 1], ``(B, 3, H, W)``.
        mask_logits: Logits of the anomaly mask, ``(B, 1, H, W)``.
    """

    noise: Tensor
    reconstruction: Tensor
    mask_logits: Tensor


class Target(NamedTuple):
    """Ground truth for a training batch.

    Attributes:
        noise: The noise that was added at each of S scales, ``(S, B, 3, H, W)``.
        mask: Anomaly mask in [0, 1], soft values included, ``(B, 1, H, W)``.
        label: 1 for a sample with an anomaly, 0 for a normal one, ``(B,)``.
    """

    noise: Tensor
    mask: Tensor
    label: Tensor


class LossTerms(NamedTuple):
    """The loss and its terms, scalars, each already multiplied by its weight.

    Attributes:
        total: The sum of the others.
        noise: Mean squared error of the noise of the normal samples.
        focal: Focal loss of the mask.
        smooth_l1: Smooth L1 loss of the mask.
    """

    total: Tensor
    noise: Tensor
    focal: Tensor
    smooth_l1: Tensor


def noise_loss(prediction: Tensor, noise: Tensor, label: Tensor) -> Tensor:
    """Return the mean squared error of the predicted noise over scales and normal samples (paper Section III-D).

    Args:
        prediction: Predicted noise, ``(S, B, 3, H, W)``.
        noise: The noise, ``(S, B, 3, H, W)``.
        label: 1 for a sample with an anomaly, ``(B,)``.

    Returns:
        Scalar; 0 where no sample is normal.
    """
    of_samples = F.mse_loss(prediction, noise, reduction="none").mean(dim=(0, 2, 3, 4))
    normal = (label == 0).to(of_samples.dtype)
    return (of_samples * normal).sum() / normal.sum().clamp(min=1)


def cross_entropy(logits: Tensor, target: Tensor, from_logits: bool) -> Tensor:
    """Return the binary cross entropy of each pixel, also for soft targets; logarithms are clamped at -100.

    Args:
        logits: Logits of any shape.
        target: Targets in [0, 1] of the same shape.
        from_logits: Whether it is computed from logits. If it is computed from probabilities in single precision, as
            published, a wrong pixel with a logit above 17 has a loss of 100 and no gradient.

    Returns:
        The cross entropy, of the same shape.
    """
    if not from_logits:
        return F.binary_cross_entropy(logits.sigmoid(), target, reduction="none")
    positive, negative = (F.logsigmoid(sign * logits).clamp(min=MIN_LOG) for sign in (1, -1))
    return -(target * positive + (1 - target) * negative)


def focal_loss(entropy: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return alpha (1 - p)^gamma CE of each pixel, with the cross entropy CE and p = exp(-CE) (Lin et al. 2017).

    Args:
        entropy: Cross entropy CE, of any shape.
        alpha: Factor of both classes.
        gamma: Exponent, which lowers the weight of pixels that are predicted well.

    Returns:
        The loss, of the same shape.
    """
    # expm1 avoids the cancellation in 1 - exp(-x). The clamp keeps the gradient finite for exponents below 1.
    return alpha * (-torch.expm1(-entropy)).clamp(min=1e-8).pow(gamma) * entropy


class DiffusionADLoss(nn.Module):
    """The loss of DiffusionAD (paper Section III-D). A weight of zero switches a term off.

    Args:
        noise_weight: Weight of the noise loss, which is averaged over the two scales, as in the paper, and over the
            normal samples, at least 0. The published code sums over the scales, which is a weight of 2. If half of the
            batch is normal, 0.5 makes it a mean over the whole batch.
        focal_weight: Weight of the focal loss, at least 0.
        smooth_l1_weight: Weight of the smooth L1 loss of the mask, at least 0.
        focal_alpha: Factor of the focal loss, the same for both classes, above 0.
        focal_gamma: Exponent of the focal loss, from 0 to 10.
        focal_from_logits: Whether the focal loss is computed from logits, so that a pixel that is wrong with certainty
            has a gradient. ``False`` computes it from probabilities, as published.

    Raises:
        TypeError: If a parameter is no number.
        ValueError: If a parameter is impossible, or all terms are off.
    """

    def __init__(
        self,
        *,
        noise_weight: Weight,
        focal_weight: Weight,
        smooth_l1_weight: Weight,
        focal_alpha: float,
        focal_gamma: Gamma,
        focal_from_logits: bool,
    ) -> None:
        check_arguments(DiffusionADLoss.__init__, locals())
        super().__init__()
        weights = {"noise_weight": noise_weight, "focal_weight": focal_weight, "smooth_l1_weight": smooth_l1_weight}
        if not any(weights.values()):
            msg = f"All of {', '.join(weights)} are 0; expected one above 0. Keep a term, or nothing is left to train."
            raise ValueError(msg)
        if not focal_alpha > 0:
            msg = (
                f"focal_alpha={focal_alpha} is impossible; expected a factor above 0. Use 0.5, the published one, and "
                "focal_weight=0 to switch the focal loss off."
            )
            raise ValueError(msg)
        self.noise_weight = noise_weight
        self.focal_weight = focal_weight
        self.smooth_l1_weight = smooth_l1_weight
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.focal_from_logits = focal_from_logits

    def forward(self, prediction: Prediction, target: Target) -> LossTerms:
        """Compute the loss of a batch.

        Args:
            prediction: Predictions of the networks.
            target: Ground truth.

        Returns:
            The loss and its terms.

        Raises:
            ValueError: If the shape of a tensor does not fit the predicted noise.
        """
        scales, batch, _, *size = prediction.noise.shape
        check_shape("The Target's noise", target.noise, scales, batch, 3, *size)
        check_shape("The Target's mask", target.mask, batch, 1, *size)
        check_shape("The Target's label", target.label, batch)
        check_shape("The Prediction's mask_logits", prediction.mask_logits, batch, 1, *size)
        with torch.autocast(prediction.noise.device.type, enabled=False):
            dtype = torch.promote_types(prediction.mask_logits.dtype, torch.float32)
            logits, mask = prediction.mask_logits.to(dtype), target.mask.to(dtype)
            entropy = cross_entropy(logits, mask, self.focal_from_logits)
            terms = (
                self.noise_weight * noise_loss(prediction.noise.to(dtype), target.noise.to(dtype), target.label),
                self.focal_weight * focal_loss(entropy, self.focal_alpha, self.focal_gamma).mean(),
                self.smooth_l1_weight * F.smooth_l1_loss(logits.sigmoid(), mask),
            )
            return LossTerms(torch.stack(terms).sum(), *terms)
