# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Rotation of batches against torchvision's rotation of single images."""

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from anomalib_transfusion.synthesis.geometry import rotate


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_each_image_turns_by_its_own_angle_as_in_torchvision(size):
    torch.manual_seed(0)
    images = torch.rand(3, 2, *size)
    degrees = torch.tensor([0.0, 37.0, -81.0])
    rotated = rotate(images, degrees)
    for image, angle, result in zip(images, degrees.tolist(), rotated, strict=True):
        expected = tv.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
        inside = tv.rotate(torch.ones_like(image), angle, interpolation=InterpolationMode.BILINEAR) > 0.999
        torch.testing.assert_close(result[inside], expected[inside], atol=1e-4, rtol=0)


def test_quarter_turn_is_exact_and_counter_clockwise():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    turned = rotate(image, torch.tensor([90.0]), mode="nearest")
    assert torch.equal(turned[0, 0], torch.rot90(image[0, 0], 1))


def test_outside_of_the_image_is_zero():
    turned = rotate(torch.ones(1, 1, 64, 64), torch.tensor([45.0]))
    assert turned[0, 0, 0, 0] == 0
    assert turned[0, 0, 32, 32] == 1
    # The square and its copy turned by 45 degrees share an octagon of 2 (sqrt 2 - 1) of its area.
    assert turned.mean().item() == pytest.approx(2 * (2**0.5 - 1), abs=0.01)
