# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Film strips and animations that show how a model arrives at its result."""

from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_transfusion.checks import Range, check_arguments
from anomalib_transfusion.files import written_whole
from anomalib_transfusion.training.image_files import read_image_file

from .panels import draw_table, to_panel

if TYPE_CHECKING:
    from anomalib_transfusion.models.base import DetectorMixin

__all__ = ["Draw", "Moment", "Row", "check_output", "visualize_reverse_process"]

Row = str
"""Name of a row of a film strip, such as ``image``; the rows depend on the model."""

Draw = Callable[[torch.Tensor], Image.Image]
"""Function that turns an image in [0, 1], ``(1, C, H, W)``, into a picture."""

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP"}
MAX_DURATION = 600
# Enough for a smooth animation, and few enough for any number of timesteps.
MAX_FRAMES = 40
# The first and the last frame are shown this many times as long as the others.
HOLD = 6


class Moment(NamedTuple):
    """Pictures of one timestep, or of the result.

    Attributes:
        timestep: The timestep; ``None`` for the result, which is always shown.
        head: Text above its column of the film strip.
        caption: Text under its frame of the animation.
        panels: Its pictures by the name of the row; rows without a picture are absent.
    """

    timestep: int | None
    head: str
    caption: str
    panels: dict[Row, Image.Image]


def visualize_reverse_process(
    model: "DetectorMixin",
    image: str | Path | Image.Image | torch.Tensor,
    output: str | Path | Sequence[str | Path] = (),
    columns: Annotated[int, Range(1, 100)] = 6,
    timesteps: Sequence[int] | None = None,
    rows: Sequence[Row] | None = None,
    panel_size: Annotated[int, Range(32, 2048, problem="is impossible; expected {least} to {most} pixels.")] = 160,
    duration: float = 5.0,
) -> Image.Image:
    """Show how a model arrives at its result for an image.

    Each column is a timestep, from the image itself to the result; the rows are inputs and predictions of the network
    at that timestep. TransFusion makes the defects transparent step by step (paper Section 3.4, as in Figure 3), with
    the rows ``image`` (x_t), ``mask`` (the probability M_t, white is 1), ``anomaly`` (the predicted anomaly appearance
    inside of the mask, where the step removes it; gray elsewhere) and ``normal`` (the predicted normal appearance).
    DiffusionAD estimates the normal image from little and from much noise (paper Section III-B), with the rows
    ``image`` (with noise), ``estimate`` and ``map``. DRDC paints an image in disjoint parts, with the rows ``image``
    (what the denoiser is given of one part), ``mask`` (that part, white is hidden), ``painted`` (all parts),
    ``difference`` and ``map``. Of other models the result alone is shown.

    Args:
        model: The model; its own pre-processor prepares the image. Its training or evaluation mode is restored.
        image: An image file, a PIL image, or a tensor in [0, 1] of shape ``(3, H, W)``.
        output: Files to write, by their suffix: ``.png`` or ``.jpg`` for the film strip, ``.gif`` or ``.webp`` for an
            animation of all timesteps, 40 at most. Existing files are replaced.
        columns: Number of timesteps in the film strip, 1 to 100, spread evenly over those of the model; the result
            is an additional column.
        timesteps: The timesteps themselves, instead of their number.
        rows: Names of the rows to show; all by default.
        panel_size: The longer side of each panel in pixels, 32 to 2048; panels have the image's own aspect ratio.
        duration: Length of the animation in seconds, above 0 and up to 600.

    Returns:
        The film strip, in RGB.

    Raises:
        FileNotFoundError: If there is no such image, or no folder to write into.
        TypeError: If an argument has the wrong type; the message names it.
        ValueError: If an argument is impossible, the image cannot be read, or an output's suffix is unknown.

    Example:
        >>> from anomalib_transfusion import TransFusion, visualize_reverse_process
        >>> model = TransFusion.load_from_checkpoint("model.ckpt")
        >>> strip = visualize_reverse_process(model, "scratch.png", output=["strip.png", "fading.gif"])
    """
    check_arguments(visualize_reverse_process, locals())
    _check_duration(duration)
    if not callable(getattr(model, "explain", None)):
        msg = (
            f"model is a {type(model).__name__}; expected TransFusion, DiffusionAD or another model of this plugin. "
            "Pass one of these."
        )
        raise TypeError(msg)
    outputs = [Path(output)] if isinstance(output, str | Path) else [Path(path) for path in output]
    for path in outputs:
        check_output(path)
    passes = model.explained_timesteps
    shown = _spread(passes, columns) if timesteps is None else _chosen(passes, timesteps)
    animated = _spread(passes, MAX_FRAMES) if any(path.suffix.lower() in ANIMATIONS for path in outputs) else []

    moments = _run(model, _as_tensor(image), {*shown, *animated}, panel_size)
    names = _names_of_rows(moments, rows, model.explanation.row_names if model.explanation else {})
    strip = _draw_strip(moments, shown, names)
    for path in outputs:
        with written_whole(path) as partial:
            if path.suffix.lower() in PICTURES:
                strip.save(partial, format=PICTURES[path.suffix.lower()])
            else:
                _write_animation(partial, path, _draw_frames(moments, animated, names), duration)
    return strip


