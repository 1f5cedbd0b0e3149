# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The network and the reverse process as a PyTorch module."""

from itertools import pairwise

import pytest
import torch
from anomalib.data import InferenceBatch
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from anomalib_transfusion.models.transfusion.unet import Prediction, ResidualBlock, ResUNet
from conftest import NETWORK
from parts import part

DEEPER = {**NETWORK, "channel_multipliers": (1, 2, 2), "timesteps": 6}


def build(**parameters):
    torch.manual_seed(0)
    return part(TransFusionModel, **{**DEEPER, **parameters})


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def test_training_mode_predicts_one_step(images):
    model = build().train()
    prediction = model(images, torch.zeros(3, 1, 16, 24), torch.tensor([1, 3, 5]))
    assert isinstance(prediction, Prediction)
    assert [tuple(head.shape) for head in prediction] == [(3, 3, 16, 24), (3, 3, 16, 24), (3, 1, 16, 24)]
    sum(head.mean() for head in prediction).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match="needs previous_mask and timestep"):
        model(images)


def test_evaluation_mode_gives_maps_and_scores(images):
    predictions = build().eval()(images)
    assert isinstance(predictions, InferenceBatch)
    assert predictions.pred_score.shape == (3,)
    assert predictions.anomaly_map.shape == (3, 1, 16, 24)
    assert not predictions.anomaly_map.requires_grad
    assert torch.equal(predictions.pred_score, predictions.anomaly_map.flatten(1).max(dim=1).values)
    assert 0 <= predictions.anomaly_map.min() <= predictions.anomaly_map.max() <= 1


def test_a_batch_gives_what_its_images_give_alone(images):
    model = build(precision="single").eval()
    alone = torch.cat([model(image[None]).anomaly_map for image in images])
    torch.testing.assert_close(model(images).anomaly_map, alone, rtol=0, atol=1e-5)


def test_callback_sees_every_step(images):
    model = build().eval()
    steps = []
    process = model.reverse_process(images, callback=steps.append)
    assert [(step.timestep, step.next_timestep) for step in steps] == [(5, 4), (4, 3), (3, 2), (2, 1), (1, 0)]
    torch.testing.assert_close(steps[0].x_t, images * 2 - 1)
    for step, following in pairwise(steps):
        assert torch.equal(step.x_next, following.x_t)
        beta, next_beta = model.beta[step.timestep], model.beta[step.next_timestep]
        # Eq. 4 of the paper, literally.
        mask = (step.mask > 0.5).float()
        expected = step.x_t - (beta - next_beta) * mask * step.anomaly + (beta - next_beta) * mask * step.normal
        torch.testing.assert_close(step.x_next, expected, rtol=0, atol=1e-5)
    assert torch.equal(steps[-1].x_next, process.reconstruction)
    torch.testing.assert_close(process.mask, torch.stack([step.mask for step in steps]).mean(dim=0))


def test_each_step_is_fed_the_binary_mask_of_the_step_before(images):
    model = build().eval()
    fed = []
    handle = model.network.register_forward_pre_hook(lambda _module, args: fed.append(args[1]))
    steps = []
    model.reverse_process(images, callback=steps.append)
    handle.remove()
    assert not fed[0].any()
    for mask, step in zip(fed[1:], steps, strict=False):
        assert torch.equal(mask, (step.mask > 0.5).float())


def test_final_map_by_convolution(images):
    model = build(discriminative_weight=0.7, filter_size=5).eval()
    process = model.reverse_process(images)
    reconstruction = (process.reconstruction / 2 + 0.5).clip(0, 1)
    error = ((images - reconstruction) ** 2).mean(dim=1, keepdim=True)
    expected = F.conv2d(0.7 * process.mask + 0.3 * error, torch.full((1, 1, 5, 5), 1 / 25), padding=2)
    torch.testing.assert_close(model(images).anomaly_map, expected)


def test_ablations_of_the_map(images):
    """Table 4: last mask only, discriminative map only, reconstruction map only."""
    model = build(filter_size=1).eval()
    process = model.reverse_process(images)
    error = (images - (process.reconstruction / 2 + 0.5).clip(0, 1)).square().mean(dim=1, keepdim=True)
    torch.testing.assert_close(build(filter_size=1, discriminative_weight=1).eval()(images).anomaly_map, process.mask)
    torch.testing.assert_close(build(filter_size=1, discriminative_weight=0).eval()(images).anomaly_map, error)
    steps = []
    model.reverse_process(images, callback=steps.append)
    last = build(filter_size=1, discriminative_weight=1, mask_aggregation="last").eval()
    torch.testing.assert_close(last(images).anomaly_map, steps[-1].mask)


