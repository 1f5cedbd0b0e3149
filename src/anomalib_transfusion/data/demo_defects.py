# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Surface defects drawn onto photographs: cracks, displaced chunks, holes, scratches and stains.

They stand in for real defects in the test images of :class:`~anomalib_transfusion.data.DemoSurface`. Lines and
outlines are drawn with OpenCV, so that they share nothing with the Perlin noise that the model is trained on.

Each function takes an image ``(H, W)`` or ``(H, W, C)``, uint8 in [0, 255], and a random generator, and returns the
image with the defect and its mask ``(H, W)``, uint8, 255 where the defect is and 0 elsewhere. No pixel outside of the
mask is changed.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["AREA", "DEFECTS", "crack", "displaced", "hole", "scratch", "stain"]

Image = NDArray[np.uint8]
Layer = NDArray[np.float32]
Region = NDArray[np.bool_]
Defect = Callable[[Image, np.random.Generator], tuple[Image, Image]]

#: Smallest and largest part of the image that a defect covers.
AREA = (0.005, 0.06)

#: A defect is drawn again if it changes its pixels by less than this on average, in gray levels ...
_VISIBLE_MEAN = 14.0
#: ... or if fewer than this part of its pixels change by at least this many gray levels.
_VISIBLE_PART, _VISIBLE_LEVELS = 0.75, 4

_TRIES = 200
#: Outlines are drawn this many times larger and shrunk, because OpenCV's own anti-aliasing needs integer widths.
_OVERSAMPLING = 4


def crack(image: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Draw a thin, dark crack: a random walk that narrows to its ends and branches.

    Args:
        image: Surface without a defect, ``(H, W)`` or ``(H, W, C)``, uint8.
        rng: Source of randomness.

    Returns:
        The surface with the crack, shaped as ``image``, and the mask ``(H, W)``.
    """

    def draw() -> tuple[Layer, Region]:
        side = _side(image)
        heading = rng.uniform(0, 2 * np.pi)
        trunk = _walk(_center(image, rng, 0.25), heading, rng.uniform(0.35, 0.6) * side, 0.5, rng)
        other = _walk(trunk[0], heading + np.pi + rng.normal(0, 0.3), rng.uniform(0.15, 0.4) * side, 0.5, rng)
        width = rng.uniform(0.013, 0.021) * side
        strokes = [(trunk, width), (other, width)]
        for _ in range(rng.integers(1, 4)):
            start = int(rng.integers(len(trunk) // 5, 4 * len(trunk) // 5))
            turn = rng.choice((-1, 1)) * rng.uniform(0.5, 1.0)
            branch = _walk(trunk[start], heading + turn, rng.uniform(0.1, 0.25) * side, 0.5, rng)
            strokes.append((branch, 0.7 * width))
        alpha = np.max([_stroke(image, path, wide, 0.35 * wide) for path, wide in strokes], axis=0)
        target = _grain(image, rng, level=rng.uniform(8, 30), sigma=4)
        return _blend(image, target, alpha * rng.uniform(0.85, 0.98)), alpha > 0.3

    return _draw_until_it_fits(image, draw)


def displaced(image: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Replace an angular chunk by rotated and shifted content from nearby, with a gap along one side.

    Args:
        image: Surface without a defect, ``(H, W)`` or ``(H, W, C)``, uint8.
        rng: Source of randomness.

    Returns:
        The surface with the chunk, shaped as ``image``, and the mask ``(H, W)``.
    """

    def draw() -> tuple[Layer, Region]:
        side = _side(image)
        center = _center(image, rng, 0.2)
        outline = _polygon(center, rng.uniform(0.08, 0.145) * side, rng, corners=(5, 8), jitter=0.2)
        alpha = _fill(image, outline)
        turn = rng.choice((-1, 1)) * rng.uniform(25, 90)
        matrix = cv2.getRotationMatrix2D((float(center[0]), float(center[1])), turn, 1.0)
        shift = rng.uniform(0.08, 0.2) * side * _direction(rng.uniform(0, 2 * np.pi))
        matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + shift])
        size = (image.shape[1], image.shape[0])
        content = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        # Tilted, the chunk catches more light or less than the surface around it.
        rough = _texture(image) ** 2
        tilt = 1 + rng.choice((-1, 1)) * rng.uniform(0.05 + 0.2 * rough, 0.15 + 0.3 * rough)
        chunk = _blend(image, content * tilt, alpha)
        # What the outline leaves free when it moves by a few pixels: the gap on one side, a lit edge opposite.
        move = rng.uniform(0.015, 0.03) * side * _direction(rng.uniform(0, 2 * np.pi))
        gap, lit = (alpha * (1 - _fill(image, outline + offset)) for offset in (move, -0.5 * move))
        edged = _blend(chunk, _grain(image, rng, level=rng.uniform(170, 215), sigma=8), 0.6 * lit)
        return _blend(edged, _grain(image, rng, level=18, sigma=4), 0.85 * gap), alpha > 0.3

    return _draw_until_it_fits(image, draw)


