# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The memory of normal features against arithmetic of its own, and against anomalib's PatchCore."""

import numpy as np
import pytest
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

from anomalib_transfusion.networks import memory as memory_module
from anomalib_transfusion.networks.memory import FeatureMemory


@pytest.fixture
def random():
    return np.random.default_rng(0)


def tensor(array):
    return torch.from_numpy(array.astype(np.float32))


def filled(random, size=6, pool=80, others=30):
    """Return a memory of the first vectors of a pool, with pool and others."""
    pool, others = (3 * random.normal(size=(number, 5)) + 2 for number in (pool, others))
    memory = FeatureMemory(size, [3, 2])
    memory.fill(tensor(pool), tensor(others), lambda _, number: list(range(number)))
    return memory, pool, others


def nearest(vectors, pool, kept, channels):
    """Distances in some channels by one loop over all pairs, each channel in deviations of the pool."""
    deviation = pool.std(axis=0, ddof=1)
    return np.array([min(np.sqrt((((a - b) / deviation)[channels] ** 2).sum()) for b in kept) for a in vectors])


def summed(vectors, others, pool, kept):
    """Sums of the distances in all five channels, in the first three and in the last two, each in its deviations."""
    parts = [
        (nearest(vectors, pool, kept, channels), nearest(others, pool, kept, channels).std(ddof=1))
        for channels in (slice(0, 5), slice(0, 3), slice(3, 5))
    ]
    return sum(found / deviation for found, deviation in parts)


@pytest.mark.parametrize("at_a_time", [2**22, 7 * 6, 1])
def test_distances(random, monkeypatch, at_a_time):
    """Also where seven or a single vector are compared at a time."""
    monkeypatch.setattr(memory_module, "MOST_DISTANCES", at_a_time)
    memory, pool, others = filled(random)
    normal = summed(others, others, pool, pool[:6])
    fine, coarse = random.normal(size=(2, 3, 4, 6)), random.normal(size=(2, 2, 2, 3))
    found = memory([tensor(fine), tensor(coarse)])
    vectors = memory.embed([tensor(fine), tensor(coarse)]).permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    expected = (summed(vectors, others, pool, pool[:6]) - normal.mean()) / normal.std(ddof=1)
    np.testing.assert_allclose(found.flatten(), expected, rtol=1e-3, atol=1e-3)
    assert found.shape == (2, 1, 4, 6)


def test_neighborhoods(random):
    """The finest map as it is, and of the others the mean of the 3x3 positions around each that are inside."""
    fine, coarse = random.normal(size=(1, 2, 4, 5)), random.normal(size=(1, 1, 4, 5))
    found = FeatureMemory.embed([tensor(fine), tensor(coarse)])
    torch.testing.assert_close(found[:, :2], tensor(fine))
    for row in range(4):
        for column in range(5):
            around = coarse[0, 0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            assert found[0, 2, row, column].item() == pytest.approx(around.mean(), abs=1e-5)


def test_resolution_of_the_finest(random):
    """Coarser maps are enlarged to the resolution of the finest."""
    fine = random.normal(size=(1, 1, 4, 6))
    found = FeatureMemory.embed([tensor(fine), tensor(np.full((1, 2, 2, 3), 7.0))])
    torch.testing.assert_close(found[:, 1:], torch.full((1, 2, 4, 6), 7.0))


def test_as_patchcore(random):
    """The order of distances is PatchCore's where all channels have one deviation."""
    pool = random.normal(size=(400, 5))
    pool = (pool - pool.mean(axis=0)) / pool.std(axis=0, ddof=1)
    memory = FeatureMemory(40, [5])
    memory.fill(tensor(pool), tensor(random.normal(size=(50, 5))), lambda _, number: list(range(number)))
    vectors = random.normal(size=(1, 5, 3, 4))
    query = memory.embed([tensor(vectors)]).permute(0, 2, 3, 1).reshape(-1, 5)
    expected = PatchcoreModel.euclidean_dist(query, tensor(pool[:40])).min(dim=1).values
    found = memory([tensor(vectors)]).flatten() * memory.distance_deviation + memory.distance_mean
    found *= memory.part_deviations
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("pool", "expected"), [(400, 12), (80, 8), (5, 1)])
def test_at_most_a_tenth_is_kept(random, pool, expected):
    """The rest of the memory repeats them, so that the distances are the same."""
    asked = []
    memory = FeatureMemory(12, [4])
    vectors = tensor(random.normal(size=(pool, 4)))
    number = memory.fill(vectors, vectors, lambda given, count: asked.append((given, count)) or list(range(count)))
    assert number == asked[0][1] == expected
    torch.testing.assert_close(asked[0][0].mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    assert memory.vectors.shape == (12, 4)
    assert len(memory.vectors.unique(dim=0)) == expected
    assert memory.filled


def test_rare_vectors_are_there_to_choose_from(random):
    """They have no part in what is typical: channels and distances are normalized as without them."""
    given = []
    memory = FeatureMemory(6, [4])
    pool, others, rare = (tensor(random.normal(size=(count, 4))) for count in (50, 20, 30))
    rare += 20
    number = memory.fill(pool, others, lambda all_, count: given.append(all_) or list(range(50, 50 + count)), rare)
    assert number == 6
    mean, deviation = pool.mean(dim=0), pool.std(dim=0)
    torch.testing.assert_close(given[0], (torch.cat([pool, rare]) - mean) / deviation)
    torch.testing.assert_close(memory.vectors, (rare[:6] - mean) / deviation)
    assert memory.fill(pool, others, lambda _, count: list(range(count)), rare[:8]) == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(random, dtype):
    """Squares of distances are small differences of large squares, which 16 bits would lose."""
    memory, _, _ = filled(random)
    maps = [tensor(10 + random.normal(size=(2, 5, 4, 6)))]
    expected = memory(maps)
    found = memory.to(dtype)([part.to(dtype) for part in maps])
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.03, atol=0.05)


def test_autocast_changes_nothing(random):
    memory, _, _ = filled(random)
    maps = [tensor(random.normal(size=(2, 5, 4, 6)))]
    expected = memory(maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(memory(maps), expected)


def test_nothing_is_trained(random):
    memory, _, _ = filled(random)
    assert not list(memory.parameters())
    assert not memory([torch.rand(1, 5, 4, 4, requires_grad=True)]).requires_grad