def check_output(path: Path) -> None:
    """Raise an error if a file cannot be written, before any work is done.

    Args:
        path: The file to write.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If its suffix stands for neither a picture nor an animation.
    """
    if path.suffix.lower() not in {*PICTURES, *ANIMATIONS}:
        msg = (
            f"{path} has the suffix {path.suffix!r}; expected {', '.join(PICTURES)} for the film strip, or "
            f"{', '.join(ANIMATIONS)} for the animation. Rename it."
        )
        raise ValueError(msg)
    if not path.absolute().parent.is_dir():
        msg = f"There is no folder {path.absolute().parent} to write {path.name} into; make it first."
        raise FileNotFoundError(msg)


def _check_duration(duration: float) -> None:
    """Raise ValueError, naming the value, if the length of an animation is out of range."""
    if not 0 < duration <= MAX_DURATION:
        msg = (
            f"duration={duration} is impossible; expected more than 0 and at most {MAX_DURATION} seconds. Leave it out "
            "for the default."
        )
        raise ValueError(msg)


def _spread(passes: Sequence[int], number: int) -> list[int]:
    """Return evenly spread timesteps, including the first and the last."""
    number = min(number, len(passes))
    if number < 2:
        return list(passes[:number])
    return [passes[round(i * (len(passes) - 1) / (number - 1))] for i in range(number)]


def _chosen(passes: Sequence[int], timesteps: Sequence[int]) -> list[int]:
    """Return the timesteps that were asked for.

    Raises:
        ValueError: If the model does not have one of them.
    """
    chosen = [t for t in timesteps if t in passes]
    # TransFusion's result is x_0, so that 0 may be among the timesteps.
    if not chosen or not {*timesteps} <= {*passes, 0}:
        msg = (
            f"timesteps={list(timesteps)} is impossible: this model's reverse process has the timesteps "
            f"{', '.join(map(str, passes)) or '(none)'}. Choose some of them; the result is always shown."
        )
        raise ValueError(msg)
    return chosen


def _as_tensor(image: str | Path | Image.Image | torch.Tensor) -> torch.Tensor:
    """Return an image in [0, 1], ``(3, H, W)``.

    Raises:
        TypeError: If it is no path, PIL image or tensor.
        ValueError: If it cannot be read, or is no color image.
    """
    if isinstance(image, str | Path):
        image = read_image_file(image)
    if isinstance(image, Image.Image):
        return to_dtype(to_image(image.convert("RGB")), torch.float32, scale=True)
    if not isinstance(image, torch.Tensor):
        msg = (
            f"image is a {type(image).__name__}; expected a file, a PIL image or a tensor of shape (3, H, W). Convert "
            "an array with PIL.Image.fromarray."
        )
        raise TypeError(msg)
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        msg = (
            f"image has shape {tuple(image.shape)} and type {image.dtype}; expected one color image of floating point "
            "numbers in [0, 1] with shape (3, H, W). Take one of a batch with image[0], convert bytes with image / 255."
        )
        raise ValueError(msg)
    return image