def hole(image: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Punch a dark hole with an angular outline: the side towards the light lies in shadow, the far rim is lit.

    Args:
        image: Surface without a defect, ``(H, W)`` or ``(H, W, C)``, uint8.
        rng: Source of randomness.

    Returns:
        The surface with the hole, shaped as ``image``, and the mask ``(H, W)``.
    """

    def draw() -> tuple[Layer, Region]:
        side = _side(image)
        center = _center(image, rng, 0.12)
        radius = rng.uniform(0.05, 0.12) * side
        outline = _polygon(center, radius, rng, corners=(9, 15), jitter=0.18)
        alpha = _fill(image, outline)
        light = _direction(rng.uniform(0, 2 * np.pi))
        rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
        depth = ((columns - center[0]) * light[0] + (rows - center[1]) * light[1]) / (2 * radius)
        bottom = _grain(image, rng, level=rng.uniform(12, 35), sigma=5) + _like(image, 35 * np.clip(depth, -0.4, 1))
        inside = _blend(image, bottom + 0.12 * image, alpha)
        rim = alpha * (1 - _fill(image, outline - rng.uniform(0.01, 0.018) * side * light))
        return _blend(inside, _grain(image, rng, level=rng.uniform(150, 200), sigma=8), 0.7 * rim), alpha > 0.3

    return _draw_until_it_fits(image, draw)


def scratch(image: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Draw a thin, long, slightly bent scratch, bright with a dark edge or dark with a bright one.

    Args:
        image: Surface without a defect, ``(H, W)`` or ``(H, W, C)``, uint8.
        rng: Source of randomness.

    Returns:
        The surface with the scratch, shaped as ``image``, and the mask ``(H, W)``.
    """

    def draw() -> tuple[Layer, Region]:
        side = _side(image)
        heading = rng.uniform(0, 2 * np.pi)
        length = rng.uniform(0.35, 0.85) * side
        start = _center(image, rng, 0.3) - 0.5 * length * _direction(heading)
        path = _walk(start, heading, length, 0.04, rng)
        width = rng.uniform(0.012, 0.022) * side
        core = _stroke(image, path, width, 0.3 * width, swell=rng.uniform(0.2, 0.5), rng=rng)
        offset = rng.choice((-1, 1)) * 0.8 * width * _direction(heading + np.pi / 2)
        edge = _stroke(image, path + offset, 0.6 * width, 0.3 * width)
        bright, dark = rng.uniform(195, 245), rng.uniform(10, 45)
        level, shadow = (bright, dark) if rng.random() < 0.7 else (dark, bright)
        edged = _blend(image, _grain(image, rng, level=shadow, sigma=4), 0.6 * edge)
        drawn = _blend(edged, _grain(image, rng, level=level, sigma=8), core * rng.uniform(0.7, 0.95))
        return drawn, np.maximum(core, edge) > 0.3

    return _draw_until_it_fits(image, draw)


def stain(image: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Darken or lighten an irregular, soft-edged patch, cloudy inside and stronger along its rim.

    Args:
        image: Surface without a defect, ``(H, W)`` or ``(H, W, C)``, uint8.
        rng: Source of randomness.

    Returns:
        The surface with the stain, shaped as ``image``, and the mask ``(H, W)``.
    """

    def draw() -> tuple[Layer, Region]:
        side = _side(image)
        outline = _curve(_center(image, rng, 0.12), rng.uniform(0.065, 0.13) * side, rng)
        blur = rng.uniform(0.008, 0.016) * side
        body = cv2.GaussianBlur(_fill(image, outline), (0, 0), blur)
        ring = body - cv2.GaussianBlur(body, (0, 0), 0.03 * side)
        coarse = rng.random((5, 5), dtype=np.float32)
        cloud = cv2.resize(coarse, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
        # The tail of the blur is cut where it no longer shows, so that the mask is exact.
        mask = body > 0.15
        alpha = np.clip(body * (0.8 + 0.25 * cloud) + 0.5 * np.clip(ring, 0, None), 0, 1) * mask
        # On a rough surface a faint stain could not be told from the texture.
        strength = rng.uniform(0.35, 0.55) + 0.35 * _texture(image) ** 2
        level = rng.uniform(10, 35) if rng.random() < 0.65 else rng.uniform(205, 240)
        return _blend(image, _like(image, np.full_like(alpha, level)), strength * alpha), mask

    return _draw_until_it_fits(image, draw)


#: The kinds of defect, by the name of their folder in the data set.
DEFECTS: dict[str, Defect] = {
    "crack": crack,
    "displaced": displaced,
    "hole": hole,
    "scratch": scratch,
    "stain": stain,
}


def _draw_until_it_fits(image: Image, draw: Callable[[], tuple[Layer, Region]]) -> tuple[Image, Image]:
    """Repeat a drawing until its area lies within :data:`AREA` and it can be seen.

    Args:
        image: Surface without a defect, ``(H, W)`` or ``(H, W, C)``.
        draw: Returns the changed surface, float, and the region ``(H, W)`` of the defect, bool.

    Returns:
        The surface, changed within the region only, and the region as mask.

    Raises:
        RuntimeError: If no drawing fits, as on an image that is too small.
    """
    for _ in range(_TRIES):
        changed, region = draw()
        if not AREA[0] <= region.mean() <= AREA[1]:
            continue
        drawn = np.where(_like(image, region) > 0, np.clip(np.rint(changed), 0, 255), image).astype(np.uint8)
        difference = np.abs(drawn.astype(np.int16) - image).reshape(*region.shape, -1).max(axis=-1)[region]
        if difference.mean() >= _VISIBLE_MEAN and (difference >= _VISIBLE_LEVELS).mean() >= _VISIBLE_PART:
            return drawn, np.where(region, 255, 0).astype(np.uint8)
    msg = (
        f"No defect that covers between {AREA[0]:.1%} and {AREA[1]:.0%} of the image and can be seen was found in "
        f"{_TRIES} tries on an image of shape {image.shape}. Pass a larger image, or one of another brightness."
    )
    raise RuntimeError(msg)


def _side(image: Image) -> float:
    """Return the side in pixels of the square with the image's area: the unit of every length."""
    return float(np.sqrt(image.shape[0] * image.shape[1]))


def _texture(image: Image) -> float:
    """Return how rough a surface is: from 0 for a smooth one to 1 where neighborhoods vary by 30 gray levels."""
    gray = image.reshape(*image.shape[:2], -1).mean(axis=2, dtype=np.float32)
    fine = gray - cv2.GaussianBlur(gray, (0, 0), 0.04 * _side(image))
    return float(min(1, fine.std() / 30))


def _like(image: Image, layer: NDArray) -> Layer:
    """Shape a layer ``(H, W)`` so that it broadcasts against the image."""
    return layer.astype(np.float32).reshape(*layer.shape, *(1,) * (image.ndim - 2))


def _blend(image: NDArray, target: NDArray, alpha: Layer) -> Layer:
    """Mix ``(1 - alpha) * image + alpha * target`` with ``alpha`` ``(H, W)`` in [0, 1]."""
    weight = alpha.reshape(*alpha.shape, *(1,) * (image.ndim - 2))
    return (image + weight * (target - image.astype(np.float32))).astype(np.float32)


def _grain(image: Image, rng: np.random.Generator, level: float, sigma: float) -> Layer:
    """Return a grainy surface of one gray level, the same in all channels."""
    return _like(image, rng.normal(level, sigma, image.shape[:2]))


def _direction(angle: float) -> NDArray:
    """Return the unit vector ``(x, y)`` of an angle in radians."""
    return np.array([np.cos(angle), np.sin(angle)])


def _center(image: Image, rng: np.random.Generator, margin: float) -> NDArray:
    """Draw a point ``(x, y)`` in pixels that keeps a margin, given as a part of the sides, from the border."""
    return rng.uniform(margin, 1 - margin, 2) * (image.shape[1], image.shape[0])


def _walk(start: NDArray, heading: float, length: float, bend: float, rng: np.random.Generator) -> NDArray:
    """Return the points ``(N, 2)`` of a random walk whose heading drifts around the first one.

    Args:
        start: First point ``(x, y)`` in pixels.
        heading: Angle in radians.
        length: Length in pixels.
        bend: Standard deviation in radians of the turn from step to step.
        rng: Source of randomness.
    """
    steps = max(6, round(length / 3))
    turns = rng.normal(0, bend, steps)
    drift = np.zeros(steps)
    for index in range(1, steps):
        drift[index] = 0.5 * drift[index - 1] + turns[index]
    moves = np.stack([np.cos(heading + drift), np.sin(heading + drift)], axis=1) * (length / steps)
    return np.concatenate([start[None], start + np.cumsum(moves, axis=0)])


def _polygon(
    center: NDArray,
    radius: float,
    rng: np.random.Generator,
    corners: tuple[int, int],
    jitter: float,
) -> NDArray:
    """Return the corners ``(N, 2)`` of an irregular polygon around a center."""
    count = int(rng.integers(*corners))
    angles = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count + rng.uniform(0, 2 * np.pi)
    radii = radius * rng.uniform(1 - 1.5 * jitter, 1 + jitter, count)
    return _stretched(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None], rng) + center


def _curve(center: NDArray, radius: float, rng: np.random.Generator) -> NDArray:
    """Return the points ``(N, 2)`` of a smooth closed curve: a circle with random harmonics 2 to 7."""
    angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    orders = np.arange(2, 8)[:, None]
    waves = rng.normal(0, 0.28, (6, 1)) / orders**0.9 * np.cos(orders * angles + rng.uniform(0, 2 * np.pi, (6, 1)))
    radii = radius * np.clip(1 + waves.sum(axis=0), 0.3, 2)
    return _stretched(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None], rng) + center


