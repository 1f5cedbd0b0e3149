# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The reverse process as a film strip and as an animation of the defect fading (paper Section 3.4, Figure 3)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_transfusion.checks import check_arguments
from anomalib_transfusion.files import written_whole
from anomalib_transfusion.training.image_files import read_image_file
from anomalib_transfusion.visualization.panels import draw_table, to_panel

if TYPE_CHECKING:
    from anomalib_transfusion.models.transfusion.torch_model import ReverseStep

    from .lightning_model import TransFusion

__all__ = ["Row", "check_output", "visualize_reverse_process"]

Row = Literal["image", "mask", "anomaly", "normal"]

# The letters are the paper's; the subscript of x is the timestep.
NAMES: dict[Row, str] = {
    "image": "image\nxₜ",
    "mask": "mask\nMₜ",
    "anomaly": "anomaly\nappearance εₜ",
    "normal": "normal\nappearance nₜ",
}
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP"}
MAX_COLUMNS = 100
PANEL_SIZES = (32, 2048)
MAX_DURATION = 600
# Enough for a smooth animation, and few enough for any number of timesteps.
MAX_FRAMES = 40
# The first and the last frame stay this many times as long as the others, so that one can look at them.
HOLD = 6
# As wide as a digit.
DIGIT_SPACE = "\u2007"


class _Moment(NamedTuple):
    """What is shown of one timestep.

    Attributes:
        timestep: Timestep t.
        beta: Transparency of the anomaly.
        panels: A panel for each row; none of the predictions at the end, where the network is not asked.
    """

    timestep: int
    beta: float
    panels: dict[str, Image.Image | None]


def visualize_reverse_process(
    model: "TransFusion",
    image: str | Path | Image.Image | torch.Tensor,
    output: str | Path | Sequence[str | Path] = (),
    columns: int = 6,
    timesteps: Sequence[int] | None = None,
    rows: Sequence[Row] = get_args(Row),
    panel_size: int = 160,
    duration: float = 5.0,
) -> Image.Image:
    """Show how TransFusion makes the defects of an image transparent (paper Section 3.4, as in Figure 3).

    Each column is a timestep t of the reverse process with its transparency beta_t, from the image as it is to x_0, the
    image without defects. The rows are what the network saw and what it predicted there.

    Args:
        model: The model; its own pre-processor prepares the image. It is left in the mode in which it was.
        image: An image file, a PIL image, or a tensor in [0, 1] of shape ``(3, H, W)``.
        output: Files to write, by their suffix: ``.png`` or ``.jpg`` for the film strip, ``.gif`` or ``.webp`` for an
            animation of all timesteps, 40 at most. What exists is replaced.
        columns: Number of timesteps in the film strip, 1 to 100, spread evenly over those of the reverse process; x_0
            is one column more.
        timesteps: The timesteps themselves, instead of their number.
        rows: Which rows, from ``image`` (x_t), ``mask`` (the probability M_t, white is 1), ``anomaly`` (the predicted
            anomaly appearance inside of the mask, where the step takes it away; grey elsewhere) and ``normal`` (the
            predicted normal appearance).
        panel_size: The longer side of each panel in pixels, 32 to 2048; panels have the image's own aspect ratio.
        duration: Seconds that the animation takes, up to 600.

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
    _check_ranges(columns, rows, panel_size, duration)
    outputs = [Path(output)] if isinstance(output, str | Path) else [Path(path) for path in output]
    for path in outputs:
        check_output(path)
    passes = model.model.inference_timesteps
    shown = _spread(passes, columns) if timesteps is None else _chosen(passes, timesteps)
    animated = _spread(passes, MAX_FRAMES) if any(path.suffix.lower() in ANIMATIONS for path in outputs) else []

    moments = _run(model, _as_tensor(image), {*shown, *animated}, panel_size)
    strip = _draw_strip(moments, {*shown, 0}, rows)
    for path in outputs:
        with written_whole(path) as partial:
            if path.suffix.lower() in PICTURES:
                strip.save(partial, format=PICTURES[path.suffix.lower()])
            else:
                _write_animation(partial, path, _draw_frames(moments, {*animated, 0}, rows), duration)
    return strip


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written, before the work is done.

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


def _check_ranges(columns: int, rows: Sequence[Row], panel_size: int, duration: float) -> None:
    """Raise ValueError, naming the value, if an argument is impossible."""
    if not 1 <= columns <= MAX_COLUMNS:
        msg = f"columns={columns} is impossible; expected 1 to {MAX_COLUMNS}. Leave it out for the default."
        raise ValueError(msg)
    if not rows or not set(rows) <= set(NAMES) or len(set(rows)) < len(rows):
        msg = (
            f"rows={list(rows)} is impossible; expected some of {', '.join(NAMES)}, each of them once. Leave it out "
            "for all."
        )
        raise ValueError(msg)
    if not PANEL_SIZES[0] <= panel_size <= PANEL_SIZES[1]:
        msg = (
            f"panel_size={panel_size} is impossible; expected {PANEL_SIZES[0]} to {PANEL_SIZES[1]} pixels. Leave it "
            "out for the default."
        )
        raise ValueError(msg)
    if not 0 < duration <= MAX_DURATION:
        msg = (
            f"duration={duration} is impossible; expected more than 0 and at most {MAX_DURATION} seconds. Leave it out "
            "for the default."
        )
        raise ValueError(msg)


def _spread(passes: Sequence[int], number: int) -> list[int]:
    """Return some of the timesteps, spread evenly, the first and the last among them."""
    number = min(number, len(passes))
    if number == 1:
        return [passes[0]]
    return [passes[round(i * (len(passes) - 1) / (number - 1))] for i in range(number)]


def _chosen(passes: Sequence[int], timesteps: Sequence[int]) -> list[int]:
    """Return the timesteps that were asked for.

    Raises:
        ValueError: If the reverse process does not have one of them.
    """
    unknown = [t for t in timesteps if t not in {*passes, 0}]
    if unknown or not any(timesteps):
        msg = (
            f"timesteps={list(timesteps)} is impossible: this model's reverse process has the timesteps "
            f"{', '.join(map(str, passes))}. Choose some of them; x_0 is always shown."
        )
        raise ValueError(msg)
    return [t for t in timesteps if t]


def _as_tensor(image: str | Path | Image.Image | torch.Tensor) -> torch.Tensor:
    """Return an image in [0, 1], ``(3, H, W)``.

    Raises:
        TypeError: If it is nothing that holds an image.
        ValueError: If it cannot be read, or is no colour image.
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
            f"image has shape {tuple(image.shape)} and type {image.dtype}; expected one colour image of floating point "
            "numbers in [0, 1] with shape (3, H, W). Take one of a batch with image[0], convert bytes with image / 255."
        )
        raise ValueError(msg)
    return image


