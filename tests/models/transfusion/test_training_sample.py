# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What a training step sees: timesteps, masks, half of the batch anomalous, everything rotated together."""

import pytest
import torch
from lightning.pytorch import seed_everything

from anomalib_transfusion.models.transfusion.training_sample import TrainingSampler
from anomalib_transfusion.models.transfusion.transparency import forward_process, transparency_schedule
from parts import part
from paths import DATASETS, needs_datasets

BETA = transparency_schedule(20, "linear")


def draw(images, **parameters):
    sampler = part(TrainingSampler, **{"dtd_dir": "nowhere", "texture_source": "none", **parameters})
    return sampler(images, BETA)


@pytest.fixture
def images():
    seed_everything(0)
    return torch.rand(400, 3, 64, 64)


def test_timesteps_are_uniform_from_1_to_19(images):
    timestep = draw(images).timestep
    assert timestep.shape == (400,)
    counts = torch.bincount(timestep, minlength=20)
    assert counts[0] == 0
    # 400 / 19 is about 21; each count lies within four standard deviations.
    assert all(3 <= count <= 40 for count in counts[1:])


@pytest.mark.parametrize(("start_timestep", "first"), [(None, 19), (18, 18), (10, 10)])
def test_previous_mask_is_empty_where_the_reverse_process_starts(images, start_timestep, first):
    sample = draw(images, start_timestep=start_timestep)
    area = sample.previous_mask.flatten(1).sum(dim=1)
    assert not area[sample.timestep >= first].any()
    assert area[sample.timestep == first - 1].any()


def test_half_of_the_batch_carries_anomalies(images):
    sample = draw(images, rotation_probability=0)
    anomalous = sample.target.mask.flatten(1).any(dim=1)
    # A mask may be empty by chance.
    assert not anomalous[200:].any()
    assert anomalous[:200].float().mean() > 0.9
    assert not sample.target.anomaly[200:].any()
    assert torch.equal(sample.x_t[200:], 2 * images[200:] - 1)


def test_share_of_structure_and_size_of_anomalies_reach_the_synthesis():
    seed_everything(0)
    black = torch.zeros(40, 3, 64, 64)

    def spread(share):
        target = draw(black, texture_source="photographs", structure_share=share, rotation_probability=0).target
        inside = target.mask[:, 0].bool()
        return [
            float(anomaly[:, where].std(dim=1).mean())
            for anomaly, where in zip(target.anomaly, inside, strict=True)
            if where.sum() > 50
        ]

    # Black in disorder stays black or becomes another flat color; photographs do not.
    assert sum(spread(0)) / len(spread(0)) > 4 * sum(spread(1)) / len(spread(1))
    images = torch.rand(200, 3, 64, 64)
    fine = draw(images, min_perlin_scale=5, rotation_probability=0).target.mask[:100].mean(dim=(1, 2, 3))
    coarse = draw(images, rotation_probability=0).target.mask[:100].mean(dim=(1, 2, 3))
    # Many small spots average out: every mask covers about the same share.
    assert fine.std() < coarse.std() / 3


def test_input_is_the_forward_process_of_the_target(images):
    sample = draw(images)
    normal, anomaly, mask = sample.target
    expected = forward_process(normal, anomaly, mask, BETA[sample.timestep].view(-1, 1, 1, 1))
    assert torch.equal(sample.x_t, expected)
    assert -1 <= sample.x_t.min() <= sample.x_t.max() <= 1
    assert set(mask.unique().tolist()) == {0, 1}
    assert set(sample.previous_mask.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_share_of_rotated_samples(images, probability):
    """A rotated image has black corners; the others are as they were."""
    bright = images.clamp(min=0.1)
    sample = draw(bright, rotation_probability=probability)
    unchanged = (sample.target.normal == 2 * bright - 1).flatten(1).all(dim=1)
    # An angle of less than a degree may move no pixel to another place: one in twenty.
    assert (~unchanged).float().mean().item() == pytest.approx(0.95 * probability, abs=0.08)


def test_default_share_of_rotated_samples_is_the_published_one():
    assert part(TrainingSampler).rotation_probability == 0.3


@needs_datasets
def test_textures_from_a_folder_change_with_the_size_of_the_images():
    sampler = part(TrainingSampler, dtd_dir=DATASETS / "dtd", texture_source="folder")
    for size in ((16, 16), (24, 32)):
        sample = sampler(torch.rand(8, 3, *size), BETA)
        assert sample.x_t.shape == (8, 3, *size)


def test_estimated_foreground_keeps_anomalies_on_the_object():
    """A bright disc on black: nothing may happen far away from it."""
    y, x = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    distance = (y.square() + x.square()).sqrt()
    disc = (distance < 16).float() * 0.7
    images = disc.expand(64, 3, 64, 64) + 0.02 * torch.rand(64, 3, 64, 64)
    seed_everything(0)
    anywhere = draw(images, rotation_probability=0).target.mask
    kept = draw(images, rotation_probability=0, foreground="estimate").target.mask
    far = (distance > 22).expand(64, 1, 64, 64)
    assert anywhere[far].any()
    assert not kept[far].any()
    assert kept.any()


def test_foreground_masks_need_the_files_of_the_images(tmp_path):
    from PIL import Image

    Image.new("L", (16, 16), 255).save(tmp_path / "000.png")
    sampler = part(TrainingSampler, texture_source="none", foreground=tmp_path)
    with pytest.raises(ValueError, match="no image_path"):
        sampler(torch.rand(2, 3, 16, 16), BETA)
    sample = sampler(torch.rand(2, 3, 16, 16), BETA, image_paths=["good/000.png", "good/000.png"])
    assert sample.x_t.shape == (2, 3, 16, 16)
