# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Parts of a result sheet that anomalib's visualizer lacks: fitted labels, a line with the verdict, the difference."""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.visualization.image.functional import add_text_to_image, dynamic_font_size
from anomalib.visualization.image.item_visualizer import DEFAULT_TEXT_CONFIG
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import to_pil_image

from .result_page import Result, number

__all__ = ["caption", "difference_panel", "fitted_font", "halves", "labeled", "labelled", "side_by_side"]

DARK, LIGHT, GAP, MARGIN = (24, 26, 30), (240, 240, 240), 4, 10
PLAIN, RIGHT, WRONG = (230, 230, 230), (110, 215, 130), (255, 130, 120)
SMALLEST_FONT = 6
VERDICTS = {True: "Defect", False: "Good", None: "No verdict"}
REMARKS = {
    "false alarm": "false alarm: labeled good",
    "miss": "missed: labeled defective",
    "defect found": "correct",
    "good passed": "correct",
}


def difference_panel(image: torch.Tensor, reconstruction: torch.Tensor) -> Image.Image:
    """Draw image minus reconstruction: gray where they are equal, with the same scale in every sheet.

    Args:
        image: Image in [0, 1], ``(3, H, W)``.
        reconstruction: Its reconstruction in [0, 1], ``(3, H, W)``.

    Returns:
        The difference of each channel, from black at -0.5 to white at 0.5.
    """
    return to_pil_image((image.float().cpu() - reconstruction.float().cpu() + 0.5).clamp(0, 1))


def fitted_font(text: str, width: int, largest: int, font: str | None = None) -> int:
    """Return the largest font size at which a text fits into a width.

    Args:
        text: One line of text.
        width: Largest width of the text in pixels.
        largest: Largest font size.
        font: Font file, as in anomalib's ``text_config``.

    Returns:
        Size of the font.
    """
    size = largest
    while size > SMALLEST_FONT and _font(font, size).getlength(text) > width:
        size -= 1
    return size


def labeled(panel: Image.Image, text: str, text_config: dict[str, Any]) -> Image.Image:
    """Write the name of a panel above it, so that it covers no defect.

    Args:
        panel: Image.
        text: Its name.
        text_config: anomalib's ``text_config`` without ``enable``. With a ``position``, the name is written over the
            panel, as anomalib does.

    Returns:
        The panel with its name.
    """
    size, font = text_config.get("size"), text_config.get("font")
    if size is None:
        largest = dynamic_font_size(panel.size, min_size=12, divisor=13)
        size = fitted_font(text, panel.width - 2 * MARGIN, largest, font)
    config = {**text_config, "size": size}
    if "position" in config:
        return add_text_to_image(panel, text, **config)
    # In the plain strip above the panel, text has a background only if the user chose one.
    if config.get("background") == DEFAULT_TEXT_CONFIG["background"]:
        config["background"] = None
    color = config.get("color", "white")
    red, green, blue, *_ = ImageColor.getrgb(color) if isinstance(color, str) else color
    # The same height for every name, whatever letters it has.
    height = int(_font(font, size).getbbox("Ag")[3]) + MARGIN
    sheet = Image.new("RGB", (panel.width, panel.height + height), DARK if red + green + blue > 3 * 127 else LIGHT)
    sheet.paste(panel, (0, height))
    return add_text_to_image(sheet, text, **config, position=(MARGIN, MARGIN // 2))


# Its name in the first release.
labelled = labeled


def caption(width: int, height: int, result: Result, threshold: float | None, font: str | None = None) -> Image.Image:
    """Write a line with verdict, score, threshold, and whether the verdict is right.

    Args:
        width: Width in pixels.
        height: Height of a panel in pixels, which determines the font size.
        result: Result of the run for the image.
        threshold: Score above which an image is called defective, if there is one.
        font: Font file, as in anomalib's ``text_config``.

    Returns:
        The line.
    """
    compared = "no threshold" if threshold is None else f"threshold {number(threshold)}"
    parts = [VERDICTS[result.verdict], f"score {number(result.score)}", compared]
    if result.outcome in REMARKS:
        parts.append(REMARKS[result.outcome])
    elif result.truth is not None:
        parts.append("labeled defective" if result.truth else "labeled good")
    color = PLAIN
    if result.verdict is not None and result.truth is not None:
        color = RIGHT if result.verdict == result.truth else WRONG
    text = "    ".join(parts)
    size = fitted_font(text, width - 2 * MARGIN, dynamic_font_size((width, height), min_size=12, divisor=11), font)
    line = Image.new("RGB", (width, size + 2 * MARGIN), DARK)
    ImageDraw.Draw(line).text((MARGIN, line.height // 2), text, fill=color, font=_font(font, size), anchor="lm")
    return line


def side_by_side(panels: Sequence[Image.Image], above: Image.Image | None = None) -> Image.Image:
    """Put panels beside each other, aligned at the bottom.

    Args:
        panels: The panels.
        above: Picture of the line above them.

    Returns:
        The sheet.
    """
    top = above.height if above else 0
    height = top + max(panel.height for panel in panels)
    sheet = Image.new("RGB", (_width(panels), height), DARK)
    if above:
        sheet.paste(above, (0, 0))
    x = 0
    for panel in panels:
        sheet.paste(panel, (x, height - panel.height))
        x += panel.width + GAP
    return sheet


def halves(panels: Sequence[Image.Image]) -> list[tuple[int, int]]:
    """Return the left and right end in pixels of the left and the right half of the panels."""
    middle = (len(panels) + 1) // 2
    split = _width(panels[:middle])
    return [(0, split), (split + GAP, _width(panels))] if middle < len(panels) else [(0, split)]


def _width(panels: Sequence[Image.Image]) -> int:
    """Return the width of panels beside each other."""
    return sum(panel.width for panel in panels) + GAP * (len(panels) - 1)


def _font(font: str | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font as anomalib finds it."""
    try:
        return ImageFont.truetype(font, size) if font else ImageFont.load_default(size=size)
    except OSError:
        return ImageFont.load_default(size=size)
