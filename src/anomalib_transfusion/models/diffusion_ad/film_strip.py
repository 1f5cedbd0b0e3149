# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""One-step denoising as a film strip: a column for each noise scale and one for the result (paper Section III-B)."""

from collections.abc import Container

import torch

from anomalib_transfusion.visualization.film_strip import Draw, Moment

from .guidance import guidance_share
from .torch_model import DiffusionADModel

__all__ = ["ROW_NAMES", "moments_of"]

ROW_NAMES = {
    "image": "image\nxₜ",
    "estimate": "one-step\nestimate x₀",
    "map": "anomaly\nmap",
}


def moments_of(
    model: DiffusionADModel,
    images: torch.Tensor,
    timesteps: Container[int],
    draw: Draw,
) -> list[Moment]:
    """Denoise an image, and show its noise scales and the result.

    Args:
        model: The model, in evaluation mode.
        images: A single image in [0, 1], ``(1, 3, H, W)``.
        timesteps: The timesteps to show.
        draw: Makes a picture of an image in [0, 1], ``(1, C, H, W)``.

    Returns:
        The noise scales, the small one first: the noised image and the estimate from it. Then the result: the image,
        the guided reconstruction, with the share g of the guide in it, and the anomaly map.
    """
    predictions, denoised = model.predict(images)
    moments = []
    for timestep, x_t, estimate in zip(model.test_timestep.tolist(), denoised.x_t, denoised.estimates, strict=True):
        if timestep in timesteps:
            head = f"t = {timestep}"
            moments.append(Moment(timestep, head, head, {"image": draw(x_t), "estimate": draw(estimate)}))
    head = "result"
    if len(denoised.estimates) > 1:
        share = guidance_share(model.rates.at(model.test_timestep[0]), model.guidance_weight)
        head = f"guided\ng = {share.item():.2f}"
    panels = {"image": images, "estimate": denoised.reconstruction, "map": predictions.anomaly_map}
    drawn = {row: draw(panel) for row, panel in panels.items() if panel is not None}
    return [*moments, Moment(None, head, head.replace("\n", ", "), drawn)]
