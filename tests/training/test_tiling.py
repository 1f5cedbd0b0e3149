# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The network on tiles."""

import pytest
import torch
from anomalib.data.utils.tiler import ImageUpscaleMode, Tiler

from anomalib_transfusion.models.transfusion.unet import Prediction
from anomalib_transfusion.training.tiling import predict_tiles

IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(tiny):
    """Return a torch model with weights that do not start at zero."""
    torch.manual_seed(0)
    model = tiny().model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_tiles_side_by_side_are_processed_as_images_of_their_own(model):
    rows = [[IMAGES[..., y : y + 16, x : x + 16] for x in (0, 16, 32)] for y in (0, 16)]
    parts = [[model.reverse_process(part) for part in row] for row in rows]
    whole = model.reverse_process(IMAGES)
    model.tiler = Tiler(16, 16)
    tiled = model.reverse_process(IMAGES)
    for field in ("mask", "reconstruction"):
        expected = torch.cat([torch.cat([getattr(part, field) for part in row], dim=3) for row in parts], dim=2)
        torch.testing.assert_close(getattr(tiled, field), expected, rtol=1e-4, atol=1e-5)
        # Attention and the row encoding do not reach over tiles.
        assert (getattr(whole, field) - expected).abs().max() > 1e-3


def test_each_tile_has_the_timestep_and_the_mask_of_its_image():
    """With a network that can be told apart, which a small one cannot: its normalization hides the timestep."""

    def network(x_t, previous_mask, timestep):
        return Prediction(x_t * timestep.view(-1, 1, 1, 1), x_t, previous_mask)

    masks, timesteps = IMAGES[:, :1] > 0.5, torch.tensor([1, 3])
    anomaly, normal, logits = predict_tiles(network, Tiler(16, 8), IMAGES, masks.float(), timesteps)
    torch.testing.assert_close(anomaly, IMAGES * timesteps.view(-1, 1, 1, 1))
    torch.testing.assert_close(normal, IMAGES)
    torch.testing.assert_close(logits, masks.float())


def test_a_tile_of_the_whole_image_changes_nothing(model):
    expected = model(IMAGES)
    model.tiler = Tiler((32, 48), (32, 48))
    torch.testing.assert_close(model(IMAGES), expected)
    model.tiler = None
    torch.testing.assert_close(model(IMAGES), expected)


def test_overlapping_tiles_are_averaged_in_training(model):
    model.train()
    masks = (torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    timesteps = torch.tensor([1, 3])
    model.tiler = Tiler((32, 32), (32, 16))
    tiled = model(IMAGES, masks, timesteps)
    left, right = (slice(None, 32), slice(16, None))
    # One batch, as batch normalization sees it.
    both = torch.cat([
        torch.cat([t[i : i + 1, ..., side] for i in (0, 1) for side in (left, right)]) for t in (IMAGES,)
    ])
    both_masks = torch.cat([masks[i : i + 1, ..., side] for i in (0, 1) for side in (left, right)])
    parts = model.network(both, both_masks, torch.tensor([1, 1, 3, 3]))
    for head, part in zip(tiled, parts, strict=True):
        torch.testing.assert_close(head[..., :16], part[::2, ..., :16])
        torch.testing.assert_close(head[..., 32:], part[1::2, ..., 16:])
        torch.testing.assert_close(head[..., 16:32], (part[::2, ..., 16:] + part[1::2, ..., :16]) / 2)
        assert head.requires_grad


@pytest.mark.parametrize("mode", ImageUpscaleMode)
def test_images_that_tiles_do_not_divide(model, mode):
    model.tiler = Tiler(20, 20, mode=mode)
    prediction = model(IMAGES)
    assert prediction.anomaly_map.shape == (2, 1, 32, 48)
    assert prediction.anomaly_map.isfinite().all()