def _run(model: "TransFusion", image: torch.Tensor, timesteps: Iterable[int], panel_size: int) -> list[_Moment]:
    """Run the reverse process, and keep panels of some timesteps and of x_0."""
    height, width = image.shape[1:]
    scale = panel_size / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    moments = []

    def panel(image: torch.Tensor) -> Image.Image:
        return to_panel((image[0] + 1) / 2, size)

    def keep(step: "ReverseStep") -> None:
        if step.timestep in timesteps:
            panels: dict[str, Image.Image | None] = {
                "image": panel(step.x_t),
                "mask": to_panel(step.mask[0], size),
                # Elsewhere it is noise, which dividing by a small beta_t makes loud, and which the step does not use.
                "anomaly": panel(step.anomaly * (step.mask > 0.5)),
                "normal": panel(step.normal),
            }
            moments.append(_Moment(step.timestep, model.model.beta[step.timestep].item(), panels))

    batch = image[None].to(model.device)
    transform = model.pre_processor.transform if isinstance(model.pre_processor, PreProcessor) else None
    training = model.training
    model.eval()
    try:
        process = model.model.reverse_process(batch if transform is None else transform(batch), callback=keep)
    finally:
        model.train(training)
    moments.append(_Moment(0, 0.0, {**dict.fromkeys(NAMES), "image": panel(process.reconstruction)}))
    return moments


def _draw_strip(moments: Sequence[_Moment], timesteps: Iterable[int], rows: Sequence[Row]) -> Image.Image:
    """Draw one column for each timestep."""
    # Of x_0 there is nothing but the image.
    chosen = [moment for moment in moments if moment.timestep in timesteps and (moment.timestep or "image" in rows)]
    return draw_table(
        [[moment.panels[row] for moment in chosen] for row in rows],
        heads=[f"t = {moment.timestep}\nβₜ = {moment.beta:.2f}" for moment in chosen],
        names=[NAMES[row] for row in rows],
    )


def _draw_frames(moments: Sequence[_Moment], timesteps: Iterable[int], rows: Sequence[Row]) -> list[Image.Image]:
    """Draw one frame for each timestep; beside x_0 stand the predictions that led to it."""
    frames = []
    panels: dict[str, Image.Image | None] = {}
    for moment in moments:
        panels.update({row: panel for row, panel in moment.panels.items() if panel is not None})
        if moment.timestep in timesteps:
            caption = f"t = {moment.timestep:{DIGIT_SPACE}>2}   βₜ = {moment.beta:.2f}"
            frames.append(draw_table([[panels[row] for row in rows]], [NAMES[row] for row in rows], caption=caption))
    return frames


def _write_animation(partial: Path, path: Path, frames: list[Image.Image], duration: float) -> None:
    """Write frames that are repeated for ever, the first and the last of them longer than the others."""
    short = 1000 * duration / (len(frames) - 2 + 2 * HOLD)
    durations = [round(HOLD * short), *[round(short)] * (len(frames) - 2), round(HOLD * short)]
    file_format = ANIMATIONS[path.suffix.lower()]
    if file_format == "GIF":
        # One palette for all: with one each, what does not change would flicker.
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
