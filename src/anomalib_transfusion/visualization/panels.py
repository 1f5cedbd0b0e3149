# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Tables of small pictures with names for rows and columns."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import to_pil_image

__all__ = ["RECONSTRUCTION", "TrainingPanels", "draw_table", "largest", "to_panel"]

RECONSTRUCTION = "Reconstruction"
"""Name of the panel of reconstructions: images without their anomalies."""

BACKGROUND = (255, 255, 255)
INK = (30, 30, 30)
MARGIN = 10
GAP = 4
# Distance of lines as a multiple of the font size.
LINE_SPACING = 1.3
SMALLEST_FONT = 12
LARGEST_FONT = 22


class TrainingPanels(NamedTuple):
    """Images of some samples of a training step, as the table that shows them.

    Attributes:
        columns: Images in [0, 1] for each column of the table, by its head, ``(N, C, H, W)`` each.
        names: Text at the left of each row, one for each of the N samples.
    """

    columns: dict[str, torch.Tensor]
    names: list[str]


def largest(masks: torch.Tensor, number: int) -> torch.Tensor:
    """Return the indices of the samples with the largest masks, in descending order of area.

    Args:
        masks: Masks in [0, 1], ``(B, 1, H, W)``.
        number: Largest number of samples.

    Returns:
        Their indices, ``(N,)``.
    """
    # Stable, so that equal areas keep their order.
    return masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True)[:number]


def to_panel(image: torch.Tensor, size: tuple[int, int]) -> Image.Image:
    """Turn a tensor into a small picture.

    Args:
        image: An image or mask, ``(3, H, W)`` or ``(1, H, W)``, which is clipped to [0, 1].
        size: Width and height of the picture in pixels.

    Returns:
        The picture, in RGB.
    """
    # Rounded here, because to_pil_image truncates.
    whole = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return to_pil_image(whole).convert("RGB").resize(size, Image.Resampling.BILINEAR)


def draw_table(
    panels: Sequence[Sequence[Image.Image | None]],
    heads: Sequence[str],
    names: Sequence[str] | None = None,
    caption: str | None = None,
) -> Image.Image:
    """Arrange panels of the same size in a table.

    Args:
        panels: Rows of panels; ``None`` leaves a cell empty.
        heads: Text above each column.
        names: Text at the left of each row.
        caption: Text under the table.

    Returns:
        The table. Rows and columns are as large as the panels, or as their names where these are larger.
    """
    width, height = next(panel.size for row in panels for panel in row if panel is not None)
    font = _font(min(LARGEST_FONT, max(SMALLEST_FONT, round(max(width, height) / 11))))
    line = round(font.size * LINE_SPACING)
    names = names or [""] * len(panels)
    name_width = max(_text_width(name, font) for name in names)
    left = MARGIN + (name_width + MARGIN if name_width else 0)
    top = MARGIN + line * max(_num_lines(head) for head in heads) + GAP
    column_width = max(width, *(_text_width(head, font) for head in heads)) + GAP
    row_height = max(height, *(_num_lines(name) * line for name in names)) + GAP
    bottom = top + len(panels) * row_height - GAP

    table = Image.new(
        "RGB",
        (left + len(heads) * column_width - GAP + MARGIN, bottom + (GAP + line if caption else 0) + MARGIN),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(table)
    for column, head in enumerate(heads):
        center = left + column * column_width + (column_width - GAP) / 2
        _write(draw, (center, top - GAP), head, font, "md", "center")
    for number, (row, name) in enumerate(zip(panels, names, strict=True)):
        middle = top + number * row_height + (row_height - GAP) / 2
        _write(draw, (left - MARGIN, middle), name, font, "rm", "right")
        for column, panel in enumerate(row):
            x = left + column * column_width + (column_width - GAP - width) // 2
            y = top + number * row_height + (row_height - GAP - height) // 2
            if panel is not None:
                table.paste(panel, (x, y))
    if caption:
        _write(draw, (left, bottom + GAP), caption, font, "la", "left")
    return table


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    anchor: str,
    align: str,
) -> None:
    """Write text with the line distance that :func:`draw_table` assumes."""
    # Pillow adds this to the height of a line.
    natural = draw.textbbox((0, 0), "A\nA", font=font, spacing=0)[3] - draw.textbbox((0, 0), "A", font=font)[3]
    spacing = round(font.size * LINE_SPACING) - natural
    draw.multiline_text(place, text, INK, font, anchor=anchor, align=align, spacing=spacing)


def _text_width(text: str, font: ImageFont.FreeTypeFont) -> int:
    """Return the width in pixels of the longest line."""
    return max(round(font.getlength(line)) for line in text.split("\n"))


def _num_lines(text: str) -> int:
    """Return the number of lines."""
    return text.count("\n") + 1


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib ships, which has Greek letters and subscripts."""
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
