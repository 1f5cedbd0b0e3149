# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The losses of TransFusion (paper Eq. 5 to 9)."""

from typing import Annotated, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import sigmoid_focal_loss

from anomalib_transfusion.checks import Range, check_arguments, check_shape

from .transparency import reverse_step
from .unet import Prediction

__all__ = ["LossTerms", "Target", "TransFusionLoss", "ssim_loss"]

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
# Dynamic range of images in [-1, 1]; it sets the two stabilizing constants of SSIM.
SSIM_DYNAMIC_RANGE = 2.0

Weight = Annotated[float, Range(0, remedy="0 switches the term off.", problem="must not be negative;")]


class Target(NamedTuple):
    """Ground truth for a training image x_t.

    Attributes:
        normal: Normal appearance x_0 in [-1, 1], ``(B, 3, H, W)``.
        anomaly: Anomaly appearance in [-1, 1], zero outside of the mask, ``(B, 3, H, W)``.
        mask: Anomaly mask in {0, 1}, ``(B, 1, H, W)``.
    """

    normal: torch.Tensor
    anomaly: torch.Tensor
    mask: torch.Tensor


class LossTerms(NamedTuple):
    """The loss and its terms, scalars, each already multiplied by its weight.

    Attributes:
        total: The sum of the others (Eq. 9).
        normal: SSIM and L1 loss of the normal appearance (Eq. 5).
        mask: Focal and smooth L1 loss of the mask (Eq. 6).
        anomaly: L2 loss of the anomaly appearance (Eq. 7).
        consistency: L2 loss of the next image of the reverse process (Eq. 8).
    """

    total: torch.Tensor
    normal: torch.Tensor
    mask: torch.Tensor
    anomaly: torch.Tensor
    consistency: torch.Tensor


def _gaussian_blur(images: torch.Tensor) -> torch.Tensor:
    """Blur images ``(B, C, H, W)`` with the Gaussian window of SSIM and zero padding, by two 1-D convolutions."""
    positions = torch.arange(SSIM_WINDOW, device=images.device, dtype=images.dtype) - SSIM_WINDOW // 2
    window = torch.exp(-positions.square() / (2 * SSIM_SIGMA**2))
    window = (window / window.sum()).expand(images.shape[1], 1, 1, -1)
    half = SSIM_WINDOW // 2
    rows = F.conv2d(images, window, padding=(0, half), groups=images.shape[1])
    return F.conv2d(rows, window.transpose(2, 3), padding=(half, 0), groups=images.shape[1])


def ssim_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return 1 - SSIM, averaged over all pixels, channels and samples (Wang et al. 2004; paper Eq. 5).

    Unlike kornia's ``ssim_loss``, and like the published implementation, it is not halved, and pads with zeros.

    Args:
        prediction: Images in [-1, 1], ``(B, C, H, W)``.
        target: Images in [-1, 1], ``(B, C, H, W)``.

    Returns:
        Scalar in [0, 2].
    """
    moments = torch.cat((prediction, target, prediction.square(), target.square(), prediction * target), dim=1)
    mean_a, mean_b, square_a, square_b, product = _gaussian_blur(moments).chunk(5, dim=1)
    c1 = (0.01 * SSIM_DYNAMIC_RANGE) ** 2
    c2 = (0.03 * SSIM_DYNAMIC_RANGE) ** 2
    covariance = product - mean_a * mean_b
    # Clamped against rounding errors, which matter if a prediction is far out of [-1, 1].
    variances = (square_a - mean_a.square()).clamp(min=0) + (square_b - mean_b.square()).clamp(min=0)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return 1 - (luminance * (2 * covariance + c2) / (variances + c2)).mean()


class TransFusionLoss(nn.Module):
    """The loss of TransFusion (Eq. 9). A weight of zero switches a term off, as in the ablations of Table 4.

    Args:
        normal_weight: Weight of the normal appearance term (Eq. 5).
        mask_weight: Weight of the mask term (Eq. 6).
        anomaly_weight: Weight of the anomaly appearance term (Eq. 7).
        consistency_weight: Weight of the consistency term (Eq. 8).
        focal_weight: Weight alpha of the focal loss inside of the mask term (Eq. 6).

    Raises:
        TypeError: If a weight is no number.
        ValueError: If a weight is negative or not finite, or the four terms are all off.
    """

    def __init__(
        self,
        *,
        normal_weight: Weight,
        mask_weight: Weight,
        anomaly_weight: Weight,
        consistency_weight: Weight,
        focal_weight: Weight,
    ) -> None:
        given: dict[str, float] = check_arguments(TransFusionLoss.__init__, locals())
        super().__init__()
        self.focal_weight = given.pop("focal_weight")
        self.weights = given
        if not any(self.weights.values()):
            msg = f"All of {', '.join(self.weights)} are 0: nothing is left to train. Keep at least one above 0."
            raise ValueError(msg)

    def forward(
        self,
        prediction: Prediction,
        target: Target,
        x_t: torch.Tensor,
        beta: torch.Tensor,
        next_beta: torch.Tensor,
    ) -> LossTerms:
        """Compute the loss of a batch.

        Args:
            prediction: Prediction of the network for ``x_t``.
            target: Ground truth for ``x_t``.
            x_t: Input images in [-1, 1], ``(B, 3, H, W)``.
            beta: beta_t of each sample, ``(B, 1, 1, 1)``.
            next_beta: beta_{t-1} of each sample, ``(B, 1, 1, 1)``.

        Returns:
            The loss and its terms.

        Raises:
            ValueError: If a tensor does not have this shape.
        """
        batch, _, *size = x_t.shape
        for tensors in (prediction, target):
            # Nothing is trained by what a prediction has beside its three heads.
            for name, tensor in zip(tensors._fields[:3], tensors[:3], strict=True):
                check_shape(f"The {type(tensors).__name__}'s {name}", tensor, batch, 1 if "mask" in name else 3, *size)
        for name, tensor in (("beta", beta), ("next_beta", next_beta)):
            check_shape(name, tensor, batch, 1, 1, 1)
        # Under autocast the heads are in 16 bits, in which the variances of SSIM suffer from cancellation.
        with torch.autocast(x_t.device.type, enabled=False):
            dtype = torch.promote_types(prediction.mask_logits.dtype, torch.float32)
            anomaly, normal, mask_logits = (head.to(dtype) for head in prediction[:3])
            target = Target(*(truth.to(dtype) for truth in target))
            x_t, beta, next_beta = (tensor.to(dtype) for tensor in (x_t, beta, next_beta))
            mask_probability = mask_logits.sigmoid()
            weighted_anomaly = beta * target.anomaly

            normal_term = ssim_loss(normal, target.normal) + F.l1_loss(normal, target.normal)
            focal = sigmoid_focal_loss(mask_logits, target.mask, alpha=0.25, gamma=2, reduction="mean")
            mask_term = self.focal_weight * focal + F.smooth_l1_loss(mask_probability, target.mask)
            anomaly_term = F.mse_loss(anomaly, weighted_anomaly)
            consistency_term = F.mse_loss(
                reverse_step(x_t, mask_probability, anomaly, normal, beta, next_beta),
                reverse_step(x_t, target.mask, weighted_anomaly, target.normal, beta, next_beta),
            )
            terms = (
                self.weights["normal_weight"] * normal_term,
                self.weights["mask_weight"] * mask_term,
                self.weights["anomaly_weight"] * anomaly_term,
                self.weights["consistency_weight"] * consistency_term,
            )
            return LossTerms(torch.stack(terms).sum(), *terms)
