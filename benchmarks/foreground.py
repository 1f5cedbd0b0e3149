# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Test of the foreground estimate: objects of known shape on easy and hard backgrounds, and real images.

    python benchmarks/foreground.py --root ../shared/datasets/MVTecAD --category magnetic_tile

The objects are a silhouette that scikit-image ships, filled with its photographs, so that the true mask is known. For
each image the page says how well estimate and truth overlap, and where synthetic anomalies come to lie without a
foreground, with the estimate and with the true mask.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import skimage
import torch
from matplotlib.figure import Figure

import record
from anomalib_transfusion.benchmark.tables import markdown_of
from anomalib_transfusion.files import written_whole
from anomalib_transfusion.synthesis import AnomalyGenerator, estimate_foreground
from anomalib_transfusion.synthesis.sources import find_images, read_image

FOLDER = Path(skimage.__file__).parent / "data"
SIDE = 256
DRAWS = 200
COLUMNS = 4
DPI = 80


class Case(NamedTuple):
    """An image and its true mask.

    Attributes:
        name: Name for tables and pictures.
        image: Image in [0, 1], ``(3, H, W)``.
        mask: True mask of the object, 0 or 1, ``(1, H, W)``; ``None`` if unknown.
    """

    name: str
    image: torch.Tensor
    mask: torch.Tensor | None


def _photograph(path: Path) -> np.ndarray:
    """Read an image as RGB in [0, 1], ``(SIDE, SIDE, 3)``."""
    image = cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB)
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / 255


def _silhouette(scale: float) -> np.ndarray:
    """Return the silhouette of a horse, ``(SIDE, SIDE, 1)``, 1 inside; scales above 1 extend beyond the image."""
    horse = (read_image(FOLDER / "horse.png", cv2.IMREAD_GRAYSCALE) < 128).astype(np.float32)
    middle = np.array(horse.shape[::-1]) / 2
    factor = scale * SIDE / max(horse.shape)
    matrix = np.array([[factor, 0, SIDE / 2 - factor * middle[0]], [0, factor, SIDE / 2 - factor * middle[1]]])
    return (cv2.warpAffine(horse, matrix, (SIDE, SIDE)) > 0.5).astype(np.float32)[..., None]


def made_cases() -> Iterator[Case]:
    """Put the silhouette on backgrounds, from easy to impossible."""
    random = np.random.default_rng(0)
    shape = _silhouette(0.85)
    surface = _photograph(FOLDER / "gravel.png") * (0.75, 0.55, 0.45)
    across = np.linspace(0, 1, SIDE)[None, :, None] * np.ones((SIDE, SIDE, 3))
    shadow = cv2.GaussianBlur(np.roll(shape, (14, 18), axis=(0, 1)), (0, 0), 6)[..., None]
    paper = np.full((SIDE, SIDE, 3), 0.92)
    backgrounds = {
        "light paper": (shape, paper),
        "dark table": (shape, np.full((SIDE, SIDE, 3), 0.05)),
        "uneven light": (shape, 0.55 + 0.4 * across),
        "a soft shadow": (shape, paper * (1 - 0.25 * shadow)),
        "a dark shadow": (shape, paper * (1 - 0.8 * shadow)),
        "grass": (shape, _photograph(FOLDER / "grass.png") * (0.5, 0.9, 0.4)),
        "the object's own color": (shape, np.full((SIDE, SIDE, 3), surface.mean(axis=(0, 1)))),
        "over the border": (_silhouette(1.7), paper),
    }
    for name, (mask, background) in backgrounds.items():
        image = np.clip(mask * surface + (1 - mask) * background + random.normal(0, 0.01, (SIDE, SIDE, 3)), 0, 1)
        yield Case(name, _tensor(image), _tensor(mask))


def real_cases(options: argparse.Namespace) -> Iterator[Case]:
    """Read photographs of scikit-image, the demo's surfaces among them, and images of a category where there is one."""
    for name in ("coins.png", "retina.jpg", "brick.png", "grass.png"):
        yield Case(name, _tensor(_photograph(FOLDER / name)), None)
    if options.root is not None:
        files = find_images(options.root / options.category / "train" / "good")
        for path in files[:: max(1, len(files) // 4)][:4]:
            yield Case(f"{options.category} {path.stem}", _tensor(_photograph(path)), None)


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()


def measure(case: Case, estimate: torch.Tensor) -> dict[str, str | float]:
    """Measure how well the estimate fits, and how much of the anomalies is on the object for each foreground, in %."""
    row: dict[str, str | float] = {"image": case.name, "estimated": 100 * estimate.mean().item()}
    if case.mask is None:
        return row
    found, true = estimate.bool(), case.mask.bool()
    row["true"] = 100 * case.mask.mean().item()
    row["overlap (IoU)"] = 100 * ((found & true).sum() / (found | true).sum()).item()
    for name, foreground in {"none": None, "estimate": estimate, "given mask": case.mask}.items():
        torch.manual_seed(0)
        # The first half of a batch gets the anomalies.
        images = case.image.expand(2 * DRAWS, -1, -1, -1)
        masks = None if foreground is None else foreground.expand(2 * DRAWS, -1, -1, -1)
        generator = AnomalyGenerator(None, structure_share=1.0, min_perlin_scale=0, grayscale=False)
        anomalies = generator(images, masks).mask[:DRAWS]
        row[f"anomalies on the object, {name}"] = 100 * (anomalies * case.mask).sum().item() / anomalies.sum().item()
    return row


def draw(cases: list[Case], estimates: list[torch.Tensor], path: Path) -> None:
    """Draw every image with the outline of the estimate, and of the truth where it is known."""
    rows = -(-len(cases) // COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 2.35 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axis, case, estimate in zip(axes, cases, estimates, strict=False):
        axis.imshow(case.image.permute(1, 2, 0))
        if case.mask is not None:
            axis.contour(case.mask[0], levels=[0.5], colors="lime", linewidths=0.9)
        if estimate.min() < 1:
            axis.contour(estimate[0], levels=[0.5], colors="red", linewidths=0.9)
        axis.set_title(case.name + ("" if estimate.min() < 1 else ": all of it"), fontsize=9)
    for axis in figure.axes:
        axis.set_axis_off()
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=DPI, format="jpg", pil_kwargs={"quality": 85})


def main() -> None:
    """Estimate, measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder in MVTec AD's layout")
    parser.add_argument("--category", default="magnetic_tile")
    parser.add_argument("--output", type=Path, default=record.ROOT / "results" / "foreground")
    options = parser.parse_args()
    cases = [*made_cases(), *real_cases(options)]
    # Each on its own: an estimate does not depend on the other images of a batch.
    estimates = [estimate_foreground(case.image[None])[0] for case in cases]
    table = pd.DataFrame([measure(case, estimate) for case, estimate in zip(cases, estimates, strict=True)])
    options.output.mkdir(parents=True, exist_ok=True)
    draw(cases, estimates, options.output / "foreground.jpg")
    header = record.header(torch.device("cpu"))
    lines = [
        "# The estimate of the foreground",
        "",
        f"    {header['command']}",
        "",
        f"torch {header['versions']['torch']}. Red: the estimate, grown by two pixels as it is used; green: the object "
        "where it is known. Numbers in percent of the pixels.",
        "",
        "![](foreground.jpg)",
        "",
        markdown_of(table.set_index(table.columns[0]), ".1f"),
        "",
    ]
    with written_whole(options.output / "README.md") as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")
    print(f"Written to {options.output / 'README.md'}")


if __name__ == "__main__":
    main()
