# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The denoiser: what it depends on, what it does not, its size and its export."""

import pytest
import torch

from anomalib_transfusion.models.drdc.denoiser import Denoiser
from anomalib_transfusion.models.drdc.inpainting import fill, lattice_sets

SMALL = {"base_channels": 16, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_levels": (-1,)}


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return Denoiser(**SMALL, num_categories=3).eval()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    image = torch.rand(1, 3, 24, 40) * 2 - 1
    return image.expand(2, -1, -1, -1), lattice_sets(24, 40, 4, 4)[:1].expand(2, -1, -1, -1)


@torch.no_grad()
def difference(denoiser, image, mask, timestep, category):
    first, second = denoiser(image, mask, torch.tensor(timestep), torch.tensor(category))
    return (first - second).abs().max().item()


def test_shapes_that_are_not_square(denoiser, inputs):
    predicted = denoiser(*inputs, torch.tensor([250, 50]), torch.tensor([0, 3]))
    assert predicted.shape == (2, 3, 24, 40)
    assert denoiser.stride == 2


def test_timestep_category_and_mask_matter(denoiser, inputs):
    image, mask = inputs
    assert difference(denoiser, image, mask, [50, 50], [1, 1]) < 1e-6
    assert difference(denoiser, image, mask, [50, 250], [1, 1]) > 1e-2
    for other in (0, 2, denoiser.null_category):
        assert difference(denoiser, image, mask, [50, 50], [1, other]) > 1e-3
    assert difference(denoiser, image, torch.cat((mask[:1], 1 - mask[:1])), [50, 50], [1, 1]) > 1e-2


def test_embedding_of_the_category_is_small_and_added_to_that_of_the_timestep(denoiser, inputs):
    weight = torch.nn.Parameter(torch.randn(4, 64) * 0.02)
    assert denoiser.category_embedding.weight.shape == weight.shape
    assert denoiser.category_embedding.weight.std().item() == pytest.approx(0.02, rel=0.25)
    image, mask = (x[:1] for x in inputs)
    seen = []
    hook = denoiser.middle[0].register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[1]))
    with torch.no_grad():
        denoiser(image, mask, torch.tensor([120]), torch.tensor([2]))
        expected = denoiser.time_embedding(torch.tensor([120])) + denoiser.category_embedding.weight[2]
    hook.remove()
    torch.testing.assert_close(seen[0], expected)


def test_samples_do_not_depend_on_their_batch_or_on_earlier_calls(denoiser, inputs):
    image, mask = inputs
    timestep, category = torch.tensor([250, 50]), torch.tensor([0, 2])
    with torch.no_grad():
        together = denoiser(image, mask, timestep, category)
        alone = denoiser(image[1:], mask[1:], timestep[1:], category[1:])
        again = denoiser(image, mask, timestep, category)
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)
    assert torch.equal(together, again)
    assert not dict(denoiser.named_buffers())


def test_channels_last_computes_the_same(denoiser, inputs):
    arguments = (*inputs, torch.tensor([250, 50]), torch.tensor([0, 3]))
    with torch.no_grad():
        torch.testing.assert_close(denoiser(*arguments, channels_last=True), denoiser(*arguments), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("base_channels", "millions"), [(32, 6.0), (64, 23.9)])
def test_size_at_the_defaults(base_channels, millions):
    """Counted for a network of these sizes before this one was written."""
    with torch.device("meta"):
        network = Denoiser(
            base_channels=base_channels,
            channel_multipliers=(1, 2, 4, 4),
            num_blocks=2,
            attention_levels=(-1,),
            num_categories=1,
        )
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_every_weight_learns(inputs):
    torch.manual_seed(0)
    network = Denoiser(**SMALL, num_categories=2)
    network(*inputs, torch.tensor([250, 50]), torch.tensor([0, 2])).square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    rows = network.category_embedding.weight.grad.abs().sum(dim=1)
    assert (rows > 0).tolist() == [True, False, True]


class Pass(torch.nn.Module):
    """Fill and a pass, as in the reverse process."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image, mask, timestep, category):
        """Fill the image and paint it."""
        return self.network(fill(image, mask, 4), mask, timestep, category)


def test_exports_for_batches_of_any_size(denoiser, inputs):
    batch = torch.export.Dim("batch", min=1, max=64)
    arguments = (*inputs, torch.tensor([250, 50]), torch.tensor([0, 3]))
    module = Pass(denoiser).eval()
    with torch.no_grad():
        program = torch.export.export(module, arguments, dynamic_shapes=[{0: batch}] * 4)
        larger = [torch.cat((x, x.flip(0), x[:1])) for x in arguments]
        torch.testing.assert_close(program.module()(*larger), module(*larger), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"base_channels": 12}, "base_channels=12 must be a positive multiple of 8"),
        ({"attention_levels": (2,)}, "are not levels"),
        ({"num_categories": 0}, "num_categories=0 is impossible"),
    ],
)
def test_impossible_sizes_are_refused(wrong, problem):
    with pytest.raises(ValueError, match=problem):
        Denoiser(**{**SMALL, "num_categories": 1, **wrong})