def test_ablations_of_the_input(images):
    """Table 4: no positional encoding, no previous mask."""
    timestep, mask = torch.tensor([1, 3, 5]), torch.ones(3, 1, 16, 24)
    with torch.no_grad():
        full = build().eval().network
        assert full.input_projection.in_channels == 5
        assert not torch.equal(full(images, mask, timestep).normal, full(images, 0 * mask, timestep).normal)
        blind = build(previous_mask=False).eval().network
        assert blind.input_projection.in_channels == 4
        assert torch.equal(blind(images, mask, timestep).normal, blind(images, 0 * mask, timestep).normal)
        assert build(positional_encoding=False).network.input_projection.in_channels == 4


def test_positional_encoding_is_the_sine_of_the_row():
    network = build().network
    seen = []
    network.input_projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        network(torch.zeros(1, 3, 8, 12), torch.zeros(1, 1, 8, 12), torch.tensor([1]))
    expected = torch.arange(8.0).sin()[:, None].expand(8, 12)
    torch.testing.assert_close(seen[0][0, 4], expected)


@pytest.mark.parametrize("base_channels", [8, 16, 24, 40, 64])
def test_timestep_reaches_every_block(base_channels):
    """In a group of a single channel the normalization would take away what the timestep adds."""
    torch.manual_seed(0)
    network = part(ResUNet, base_channels=base_channels, num_blocks=1)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 4 + 2 + 8
    for block in blocks:
        x = torch.randn(1, block.norm_1.num_channels, 8, 8)
        early, late = (block(x, network.time_embedding(torch.tensor([timestep]))) for timestep in (1, 19))
        assert (late - early).std() > 0.01 * early.std()


def test_num_inference_steps_counts_network_passes(images):
    for steps, passes in ((None, 5), (6, 5), (5, 5), (3, 3), (1, 1)):
        model = build(num_inference_steps=steps).eval()
        count = []
        model.network.register_forward_hook(lambda *_: count.append(1))  # noqa: B023
        model(images)
        assert len(count) == passes


def test_weights_do_not_depend_on_how_they_are_evaluated(images):
    """No retraining: a state dict fits whatever the number of steps, the divisor, the filter or the start."""
    state = build().state_dict()
    other = part(TransFusionModel, **DEEPER, num_inference_steps=2, start_timestep=4, filter_size=3, mask_divisor=6)
    other.load_state_dict(state)
    assert not torch.equal(other.eval()(images).anomaly_map, build().eval()(images).anomaly_map)


def test_mask_divisor(images):
    mean = build().eval().reverse_process(images).mask
    divided = build(mask_divisor=10).eval().reverse_process(images).mask
    torch.testing.assert_close(divided, mean * 5 / 10)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((18, 16), "16x16 or 20x16"), ((16, 25), "16x24 or 16x28"), ((2, 2), "4x4"), ((101, 102), "100x100 or 104x104")],
)
@pytest.mark.parametrize("training", [True, False])
def test_sizes_that_the_network_cannot_divide(size, nearest, training):
    model = build().train(training)
    with pytest.raises(
        ValueError,
        match=rf"{size[0]}x{size[1]} pixels .* multiples of 4\. The nearest sizes are {nearest};",
    ):
        model(torch.zeros(1, 3, *size), torch.zeros(1, 1, *size), torch.tensor([1]))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"timesteps": 1}, "timesteps=1"),
        ({"timesteps": 0}, "timesteps=0"),
        ({"schedule": "cosine"}, "'cosine'"),
        ({"discriminative_weight": 1.1}, r"discriminative_weight=1.1 .* in \[0, 1\]"),
        ({"discriminative_weight": -0.1}, "discriminative_weight=-0.1"),
        ({"discriminative_weight": float("nan")}, "discriminative_weight=nan"),
        ({"num_inference_steps": 7}, "num_inference_steps=7 is impossible with timesteps=6; expected 1 to 6"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"start_timestep": 6}, "start_timestep=6"),
        ({"start_timestep": 0}, "start_timestep=0"),
        ({"filter_size": 4}, "filter_size=4 is impossible; expected an odd number, .* Use 3 or 5"),
        ({"filter_size": 0}, "filter_size=0 .* expected 1 to 999"),
        ({"filter_size": -3}, "filter_size=-3 .* expected 1 to 999"),
        ({"filter_size": 1001}, "filter_size=1001 .* expected 1 to 999"),
        ({"mask_divisor": 0}, "mask_divisor=0"),
        ({"mask_aggregation": "max"}, "'max'"),
        ({"base_channels": 12}, "base_channels=12"),
        ({"base_channels": 0}, "base_channels=0"),
        ({"channel_multipliers": ()}, r"channel_multipliers=\(\)"),
        ({"channel_multipliers": (1, 0)}, r"channel_multipliers=\(1, 0\)"),
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"attention_levels": (3,)}, r"\[3\] are not levels; expected -3 to 2"),
    ],
)
def test_impossible_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        build(**parameters)


def test_attention_levels_count_from_either_end():
    keys = set(build(attention_levels=(-1,)).state_dict())
    assert keys == set(build(attention_levels=(2,)).state_dict())
    assert keys != set(build(attention_levels=(0,)).state_dict())
