# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The process of hidden pixels against arithmetic written out (R1, R2, R4), and that nothing of them is left."""

import math

import numpy as np
import pytest
import torch

from anomalib_transfusion.models.drdc.diffusion import corrupt, restart
from anomalib_transfusion.models.drdc.inpainting import fill, random_sets


@pytest.fixture
def drawn():
    torch.manual_seed(0)
    images, noise = torch.rand(2, 2, 3, 16, 24) * 2 - 1
    mask = random_sets(2, 16, 24, 4, 4)
    levels = torch.tensor([0.97, 0.3]).view(2, 1, 1, 1)
    shares = torch.tensor([0.2, 0.75]).view(2, 1, 1, 1)
    return images, fill(images, mask, 4), mask, levels, shares, noise


@pytest.mark.parametrize("known", ["clean", "noisy"])
@pytest.mark.parametrize("process", ["shift", "ddpm", "noised"])
def test_corruption(drawn, process, known):
    images, filled, mask, levels, shares, noise = drawn
    result = corrupt(*drawn, process, known)
    assert result.shape == images.shape
    for place in np.ndindex(*images.shape):
        number, _, row, column = place
        x, eps, level = images[place].item(), noise[place].item(), levels[number].item()
        z = x + shares[number].item() * (filled[place].item() - x) if process == "shift" else x
        s = math.sqrt(level) * z + math.sqrt(1 - level) * eps
        hidden = mask[number, 0, row, column].item()
        expected = hidden * s + (1 - hidden) * x if known == "clean" else s
        assert result[place].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("known", ["clean", "noisy"])
def test_restart(drawn, known):
    images, _, mask, levels, _, noise = drawn
    prediction = torch.randn_like(images)
    result = restart(prediction, images, mask, levels, noise, known)
    for place in np.ndindex(*images.shape):
        number, _, row, column = place
        hidden = mask[number, 0, row, column].item() == 1
        x_0 = (prediction if hidden else images)[place].item()
        s = math.sqrt(levels[number].item()) * x_0 + math.sqrt(1 - levels[number].item()) * noise[place].item()
        expected = images[place].item() if known == "clean" and not hidden else s
        assert result[place].item() == pytest.approx(expected, abs=1e-6)


def changed_where_hidden(images, mask):
    return torch.where(mask > 0.5, torch.rand_like(images) * 2 - 1, images)


@pytest.mark.parametrize("known", ["clean", "noisy"])
def test_at_the_largest_timestep_nothing_of_hidden_pixels_is_left(drawn, known):
    """Bit for bit: a network learns to read the last digits, too."""
    images, _, mask, levels, _, noise = drawn
    others = changed_where_hidden(images, mask)
    assert not torch.equal(others, images)
    end = torch.ones(2, 1, 1, 1)
    seen = [corrupt(x, fill(x, mask, 4), mask, levels, end, noise, "shift", known) for x in (images, others)]
    assert torch.equal(*seen)


def test_plain_diffusion_leaks(drawn):
    """What the shift is for: at small timesteps hidden pixels are nearly the image's own."""
    images, filled, mask, _, _, noise = drawn
    level = torch.full((2, 1, 1, 1), 0.97)
    seen = corrupt(images, filled, mask, level, torch.ones(2, 1, 1, 1), noise, "ddpm", "clean")
    hidden = (mask > 0.5).expand_as(images)
    assert torch.corrcoef(torch.stack((seen[hidden], images[hidden])))[0, 1] > 0.95


def test_the_start_of_the_reverse_process_is_that_of_training_at_the_largest_timestep(drawn):
    images, filled, mask, levels, _, noise = drawn
    trained = corrupt(images, filled, mask, levels, torch.ones(2, 1, 1, 1), noise, "shift", "clean")
    assert torch.equal(restart(filled, images, mask, levels, noise, "clean"), trained)


def test_restart_takes_nothing_of_hidden_pixels_of_the_image(drawn):
    images, filled, mask, levels, _, noise = drawn
    others = changed_where_hidden(images, mask)
    for known in ("clean", "noisy"):
        seen = [restart(filled, x, mask, levels, noise, known) for x in (images, others)]
        assert torch.equal(*seen)
