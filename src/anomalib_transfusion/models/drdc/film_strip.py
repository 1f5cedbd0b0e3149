# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The reverse process by inpainting as the columns of a film strip: what is given and painted at each timestep."""

from collections.abc import Container

import torch
from torch import Tensor

from anomalib_transfusion.visualization.film_strip import Draw, Moment

from .diffusion import restart
from .heatmaps import bound, difference
from .inpainting import fill
from .torch_model import DrdcModel

__all__ = ["ROW_NAMES", "moments_of"]

ROW_NAMES = {
    "image": "image, or\nwhat is given",
    "mask": "hidden\npixels",
    "painted": "painted\nimage",
    "difference": "difference",
    "map": "anomaly\nmap",
}


@torch.no_grad()
def moments_of(
    model: DrdcModel,
    images: Tensor,
    timesteps: Container[int],
    draw: Draw,
) -> list[Moment]:
    """Show the base model's map, what is painted with each cell size at some timesteps, and what comes of both.

    Args:
        model: The model, in evaluation mode.
        images: A single image in [0, 1], ``(1, 3, H, W)``.
        timesteps: The timesteps to show.
        draw: Makes a picture of an image in [0, 1], ``(1, C, H, W)``.

    Returns:
        The base model's map, where there is a refinement. For each timestep and cell size what the denoiser is given
        of the first set, that set, the image painted with all sets, and where it differs from the image. Then the
        result: the image, the mean of the painted ones, the map of the refinement, and the final map. Maps are at 0.5
        where an image is as normal ones are on average; differences are in units of half the range of values.
    """
    predictions, found = model.predict(images)
    result: dict[str, Tensor | None] = {"image": images, "map": predictions.anomaly_map}
    moments = []
    if found.painted is not None and found.refinement is not None:
        base = {"image": images, "map": bound(found.base_map)}
        moments.append(Moment(None, "base\nmodel", "base model", {row: draw(panel) for row, panel in base.items()}))
        # Of an image that is not refined, the image itself is said to be painted.
        if not torch.equal(found.painted[0, 0].to(images.dtype), 2 * images - 1):
            moments += _passes_of(model, 2 * images - 1, found.painted, timesteps, draw)
        result |= {"painted": _to_image(found.painted.mean(dim=(0, 1))), "difference": bound(found.refinement)}
    drawn = {row: draw(panel) for row, panel in result.items() if panel is not None}
    return [*moments, Moment(None, "result", "result", drawn)]


def _passes_of(model: DrdcModel, x: Tensor, painted: Tensor, timesteps: Container[int], draw: Draw) -> list[Moment]:
    """Return what is shown of each timestep and cell size; ``painted`` are the images ``(n_t, n_k, 1, 3, H, W)``."""
    refinement = model.refinement
    noise = refinement.noise.to(x.dtype)
    masks = refinement.masks[:: refinement.num_sets].unsqueeze(1)
    before = [fill(x, mask, cell_size) for mask, cell_size in zip(masks, refinement.cell_sizes, strict=True)]
    moments = []
    for timestep, images in zip(refinement.timesteps, painted.to(x.dtype), strict=True):
        level = refinement.alpha_bar[timestep].view(1, 1, 1, 1).to(x.dtype)
        for cell_size, mask, last, image in zip(refinement.cell_sizes, masks, before, images, strict=True):
            if timestep not in timesteps:
                continue
            panels = {
                # Of hidden pixels, a pass starts from what the last one has painted of the set: they are in the image.
                "image": _to_image(restart(last, x, mask, level, noise, refinement.known)),
                "mask": mask,
                "painted": _to_image(image),
                "difference": difference(model.difference, x, image),
            }
            drawn = {row: draw(panel) for row, panel in panels.items()}
            head = f"t = {timestep}\n{cell_size} px"
            moments.append(Moment(timestep, head, head.replace("\n", ", cells of "), drawn))
        before = list(images)
    return moments


def _to_image(x: Tensor) -> Tensor:
    """Bring an image in [-1, 1] to [0, 1]; a picture is clipped to that."""
    return (x + 1) / 2
