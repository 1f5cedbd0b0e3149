# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The reverse process by inpainting as the columns of a film strip: what is given and painted at each timestep."""

from collections.abc import Container

import torch

from anomalib_transfusion.visualization.film_strip import Draw, Moment

from .heatmaps import bound
from .torch_model import DrdcModel

__all__ = ["ROW_NAMES", "moments_of"]

ROW_NAMES = {
    "image": "image, or\nset given",
    "painted": "painted",
    "map": "anomaly\nmap",
}


@torch.no_grad()
def moments_of(
    model: DrdcModel,
    images: torch.Tensor,
    timesteps: Container[int],
    draw: Draw,
) -> list[Moment]:
    """Paint an image, and show timesteps and the result.

    Args:
        model: The model, in evaluation mode.
        images: A single image in [0, 1], ``(1, 3, H, W)``.
        timesteps: The timesteps to show.
        draw: Makes a picture of an image in [0, 1], ``(1, C, H, W)``.

    Returns:
        The timesteps in their order: what the denoiser is given of the first set of the smallest cells, what is painted
        with these and all their sets, and where the painted image differs. Then the image, what is painted at last, and
        the map.
    """
    predictions, found = model.predict(images)
    moments = []
    last = images
    if found.painted is not None:
        first = min(range(len(model.refinement.cell_sizes)), key=model.refinement.cell_sizes.__getitem__)
        x = 2 * images - 1
        steps = model.refinement.steps(x, found.categories)
        for timestep, (given, painted) in zip(model.refinement.timesteps, steps, strict=True):
            last = (painted[first] + 1) / 2
            if timestep in timesteps:
                head = f"t = {timestep}"
                change = (painted[first] - x).abs().mean(dim=1, keepdim=True)
                panels = {"image": (given[first * model.refinement.num_sets] + 1) / 2, "painted": last, "map": change}
                drawn = {row: draw(panel.clamp(0, 1)) for row, panel in panels.items()}
                moments.append(Moment(timestep, head, head, drawn))
    panels = {"image": images, "painted": last}
    if found.painted is None:
        panels["painted"] = bound(found.base_map)
    if predictions.anomaly_map is not None:
        panels["map"] = predictions.anomaly_map
    drawn = {row: draw(panel.clamp(0, 1)) for row, panel in panels.items()}
    return [*moments, Moment(None, "result", "result", drawn)]
