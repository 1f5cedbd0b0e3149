# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The defects that are drawn onto the demo's surfaces."""

import ast
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_transfusion.data import demo_defects
from anomalib_transfusion.data.demo_defects import AREA, DEFECTS
from anomalib_transfusion.data.demo_surface import CATEGORIES, photograph


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("kind", DEFECTS)
def test_defect_is_visible_of_the_right_size_and_within_its_mask(kind, category):
    surface = photograph(category)
    for seed in range(12):
        clean = surface[20 * seed : 20 * seed + 128, 10 * seed : 10 * seed + 128]
        before = clean.copy()
        image, mask = DEFECTS[kind](clean, np.random.default_rng(seed))

        assert (image.shape, image.dtype) == ((128, 128), np.uint8)
        assert (mask.shape, mask.dtype) == ((128, 128), np.uint8)
        assert np.array_equal(clean, before), "the input must not be changed"
        assert set(np.unique(mask)) == {0, 255}
        inside = mask == 255
        assert 0.005 <= inside.mean() <= 0.06
        difference = np.abs(image.astype(int) - clean.astype(int))
        assert difference[~inside].max() == 0
        assert (difference[inside] > 0).mean() > 0.75
        assert difference[inside].mean() >= 14


@pytest.mark.parametrize("kind", DEFECTS)
def test_defect_depends_on_the_generator_only(kind):
    clean = photograph("brick")[:128, :128]
    first, again, other = (DEFECTS[kind](clean, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("kind", DEFECTS)
def test_color_image_and_other_sizes(kind):
    gray = photograph("gravel")[:96, :160]
    color = np.stack([gray, gray // 2, 255 - gray], axis=2)
    image, mask = DEFECTS[kind](color, np.random.default_rng(0))
    assert image.shape == (96, 160, 3)
    assert mask.shape == (96, 160)
    inside = mask == 255
    assert AREA[0] <= inside.mean() <= AREA[1]
    assert np.array_equal(image[~inside], color[~inside])
    assert all((image[inside][:, channel] != color[inside][:, channel]).mean() > 0.5 for channel in range(3))


def test_kinds_have_their_own_shapes():
    """Cracks and scratches are thin, the others are compact: an opening with a disc of 7 pixels tells them apart."""
    clean = photograph("brick")[:128, 180:308]
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    for kind, compact in {"crack": False, "scratch": False, "displaced": True, "hole": True, "stain": True}.items():
        kept = []
        for seed in range(8):
            _, mask = DEFECTS[kind](clean, np.random.default_rng(seed))
            kept.append(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc).sum() / mask.sum())
        assert (np.mean(kept) > 0.7) == compact, (kind, kept)
        assert (np.mean(kept) < 0.2) != compact, (kind, kept)


def test_image_on_which_nothing_fits_is_refused():
    # On 4 by 4 pixels one pixel is 6.25 %: more than the largest defect.
    with pytest.raises(RuntimeError, match=r"shape \(4, 4\).*larger image"):
        DEFECTS["hole"](np.full((4, 4), 120, np.uint8), np.random.default_rng(0))


def test_defects_share_nothing_with_the_synthesis():
    """The module's imports, read from its source: none of them is of this project, nor draws noise of its own."""
    tree = ast.parse(Path(demo_defects.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert not any(node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    assert imported == {"collections.abc", "cv2", "numpy", "numpy.typing"}
