# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Perlin noise against a scalar implementation, pixel by pixel."""

import math

import pytest
import torch

from anomalib_transfusion.synthesis import perlin_noise


def scalar_noise(directions, cells, size, y, x):
    """Gradient noise at one pixel, as in Perlin's paper: four corners, their ramps, two interpolations."""
    py, px = y * cells[0] / size[0], x * cells[1] / size[1]
    iy, ix = math.floor(py), math.floor(px)
    fy, fx = py - iy, px - ix

    def ramp(down, right):
        angle = float(directions[iy + down, ix + right])
        return math.cos(angle) * (fy - down) + math.sin(angle) * (fx - right)

    def fade(t):
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    def mix(a, b, t):
        return a + (b - a) * t

    left = mix(ramp(0, 0), ramp(1, 0), fade(fy))
    right = mix(ramp(0, 1), ramp(1, 1), fade(fy))
    return math.sqrt(2) * mix(left, right, fade(fx))


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (37, 50)])
def test_every_pixel_matches_the_scalar_definition(size):
    torch.manual_seed(1)
    cells = torch.tensor([[1, 1], [4, 2], [1, 8], [5, 7]])
    directions = 2 * math.pi * torch.rand(4, 9, 9)
    noise = perlin_noise(cells, size, directions=directions)
    assert noise.shape == (4, 1, *size)
    for sample in range(4):
        for y in range(0, size[0], 3):
            for x in range(size[1]):
                expected = scalar_noise(directions[sample], cells[sample].tolist(), size, y, x)
                assert noise[sample, 0, y, x].item() == pytest.approx(expected, abs=2e-5)


def test_lattice_nodes_are_zero_and_values_stay_in_range():
    torch.manual_seed(2)
    noise = perlin_noise(torch.full((32, 2), 8), (64, 64))
    assert noise[..., ::8, ::8].abs().max() < 1e-6
    # Unit gradients bound the unscaled noise by sqrt(1/2), and 2048 cells come near it.
    assert 0.9 < noise.abs().max() <= 1.0


def test_no_seam_between_cells():
    torch.manual_seed(3)
    noise = perlin_noise(torch.full((8, 2), 4), (256, 256))
    step = noise.diff(dim=3).abs()
    seam = step[..., 63::64].amax()
    assert seam <= step.amax() < 0.1


def test_one_axis_may_be_finer_than_the_other():
    torch.manual_seed(4)
    noise = perlin_noise(torch.tensor([[1, 32]]).expand(64, 2), (128, 128))
    assert noise.diff(dim=3).abs().mean() > 5 * noise.diff(dim=2).abs().mean()


def test_max_cells_bounds_the_lattice_without_changing_the_distribution():
    torch.manual_seed(5)
    tight = perlin_noise(torch.full((400, 2), 4), (32, 32)).std()
    loose = perlin_noise(torch.full((400, 2), 4), (32, 32), max_cells=32).std()
    assert tight.item() == pytest.approx(loose.item(), rel=0.05)


def test_angle_turns_each_map_and_leaves_zero_outside():
    torch.manual_seed(6)
    cells = torch.full((2, 2), 2)
    directions = 2 * math.pi * torch.rand(2, 3, 3)
    plain = perlin_noise(cells, (65, 65), directions=directions)
    turned = perlin_noise(cells, (65, 65), torch.tensor([0.0, 90.0]), directions=directions)
    torch.testing.assert_close(turned[0], plain[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[1], torch.rot90(plain[1], 1, (1, 2)), atol=1e-4, rtol=0)
    corner = perlin_noise(cells, (65, 65), torch.full((2,), 45.0), directions=directions)[..., :5, :5]
    assert torch.equal(corner, torch.zeros_like(corner))


def test_seed_decides():
    cells = torch.full((2, 2), 4)
    maps = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        maps.append(perlin_noise(cells, (32, 32)))
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_autocast_does_not_round_the_noise():
    torch.manual_seed(9)
    directions = torch.rand(1, 9, 9)
    cells = torch.full((1, 2), 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = perlin_noise(cells, (32, 32), directions=directions)
    assert torch.equal(inside, perlin_noise(cells, (32, 32), directions=directions))
