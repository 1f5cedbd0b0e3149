# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Synthetic anomalies with the simulated mask of the step before, an input of the network (paper Section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_transfusion.synthesis import AnomalyGenerator
from anomalib_transfusion.synthesis.masks import THRESHOLD

__all__ = ["SimulatedStep", "StepGenerator", "previous_mask"]

# The four kinds of simulated previous mask.
DROPPED, SHRUNK, SAME, GROWN = range(4)


class SimulatedStep(NamedTuple):
    """Synthetic anomalies for the forward process (Eq. 2), and the simulated mask of the reverse step before.

    Attributes:
        appearance: The anomalies' appearance in [-1, 1], zero where nothing is anomalous, ``(B, 3, H, W)``.
        mask: Anomaly mask, 0 or 1, ``(B, 1, H, W)``.
        previous_mask: The simulated mask of the step before, 0 or 1, ``(B, 1, H, W)``.
    """

    appearance: Tensor
    mask: Tensor
    previous_mask: Tensor


class StepGenerator(AnomalyGenerator):
    """Puts synthetic anomalies on half of the images of a batch, and simulates the mask of the step before.

    Its parameters are those of :class:`AnomalyGenerator`.
    """

    anomaly = SimulatedStep

    def masks(self, noise: Tensor) -> tuple[Tensor, ...]:
        """Return the anomaly mask and the simulated previous mask of noise ``(B, 1, H, W)``."""
        return *super().masks(noise), previous_mask(noise)


def previous_mask(noise: Tensor, kind: Tensor | int | None = None) -> Tensor:
    """Simulate the mask that the step before in the reverse process would have predicted (paper Section 3.3).

    The threshold on the magnitude of the noise is one of four, with equal probability: the map's signed maximum,
    which drops the anomaly or nearly all of it; uniform in (0.5, 1), which shrinks it; 0.5, which keeps it; uniform in
    (0, 0.5), which lets it grow.

    Args:
        noise: Noise of shape ``(B, 1, H, W)`` from which the anomaly mask was taken.
        kind: ``DROPPED``, ``SHRUNK``, ``SAME`` or ``GROWN`` for all maps, or integers of shape ``(B,)`` for each.
            Drawn uniformly where ``None``.

    Returns:
        The mask, 0 or 1, shape ``(B, 1, H, W)``, in the type of ``noise``.
    """
    batch = len(noise)
    if kind is None:
        kind = torch.randint(0, 4, (batch,), device=noise.device)
    elif isinstance(kind, int):
        kind = torch.full((batch,), kind, device=noise.device)
    uniform = torch.rand(batch, device=noise.device, dtype=noise.dtype)
    thresholds = torch.stack((
        noise.flatten(1).amax(dim=1),
        THRESHOLD + (1 - THRESHOLD) * uniform,
        torch.full_like(uniform, THRESHOLD),
        THRESHOLD - THRESHOLD * uniform,
    ))
    threshold = thresholds.gather(0, kind.view(1, -1)).view(-1, 1, 1, 1)
    return (noise.abs() > threshold).to(noise.dtype)