def _stretched(points: NDArray, rng: np.random.Generator) -> NDArray:
    """Stretch points ``(N, 2)`` around the origin along a random direction, keeping the area."""
    factor = rng.uniform(1, 1.35)
    along = _direction(rng.uniform(0, np.pi))
    parallel = np.outer(points @ along, along)
    return parallel * factor + (points - parallel) / factor


def _canvas(image: Image) -> NDArray[np.uint8]:
    """Return an empty oversampled canvas."""
    return np.zeros((image.shape[0] * _OVERSAMPLING, image.shape[1] * _OVERSAMPLING), np.uint8)


def _shrunk(canvas: NDArray[np.uint8]) -> Layer:
    """Return the coverage in [0, 1] of each pixel by what was drawn on an oversampled canvas."""
    size = (canvas.shape[1] // _OVERSAMPLING, canvas.shape[0] // _OVERSAMPLING)
    return (cv2.resize(canvas, size, interpolation=cv2.INTER_AREA) / 255).astype(np.float32)


def _fill(image: Image, outline: NDArray) -> Layer:
    """Return the coverage ``(H, W)`` of a closed outline ``(N, 2)`` in pixels."""
    canvas = _canvas(image)
    cv2.fillPoly(canvas, [np.rint(outline * _OVERSAMPLING).astype(np.int32)], 255)
    return _shrunk(canvas)


def _stroke(
    image: Image,
    path: NDArray,
    width: float,
    end_width: float,
    swell: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Layer:
    """Return the coverage ``(H, W)`` of a line that narrows from its first point to its last.

    Args:
        image: Surface, for its shape.
        path: Points ``(N, 2)`` in pixels.
        width: Width in pixels at the first point.
        end_width: Width in pixels at the last point.
        swell: Part by which the width varies at random along the way.
        rng: Source of randomness, for ``swell``.
    """
    widths = np.linspace(width, end_width, len(path) - 1)
    if rng is not None:
        widths = widths * rng.uniform(1 - swell, 1 + swell, len(widths))
    canvas = _canvas(image)
    points = np.rint(path * _OVERSAMPLING).astype(int)
    for start, end, wide in zip(points[:-1], points[1:], widths, strict=True):
        thickness = max(1, round(wide * _OVERSAMPLING))
        cv2.line(canvas, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), 255, thickness)
    return _shrunk(canvas)
