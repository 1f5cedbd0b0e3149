# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The transparency-based diffusion process: its schedule, and one function each for Eq. 2 and 4 of the paper.

Images, normal and anomaly appearance are in [-1, 1] with shape ``(B, C, H, W)``; masks are ``(B, 1, H, W)``; the
transparency beta is in [0, 1] (0: the anomaly is invisible, 1: it is opaque) and broadcasts against them.
"""

from typing import Literal

import torch

from anomalib_transfusion.checks import check_arguments

__all__ = ["Schedule", "forward_process", "inference_timesteps", "reverse_step", "transparency_schedule"]

Schedule = Literal["linear", "quadratic", "root"]

# Far beyond any use: each timestep is a network pass.
MAX_TIMESTEPS = 10_000


def transparency_schedule(timesteps: int, schedule: Schedule) -> torch.Tensor:
    """Return the transparency beta_t for t = 0 ... timesteps - 1 (paper Section 4.3; Table 4 for the alternatives).

    Args:
        timesteps: Number of timesteps T, at least 2.
        schedule: ``linear`` (u), ``quadratic`` (u^2) or ``root`` (sqrt u), with u equally spaced from 0 to 1.

    Returns:
        Tensor of shape ``(timesteps,)``, rising from 0 to 1.

    Raises:
        ValueError: If there are fewer than two timesteps or far too many, or the schedule is unknown.
    """
    check_arguments(transparency_schedule, locals())
    if not 2 <= timesteps <= MAX_TIMESTEPS:
        msg = (
            f"timesteps={timesteps}: a schedule from 0 to 1 needs at least 2 timesteps, and {MAX_TIMESTEPS} are the "
            "most (the paper has 20)."
        )
        raise ValueError(msg)
    u = torch.linspace(0, 1, timesteps)
    return {"linear": u, "quadratic": u.square(), "root": u.sqrt()}[schedule]


def inference_timesteps(timesteps: int, steps: int | None = None, start: int | None = None) -> list[int]:
    """Return the timesteps of the reverse process in descending order, each of them one network pass.

    The last step leads to t = 0, where beta is 0 and no pass is needed, so the whole process over T timesteps has
    T - 1 passes.

    Args:
        timesteps: Number of timesteps T that the network was trained with.
        steps: Number of passes; fewer than all are spread evenly from ``start`` to 1. ``None`` and T mean all.
        start: First timestep. Defaults to T - 1, where beta is 1 (the paper's); the published code starts at T - 2.

    Returns:
        The timesteps, e.g. ``[19, 18, ..., 1]`` for T = 20.

    Raises:
        ValueError: If ``start`` is outside [1, T - 1] or ``steps`` outside [1, T].
    """
    first = timesteps - 1 if start is None else start
    if not 1 <= first <= timesteps - 1:
        msg = (
            f"start_timestep={start} is outside of the trained timesteps; expected 1 to {timesteps - 1}. Leave it out "
            "to start at the last."
        )
        raise ValueError(msg)
    if steps is not None and not 1 <= steps <= timesteps:
        msg = (
            f"num_inference_steps={steps} is impossible with timesteps={timesteps}; expected 1 to {timesteps}. Leave "
            "it out for all of them."
        )
        raise ValueError(msg)
    passes = first if steps is None else min(steps, first)
    if passes == 1:
        return [first]
    return [round(first - i * (first - 1) / (passes - 1)) for i in range(passes)]


def forward_process(
    normal: torch.Tensor,
    anomaly: torch.Tensor,
    mask: torch.Tensor,
    beta: torch.Tensor,
) -> torch.Tensor:
    """Blend the anomaly appearance into the normal one (paper Eq. 2).

    Args:
        normal: Normal appearance n, ``(B, C, H, W)``.
        anomaly: Anomaly appearance, ``(B, C, H, W)``.
        mask: Anomaly mask M in {0, 1}, ``(B, 1, H, W)``.
        beta: Transparency of each sample, broadcastable to ``(B, 1, 1, 1)``.

    Returns:
        The image x_t, ``(B, C, H, W)``.
    """
    return (1 - mask) * normal + beta * (mask * anomaly) + (1 - beta) * (mask * normal)


def reverse_step(
    x_t: torch.Tensor,
    mask: torch.Tensor,
    weighted_anomaly: torch.Tensor,
    normal: torch.Tensor,
    beta: torch.Tensor,
    next_beta: torch.Tensor,
) -> torch.Tensor:
    """Make the anomaly more transparent, from x_t to the image of a lower timestep (paper Eq. 4).

    The network's anomaly head predicts beta_t times the anomaly appearance, as it is visible in x_t. The weight
    (beta_t - beta_next) of Eq. 4 therefore becomes (beta_t - beta_next) / beta_t.

    Args:
        x_t: Current image, ``(B, C, H, W)``.
        mask: Mask probability in [0, 1], ``(B, 1, H, W)``; binarized at 0.5 here.
        weighted_anomaly: beta_t times the anomaly appearance, ``(B, C, H, W)``.
        normal: Normal appearance, ``(B, C, H, W)``.
        beta: beta_t > 0, broadcastable to ``(B, 1, 1, 1)``.
        next_beta: beta of the next, lower timestep.

    Returns:
        The image at the next timestep, ``(B, C, H, W)``.
    """
    change = beta - next_beta
    binary = (mask > 0.5).to(x_t.dtype)
    return x_t - (change / beta) * binary * weighted_anomaly + change * binary * normal
