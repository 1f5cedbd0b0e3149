# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The steps of the reverse process as the columns of a film strip (paper Section 3.4, Figure 3)."""

from collections.abc import Container

import torch

from anomalib_transfusion.visualization.film_strip import Draw, Moment

from .torch_model import ReverseStep, TransFusionModel

__all__ = ["ROW_NAMES", "moments_of"]

# The letters are the paper's; the subscript of x is the timestep.
ROW_NAMES = {
    "image": "image\nxₜ",
    "mask": "mask\nMₜ",
    "anomaly": "anomaly\nappearance εₜ",
    "normal": "normal\nappearance nₜ",
}
# A space of the width of a digit (U+2007).
DIGIT_SPACE = "\u2007"


def moments_of(
    model: TransFusionModel,
    images: torch.Tensor,
    timesteps: Container[int],
    draw: Draw,
) -> list[Moment]:
    """Run the reverse process, and show some of its timesteps and x_0.

    Args:
        model: The model, in evaluation mode.
        images: A single image in [0, 1], ``(1, 3, H, W)``.
        timesteps: The timesteps to show.
        draw: Makes a picture of an image in [0, 1], ``(1, C, H, W)``.

    Returns:
        The timesteps in their order, and x_0.
    """
    moments = []

    def moment(timestep: int, beta: float, panels: dict[str, torch.Tensor]) -> Moment:
        """Return the column of a timestep, 0 being the result; the panels are in [0, 1]."""
        return Moment(
            timestep or None,
            f"t = {timestep}\nβₜ = {beta:.2f}",
            f"t = {timestep:{DIGIT_SPACE}>2}   βₜ = {beta:.2f}",
            {row: draw(panel) for row, panel in panels.items()},
        )

    def keep(step: ReverseStep) -> None:
        if step.timestep in timesteps:
            # Inside of the mask only: outside it is noise, amplified by dividing by beta_t, and ignored by the step.
            anomaly = step.anomaly * (step.mask > 0.5)
            panels = {"image": step.x_t, "anomaly": anomaly, "normal": step.normal}
            shown = {row: (panel + 1) / 2 for row, panel in panels.items()} | {"mask": step.mask}
            beta = model.beta[step.timestep].item()
            moments.append(moment(step.timestep, beta, {row: shown[row] for row in ROW_NAMES}))

    process = model.reverse_process(images, callback=keep)
    return [*moments, moment(0, 0.0, {"image": (process.reconstruction + 1) / 2})]
