# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Mask areas against the statistics of the published implementation."""

import json

import cv2
import pytest
import torch

from anomalib_transfusion.synthesis import anomaly_mask, draw_noise
from paths import REFERENCE, needs_reference

DRAWS, CHUNK = 5000, 200


@pytest.fixture(scope="module")
def areas():
    torch.manual_seed(20261121)
    masks = (anomaly_mask(draw_noise(CHUNK, (224, 224))) for _ in range(DRAWS // CHUNK))
    return torch.cat([mask.mean(dim=(1, 2, 3)) for mask in masks])


@pytest.fixture(scope="module")
def reference():
    return json.loads((REFERENCE / "official_mask_statistics.json").read_text(encoding="utf-8"))


@needs_reference
def test_mask_area_matches_the_published_statistics(areas, reference):
    expected = reference["mask_area_fraction"]
    assert areas.mean().item() == pytest.approx(expected["mean"], rel=0.05)
    assert (areas == 0).float().mean().item() == pytest.approx(expected["empty_share"], abs=0.005)
    for level, value in expected["quantiles"].items():
        if 0.05 <= float(level) <= 0.95:
            assert areas.quantile(float(level)).item() == pytest.approx(value, rel=0.1, abs=0.005), level


def test_masks_are_binary_and_keep_their_shape():
    torch.manual_seed(0)
    noise = draw_noise(16, (48, 80))
    mask = anomaly_mask(noise)
    assert mask.shape == (16, 1, 48, 80)
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_cell_counts_are_independent_powers_of_two():
    torch.manual_seed(4)
    # Unrotated lattices show their cells as zeros; with 6 x 6 choices, fine and coarse axes must both occur.
    noise = draw_noise(400, (64, 64))
    roughness = noise.diff(dim=3).abs().mean(dim=(1, 2, 3)) / noise.abs().mean(dim=(1, 2, 3))
    assert roughness.min() < 0.06
    assert roughness.max() > 0.5


def test_more_cells_leave_out_large_anomalies():
    torch.manual_seed(2)

    def largest(min_exponent):
        masks = anomaly_mask(draw_noise(64, (64, 64), min_exponent=min_exponent)).byte().numpy()
        spots = [cv2.connectedComponentsWithStats(mask[0])[2][1:, cv2.CC_STAT_AREA] for mask in masks]
        return max(area for areas in spots for area in areas)

    # At 32 cells an axis a cell has 2 x 2 pixels, at one cell it has all.
    assert largest(5) < 150
    assert largest(3) < largest(0)
    assert largest(0) > 64 * 64 / 8
