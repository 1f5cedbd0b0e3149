# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks of masks of defects before a run: masks that anomalib would misread."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

__all__ = ["check_masks"]

# Largest share of nearly black pixels among those that are not 0. JPEG has 2 to 3 % at the edge of a defect that is
# 250 pixels wide, 11 to 12 % at one of 64; labels 1, 2, 3, ... of equal area have at most a sixteenth.
MOST_NEARLY_BLACK = 0.1
# Largest number of values, and of files, to list in a message.
LISTED = 4


class _Levels(NamedTuple):
    """How often a mask has each value, as anomalib reads it.

    Attributes:
        path: The file.
        counts: Number of pixels of each gray value, ``(256,)``.
        in_alpha: Whether the mask has one gray value, but several in its alpha channel, which anomalib does not read.
    """

    path: str
    counts: np.ndarray
    in_alpha: bool

    @property
    def values(self) -> list[int]:
        """The gray values that occur, ascending."""
        return np.flatnonzero(self.counts).tolist()

    @property
    def defect(self) -> float:
        """Share of the image that anomalib takes for the defect, in [0, 1]: all pixels that are not 0."""
        return float(self.counts[1:].sum() / self.counts.sum())

    def nearly_black(self) -> float:
        """Return the share of the defect's pixels, in [0, 1], of at most a sixteenth of the brightest value."""
        dark = self.counts[1 : self.values[-1] // 16 + 1].sum()
        return float(dark / max(1, self.counts[1:].sum()))

    def __str__(self) -> str:
        """Describe the file: its path, its values and the share of the image that anomalib takes for the defect."""
        values = [str(value) for value in self.values]
        if len(values) > LISTED:
            values = [*values[: LISTED - 1], "...", f"{values[-1]} ({len(values)} of them)"]
        word = "value" if len(values) == 1 else "values"
        return f"{self.path}: {word} {', '.join(values)}, {self.defect:.1%} of the image"


def check_masks(paths: Sequence[str]) -> None:
    """Check the values of masks of defects; anomalib takes all pixels that are not 0 for the defect.

    Each mask is read once, which takes about a seventh of the time that its image takes (PNG of 1024x1024 pixels).

    Args:
        paths: The files, which can be opened as images.

    Raises:
        ValueError: If anomalib would misread a mask: its defect is in the alpha channel alone, its background is not 0,
            or much of what would be the defect is nearly black.
    """
    with ThreadPoolExecutor() as pool:
        # A file that is damaged behind its head is left to the data loader, whose error names it.
        masks = [mask for mask in pool.map(_levels, paths) if mask is not None]
    _refuse(
        [mask for mask in masks if mask.in_alpha],
        "of one gray value, and show the defect in the alpha channel, which anomalib does not read",
        "Save that channel as the mask: Image.open(path).getchannel('A').save(path)",
    )
    _refuse(
        [mask for mask in masks if mask.values[0] > 0 and len(mask.values) > 1],
        "without a pixel of 0, the value of the background, and anomalib takes all that is not 0 for the defect",
        "Save them with 0 and 255: Image.open(path).convert('L').point(lambda v: 255 * (v > 127)).save(path)",
    )
    _refuse(
        [mask for mask in masks if mask.nearly_black() > MOST_NEARLY_BLACK],
        f"not two-valued, and more than {MOST_NEARLY_BLACK:.0%} of what anomalib takes for the defect, all that is "
        "not 0, is nearly black (JPEG does this)",
        "Save them as PNG with 0 and 255: Image.open(path).convert('L').point(lambda v: 255 * (v > 127))",
    )
    _doubt(
        [mask for mask in masks if len(mask.values) > 2],
        "not two-valued. anomalib takes all that is not 0 for the defect; where that is wrong, as at blurred edges, "
        "save them with 0 and 255",
    )
    _doubt(
        [mask for mask in masks if mask.values == [0]],
        "without a defect: metrics of pixels count all of the image as good. Draw the defect, or move the image to "
        "the good ones",
    )
    _doubt(
        [mask for mask in masks if len(mask.values) == 1 and mask.values[0] > 0],
        "a defect everywhere: metrics of pixels count all of the image as defective. Where that is wrong, save them "
        "with 0 on the background",
    )


def _levels(path: str) -> _Levels | None:
    """Return the values of a mask, or None where it cannot be decoded."""
    try:
        with Image.open(path) as file:
            # As anomalib.data.utils.read_mask does it.
            counts = np.array(file.convert("L").histogram())
            one_valued = np.count_nonzero(counts) == 1
            if one_valued and ("A" in file.getbands() or "transparency" in file.info):
                lowest, highest = file.convert("RGBA").getchannel("A").getextrema()
                return _Levels(path, counts, in_alpha=lowest != highest)
            return _Levels(path, counts, in_alpha=False)
    # What decoders raise for damaged files is not confined to OSError.
    except Exception:  # noqa: BLE001
        return None


def _refuse(masks: Sequence[_Levels], problem: str, remedy: str) -> None:
    """Raise ValueError if there are masks with a problem; names them."""
    if masks:
        msg = f"{_listed(masks)} {problem}. Metrics of pixels would be of another truth. {remedy}."
        raise ValueError(msg)


def _doubt(masks: Sequence[_Levels], problem: str) -> None:
    """Warn if there are masks with a possible problem; names them."""
    if masks:
        rank_zero_warn(f"{_listed(masks)} {problem}.")


def _listed(masks: Sequence[_Levels]) -> str:
    """Return the beginning of a message about masks, with their names."""
    named = "; ".join(map(str, masks[:LISTED]))
    more = f"; and {len(masks) - LISTED} more" if len(masks) > LISTED else ""
    return f"Masks of defects ({named}{more}) are"
