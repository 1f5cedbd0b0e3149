# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Schedule, forward process and reverse step, against arithmetic done by hand."""

from itertools import pairwise

import pytest
import torch

from anomalib_transfusion.models.transfusion.transparency import (
    forward_process,
    inference_timesteps,
    reverse_step,
    transparency_schedule,
)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0, 0.25, 0.5, 0.75, 1]),
        ("quadratic", [0, 0.0625, 0.25, 0.5625, 1]),
        ("root", [0, 0.5, 0.5**0.5, 0.75**0.5, 1]),
    ],
)
def test_schedules(schedule, expected):
    torch.testing.assert_close(transparency_schedule(5, schedule), torch.tensor(expected))


def test_inference_timesteps():
    assert inference_timesteps(20) == list(range(19, 0, -1))
    assert inference_timesteps(20, 20) == list(range(19, 0, -1))
    assert inference_timesteps(20, start=18) == list(range(18, 0, -1))
    assert inference_timesteps(20, 5) == [19, 14, 10, 6, 1]
    assert inference_timesteps(20, 1) == [19]
    assert inference_timesteps(2) == [1]


@pytest.mark.parametrize("timesteps", [2, 3, 20, 100])
def test_strided_timesteps_fall_from_first_to_one(timesteps):
    for steps in range(2, timesteps):
        chosen = inference_timesteps(timesteps, steps)
        assert len(chosen) == steps
        assert (chosen[0], chosen[-1]) == (timesteps - 1, 1)
        assert all(earlier > later for earlier, later in pairwise(chosen))


@pytest.mark.parametrize(("steps", "start"), [(0, None), (21, None), (None, 0), (None, 20), (-1, None)])
def test_impossible_inference_timesteps(steps, start):
    with pytest.raises(ValueError, match="expected 1 to"):
        inference_timesteps(20, steps, start)


def test_forward_process_by_hand():
    normal = torch.tensor([0.5, 0.5, 0.5]).view(1, 1, 1, 3)
    anomaly = torch.tensor([-0.5, -0.5, -0.5]).view(1, 1, 1, 3)
    mask = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3)
    beta = torch.tensor(0.25)
    # Inside of the mask 0.25 * -0.5 + 0.75 * 0.5 = 0.25; outside the normal appearance.
    assert forward_process(normal, anomaly, mask, beta).flatten().tolist() == [0.25, 0.25, 0.5]


def test_reverse_step_undoes_the_forward_process():
    """With the true mask and appearances, Eq. 4 leads from x_t to x_s for any s < t, and to x_0 in the end."""
    generator = torch.Generator().manual_seed(0)
    normal, anomaly = torch.rand(2, 4, 3, 8, 8, generator=generator) * 2 - 1
    mask = (torch.rand(4, 1, 8, 8, generator=generator) > 0.5).float()
    beta = transparency_schedule(20, "linear")
    x = forward_process(normal, anomaly, mask, beta[19])
    for t, s in ((19, 18), (18, 11), (11, 2), (2, 0)):
        x = reverse_step(x, mask, beta[t] * anomaly, normal, beta[t], beta[s])
        torch.testing.assert_close(x, forward_process(normal, anomaly, mask, beta[s]), rtol=0, atol=1e-6)
    torch.testing.assert_close(x, normal, rtol=0, atol=1e-6)


def test_reverse_step_binarises_the_mask_at_one_half():
    one = torch.ones(1, 1, 1, 4)
    mask = torch.tensor([0.0, 0.5, 0.500001, 1.0]).view(1, 1, 1, 4)
    # Change 0.5 of beta 1: x - 0.5 * (-1) + 0.5 * 0 = 1.5 inside of the mask, 1 outside.
    stepped = reverse_step(one, mask, -one, 0 * one, torch.tensor(1.0), torch.tensor(0.5))
    assert stepped.flatten().tolist() == [1, 1, 1.5, 1.5]