def _run(model: Any, image: torch.Tensor, timesteps: Container[int], panel_size: int) -> list[Moment]:  # noqa: ANN401
    """Let a model explain an image at some timesteps."""
    height, width = image.shape[1:]
    scale = panel_size / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    batch = image[None].to(model.device)
    transform = model.pre_processor.transform if isinstance(model.pre_processor, PreProcessor) else None
    training = model.training
    model.eval()
    try:
        batch = batch if transform is None else transform(batch)
        return model.explain(batch, timesteps, lambda images: to_panel(images[0], size))
    finally:
        model.train(training)


def _names_of_rows(moments: Sequence[Moment], rows: Sequence[Row] | None, names: Mapping[Row, str]) -> dict[Row, str]:
    """Return the labels of the chosen rows, all by default.

    Raises:
        ValueError: If the model does not have one of them, or one is asked for twice.
    """
    found = dict.fromkeys(row for moment in moments for row in moment.panels)
    # A model's names are in its order; not every moment has each row.
    present = [*(row for row in names if row in found), *(row for row in found if row not in names)]
    rows = present if rows is None else rows
    if not rows or not set(rows) <= set(present) or len(set(rows)) < len(rows):
        msg = (
            f"rows={list(rows)} is impossible; expected some of {', '.join(present)}, each of them once. Leave it out "
            "for all."
        )
        raise ValueError(msg)
    return {row: names.get(row, row) for row in rows}


def _draw_strip(moments: Sequence[Moment], timesteps: Container[int], rows: Mapping[Row, str]) -> Image.Image:
    """Draw a column for each timestep and for the result, unless it has no picture in these rows."""
    chosen = [
        moment
        for moment in moments
        if (moment.timestep is None or moment.timestep in timesteps) and not moment.panels.keys().isdisjoint(rows)
    ]
    return draw_table(
        [[moment.panels.get(row) for moment in chosen] for row in rows],
        heads=[moment.head for moment in chosen],
        names=list(rows.values()),
    )


def _draw_frames(moments: Sequence[Moment], timesteps: Container[int], rows: Mapping[Row, str]) -> list[Image.Image]:
    """Draw a frame for each timestep; a missing picture is that of the frame before, as the predictions beside x_0."""
    frames = []
    panels: dict[Row, Image.Image] = {}
    for moment in moments:
        panels.update(moment.panels)
        if (moment.timestep is None or moment.timestep in timesteps) and not panels.keys().isdisjoint(rows):
            row = [panels.get(name) for name in rows]
            frames.append(draw_table([row], list(rows.values()), caption=moment.caption))
    return frames


def _write_animation(partial: Path, path: Path, frames: list[Image.Image], duration: float) -> None:
    """Write an endless animation whose first and last frame are shown longer than the others."""
    short = 1000 * duration / (len(frames) - 2 + 2 * HOLD)
    durations = [round(HOLD * short), *[round(short)] * (len(frames) - 2), round(HOLD * short)][: len(frames)]
    file_format = ANIMATIONS[path.suffix.lower()]
    if file_format == "GIF":
        # One palette for all frames: with separate palettes, unchanged regions would flicker.
        film = Image.new("RGB", (frames[0].width, frames[0].height * len(frames)))
        for number, frame in enumerate(frames):
            film.paste(frame, (0, number * frame.height))
        palette = film.quantize(256)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    frames[0].save(
        partial,
        format=file_format,
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
    )
