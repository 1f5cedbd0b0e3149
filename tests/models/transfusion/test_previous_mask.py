# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The simulated mask of the step before, against the statistics of the published implementation."""

import json
from importlib import import_module

import pytest
import torch

from anomalib_transfusion.models.transfusion.previous_mask import StepGenerator, previous_mask
from anomalib_transfusion.synthesis import AnomalyGenerator, anomaly_mask, draw_noise
from parts import part
from paths import REFERENCE, needs_reference

DRAWS, CHUNK = 5000, 200
KINDS = ("dropped_threshold_is_noise_max", "shrunk", "same", "grown")


@pytest.fixture(scope="module")
def areas():
    torch.manual_seed(20261121)
    found: list[list[torch.Tensor]] = [[] for _ in KINDS]
    for _ in range(DRAWS // CHUNK):
        noise = draw_noise(CHUNK, (224, 224))
        for kind, areas in enumerate(found):
            areas.append(previous_mask(noise, kind).mean(dim=(1, 2, 3)))
    return [torch.cat(areas) for areas in found]


@pytest.fixture(scope="module")
def reference():
    return json.loads((REFERENCE / "official_mask_statistics.json").read_text(encoding="utf-8"))


@needs_reference
@pytest.mark.parametrize("kind", range(4))
def test_previous_mask_area_matches_the_published_statistics(areas, reference, kind):
    expected = reference["previous_mask_area_fraction_by_kind"][KINDS[kind]]["mean"]
    assert areas[kind].mean().item() == pytest.approx(expected, rel=0.1, abs=0.005)


def test_masks_are_binary_and_keep_their_shape():
    torch.manual_seed(0)
    mask = previous_mask(draw_noise(16, (48, 80)))
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


def test_anomalies_come_with_the_mask_of_the_step_before():
    """In the foreground and in the type of the images, empty for normal samples."""
    torch.manual_seed(6)
    foreground = torch.zeros(8, 1, 32, 32)
    foreground[:, :, 8:20, 4:30] = 1
    images = torch.rand(8, 3, 32, 32, dtype=torch.bfloat16)
    appearance, mask, previous = part(StepGenerator, None)(images, foreground)
    assert {tensor.dtype for tensor in (appearance, mask, previous)} == {torch.bfloat16}
    assert previous.shape == mask.shape == (8, 1, 32, 32)
    assert set(previous.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(previous, mask)
    assert not (previous * (1 - foreground)).any()
    assert not previous[4:].any()


def test_without_it_the_anomalies_are_the_same_but_for_what_is_drawn():
    """The mask comes from the noise that is drawn first."""
    results = []
    for generator in (AnomalyGenerator, StepGenerator):
        torch.manual_seed(8)
        results.append(part(generator, None)(torch.rand(8, 3, 32, 32)))
    assert torch.equal(results[0].mask, results[1].mask)
    assert results[0]._fields == ("appearance", "mask")


@pytest.mark.parametrize("module", ["synthesis", "synthesis.masks"])
def test_former_place(module):
    found = import_module(f"anomalib_transfusion.{module}")
    assert found.previous_mask is previous_mask
    with pytest.raises(AttributeError, match="has no attribute 'previous_masks'; it has"):
        _ = found.previous_masks
