# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Mask areas against the statistics of the published implementation."""

import json

import cv2
import pytest
import torch

from anomalib_transfusion.synthesis import anomaly_mask, draw_noise, previous_mask
from paths import REFERENCE, needs_reference

DRAWS, CHUNK = 5000, 200
KINDS = ("dropped_threshold_is_noise_max", "shrunk", "same", "grown")


@pytest.fixture(scope="module")
def areas():
    torch.manual_seed(20261121)
    mask: list[torch.Tensor] = []
    previous: list[list[torch.Tensor]] = [[] for _ in KINDS]
    for _ in range(DRAWS // CHUNK):
        noise = draw_noise(CHUNK, (224, 224))
        mask.append(anomaly_mask(noise).mean(dim=(1, 2, 3)))
        for kind, found in enumerate(previous):
            found.append(previous_mask(noise, kind).mean(dim=(1, 2, 3)))
    return torch.cat(mask), [torch.cat(found) for found in previous]


@pytest.fixture(scope="module")
def reference():
    return json.loads((REFERENCE / "official_mask_statistics.json").read_text(encoding="utf-8"))


@needs_reference
def test_mask_area_matches_the_published_statistics(areas, reference):
    expected = reference["mask_area_fraction"]
    assert areas[0].mean().item() == pytest.approx(expected["mean"], rel=0.05)
    assert (areas[0] == 0).float().mean().item() == pytest.approx(expected["empty_share"], abs=0.005)
    for level, value in expected["quantiles"].items():
        if 0.05 <= float(level) <= 0.95:
            assert areas[0].quantile(float(level)).item() == pytest.approx(value, rel=0.1, abs=0.005), level


@needs_reference
@pytest.mark.parametrize("kind", range(4))
def test_previous_mask_area_matches_the_published_statistics(areas, reference, kind):
    expected = reference["previous_mask_area_fraction_by_kind"][KINDS[kind]]["mean"]
    assert areas[1][kind].mean().item() == pytest.approx(expected, rel=0.1, abs=0.005)


def test_masks_are_binary_and_keep_their_shape():
    torch.manual_seed(0)
    noise = draw_noise(16, (48, 80))
    for mask in (anomaly_mask(noise), previous_mask(noise)):
        assert mask.shape == (16, 1, 48, 80)
        assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_kinds_shrink_keep_and_grow_the_mask():
    torch.manual_seed(1)
    noise = draw_noise(64, (64, 64))
    mask = anomaly_mask(noise)
    shrunk, same, grown = (previous_mask(noise, kind) for kind in (1, 2, 3))
    assert torch.equal(same, mask)
    assert (shrunk <= mask).all()
    assert shrunk.sum() < mask.sum()
    assert (grown >= mask).all()
    assert grown.sum() > mask.sum()


def test_dropped_threshold_is_the_signed_maximum():
    noise = torch.tensor([[0.6, -0.9, 0.1, 0.7]]).view(1, 1, 2, 2)
    assert previous_mask(noise, 0).flatten().tolist() == [0, 1, 0, 0]
    assert previous_mask(-noise, 0).flatten().tolist() == [0, 0, 0, 0]


def test_kinds_are_drawn_a_quarter_each():
    torch.manual_seed(2)
    # A ramp in [0, 1] tells the threshold: the area above it is one minus it.
    noise = torch.linspace(0, 1, 1001).view(1, 1, 7, 143).expand(4000, 1, 7, 143)
    threshold = 1 - previous_mask(noise).sum(dim=(1, 2, 3)) / 1001
    dropped = (threshold > 0.9995).float().mean()
    same = ((threshold - 0.5).abs() < 1e-3).float().mean()
    grown = (threshold < 0.499).float().mean()
    for share in (dropped, same, grown):
        assert share.item() == pytest.approx(0.25, abs=0.03)


def test_kind_may_differ_by_sample():
    torch.manual_seed(3)
    noise = draw_noise(3, (32, 32))
    masks = previous_mask(noise, torch.tensor([2, 2, 2]))
    assert torch.equal(masks, anomaly_mask(noise))


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
