# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""A picture of a model's results: cases of each kind of defect."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from anomalib_transfusion.files import written_whole

from .detection import GOOD, Found

__all__ = ["draw_cases"]

COLUMN_INCHES = 1.7
DPI = 80
QUALITY = 82


def draw_cases(found: Found, path: Path) -> Path:
    """Draw the best, the median and the worst case of each kind, by score, with the score beside it.

    The best case of a defect has the highest score, that of a good image the lowest.

    Args:
        found: Results of a model.
        path: JPEG to write.

    Returns:
        The path.
    """
    cases = []
    for kind in sorted(set(found.kinds), key=lambda kind: (kind == GOOD, kind)):
        places = np.flatnonzero(found.kinds == kind)
        order = places[np.argsort(found.scores[places].numpy(), kind="stable")]
        order = order if kind == GOOD else order[::-1]
        chosen = (order[0], order[len(order) // 2], order[-1])
        cases += [(kind, what, place) for what, place in zip(("best", "median", "worst"), chosen, strict=True)]
    columns = ["image and true outline", "anomaly map"] + (
        ["reconstruction"] if found.reconstructions is not None else []
    )
    # Equal for all images, so that a person sees how far a defect stands out.
    limits = float(found.maps.min()), float(np.quantile(found.maps.amax(dim=(1, 2)).numpy(), 0.95))
    # Beside each other: three cases of a kind in a row.
    rows, wide = len(cases) // 3, 3 * len(columns)
    figure = Figure(figsize=(COLUMN_INCHES * wide, (COLUMN_INCHES + 0.25) * rows), layout="constrained")
    axes = figure.subplots(rows, wide, squeeze=False)
    for number, (kind, what, place) in enumerate(cases):
        first, *others = axes[number // 3, number % 3 * len(columns) :][: len(columns)]
        first.imshow(found.images[place].permute(1, 2, 0))
        if found.masks[place].any():
            first.contour(found.masks[place].float(), levels=[0.5], colors="red", linewidths=0.8)
        first.set_title(f"{kind}, {what}: {found.scores[place]:.3f}", fontsize=8)
        others[0].imshow(found.maps[place], vmin=limits[0], vmax=limits[1], cmap="inferno")
        if found.reconstructions is not None:
            others[1].imshow(found.reconstructions[place].permute(1, 2, 0))
        if number < 3:
            for axis, title in zip(others, columns[1:], strict=True):
                axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=DPI, format="jpg", pil_kwargs={"quality": QUALITY})
    return path
