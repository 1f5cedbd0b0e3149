# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Formulas of Gaussian diffusion against arithmetic written out, and against one another."""

import math

import pytest
import torch

from anomalib_transfusion.networks.gaussian import (
    add_noise,
    alpha_bar,
    ancestral_step,
    cosine_betas,
    linear_betas,
    posterior,
    predict_x_0,
    rates,
)


def test_linear_schedule_at_the_ends_and_in_the_middle():
    betas = linear_betas()
    assert betas.dtype == torch.float64
    assert betas[0].item() == pytest.approx(1e-4, abs=1e-18)
    assert betas[-1].item() == pytest.approx(0.02, abs=1e-17)
    level = 1.0
    for t in range(201):
        level *= 1 - (1e-4 + t * (0.02 - 1e-4) / 999)
    assert alpha_bar(betas)[200].item() == pytest.approx(level, rel=1e-13)
    assert level == pytest.approx(0.656347, abs=1e-6)


def test_fewer_timesteps_lose_as_much_of_the_image():
    betas = linear_betas(500)
    assert betas[[0, -1]].tolist() == pytest.approx([2e-4, 0.04])
    assert alpha_bar(betas)[-1].log().item() == pytest.approx(alpha_bar(linear_betas())[-1].log().item(), rel=0.02)


def test_too_few_timesteps_are_refused():
    assert linear_betas(21).max() < 1
    with pytest.raises(ValueError, match=r"timesteps=20 gives noise of a variance of 1 .*more than 20 timesteps"):
        linear_betas(20)


def test_cosine_schedule_is_a_squared_cosine():
    betas = cosine_betas(100)
    levels = alpha_bar(betas)
    for t in (0, 40, 97):
        ends = [math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2 for time in ((t + 1) / 100, 0)]
        assert levels[t].item() == pytest.approx(ends[0] / ends[1], rel=1e-9)
    assert betas[-1] == 0.999


def test_rates_keep_their_digits_at_the_first_timestep():
    """1 - alpha_bar taken in single precision would be off by up to one in three thousand."""
    noise = rates(alpha_bar(linear_betas())).noise[0].item()
    assert noise == pytest.approx(0.01, rel=1e-7)


def test_rates_are_those_of_each_sample():
    table = rates(alpha_bar(linear_betas()))
    found = table.at(torch.tensor([3, 500]))
    assert found.signal.shape == (2, 1, 1, 1)
    assert found.signal[1].item() == table.signal[500].item()
    assert found.noise[0].item() == table.noise[3].item()
    torch.testing.assert_close(table.signal.square() + table.noise.square(), torch.ones(1000))


def test_the_image_comes_back_from_its_noise():
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(3, 3, 4, 5, generator=generator)
    noise = torch.randn(3, 3, 4, 5, generator=generator)
    chosen = rates(alpha_bar(linear_betas())).at(torch.tensor([0, 200, 999]))
    x_t = add_noise(x_0, noise, chosen)
    torch.testing.assert_close(x_t[1], math.sqrt(0.6563472) * x_0[1] + math.sqrt(1 - 0.6563472) * noise[1])
    assert (predict_x_0(x_t, noise, chosen) - x_0).abs().amax(dim=(1, 2, 3)).lt(torch.tensor([1e-6, 1e-6, 1e-4])).all()


def test_posterior_is_the_product_of_two_gaussians():
    """x_(t-1) has the prior of x_0's noising and the likelihood of x_t: precisions add up."""
    betas = linear_betas()
    given = posterior(betas)
    t = 321
    before, beta = alpha_bar(betas)[t - 1].item(), betas[t].item()
    precision = (1 - beta) / beta + 1 / (1 - before)
    assert given.variance[t].item() == pytest.approx(1 / precision, rel=1e-12)
    assert given.x_t[t].item() == pytest.approx(math.sqrt(1 - beta) / beta / precision, rel=1e-12)
    assert given.x_0[t].item() == pytest.approx(math.sqrt(before) / (1 - before) / precision, rel=1e-12)
    assert [table[0].item() for table in given] == pytest.approx([1, 0, 0], abs=1e-12)


def test_the_last_ancestral_step_adds_no_noise():
    x_t, x_0, noise = torch.randn(3, 2, 1, 2, 2)
    betas = linear_betas()
    step = ancestral_step(x_t, x_0, noise, torch.tensor([0, 10]), betas)
    torch.testing.assert_close(step[0], x_0[0])
    torch.testing.assert_close(
        step[1] - ancestral_step(x_t, x_0, 0 * noise, torch.tensor([0, 10]), betas)[1],
        betas[10].sqrt().float() * noise[1],
    )
