# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DiffusionAD as a PyTorch module: maps that depend on their image alone, any size, small batches, any way to run."""

import copy
import warnings
from itertools import pairwise

import pytest
import torch
from anomalib.data.utils.tiler import Tiler

from anomalib_transfusion.models.diffusion_ad.loss import DiffusionADLoss, Target
from anomalib_transfusion.models.diffusion_ad.torch_model import DiffusionADModel
from anomalib_transfusion.models.diffusion_ad.training_sample import AnomalySampler, kind_of_product
from anomalib_transfusion.networks import acceleration
from anomalib_transfusion.synthesis import TextureBank
from parts import part

from .networks import build, photograph


@pytest.fixture(scope="module")
def model():
    return build()


def step(model, images, label=None):
    """Run a training step, and return its loss."""
    timestep, noise = model.draw_diffusion(images)
    label = torch.arange(len(images)) % 2 if label is None else label
    mask = label.view(-1, 1, 1, 1).float() * (torch.rand(len(images), 1, *images.shape[2:]) > 0.9)
    terms = part(DiffusionADLoss)(model.train()(images, timestep, noise), Target(noise, mask, label.float()))
    terms.total.backward()
    return terms


@pytest.mark.parametrize("parameters", [{}, {"noise_draws": 3}, {"noise_scales": "big"}, {"guidance_weight": 0.0}])
def test_a_map_is_a_function_of_its_image(parameters):
    model = build(**parameters)
    images = photograph(3, 64, 32)
    together = model(images)
    assert together.anomaly_map.shape == (3, 1, 64, 32)
    assert together.pred_score.shape == (3,)
    for index, image in enumerate(images):
        alone = model(image[None])
        torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[index], rtol=0, atol=1e-4)
    again = copy.deepcopy(model)
    torch.manual_seed(123)
    assert torch.equal(again(images).anomaly_map, together.anomaly_map)


def test_noise_is_another_by_seed_and_none_is_anew_each_time(model):
    images = photograph(1, 32, 32)
    assert not torch.equal(build(noise_seed=1)(images).anomaly_map, model(images).anomaly_map)
    fresh = build(noise_seed=None)
    assert not torch.equal(fresh(images).anomaly_map, fresh(images).anomaly_map)


def test_noise_of_both_scales_is_independent_and_normal(model):
    small, big = model.test_noise[0].flatten(1)
    assert abs(small.mean()) < 0.01
    assert abs(small.std() - 1) < 0.01
    assert abs((small * big).mean()) < 0.01


def test_draws_are_averaged():
    images = photograph(2, 32, 32)
    three = build(noise_draws=3)
    noise = three.test_noise[..., :32, :32]
    alone = [three.predict(images, drawn.unsqueeze(1).expand(-1, 2, -1, -1, -1))[0].anomaly_map for drawn in noise]
    torch.testing.assert_close(three(images).anomaly_map, torch.stack(alone).mean(dim=0), rtol=0, atol=1e-6)
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    # The first draw is the same, however many follow.
    assert torch.equal(build(noise_draws=1).test_noise[0], three.test_noise[0])


def test_the_score_is_the_mean_of_the_largest_pixels():
    images = photograph(2, 32, 32)
    for count in (1, 50, 1024):
        found = build(score_pixels=count)(images)
        expected = found.anomaly_map.flatten(1).sort(dim=1, descending=True).values[:, :count].mean(dim=1)
        torch.testing.assert_close(found.pred_score, expected)


def test_images_larger_than_the_noise_repeat_it(model):
    images = photograph(1, 288, 32)
    drawn = model._draw_noise(images, 2)[0]
    assert torch.equal(drawn[..., 256:, :], drawn[..., :32, :])
    assert torch.isfinite(model(images).anomaly_map).all()


def test_nothing_but_weights_is_in_the_state_dict(model):
    assert {key.split(".")[0] for key in model.state_dict()} == {"unet", "segmentation"}


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("labels", ["normal", "anomalous", "mixed"])
def test_small_batches_train_without_nan(batch, labels, size):
    model = build()
    label = {"normal": torch.zeros(batch), "anomalous": torch.ones(batch), "mixed": torch.arange(batch) % 2}[labels]
    terms = step(model, photograph(batch, *size), label)
    assert all(torch.isfinite(term) for term in terms)
    assert (terms.noise == 0) == bool(label.all())
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("batch", [1, 5])
def test_diffusion_of_a_training_batch(batch):
    model = build(scale_split=100, big_timestep=250, timesteps=400)
    draws = [model.draw_diffusion(torch.zeros(batch, 3, 8, 8)) for _ in range(200)]
    timesteps = torch.cat([draw.timestep for draw in draws], dim=1)
    assert (timesteps[0].min(), timesteps[0].max()) >= (0, 80)
    assert timesteps[0].max() < 100 <= timesteps[1].min()
    assert timesteps[1].max() < 400
    assert timesteps[0].float().mean() == pytest.approx(49.5, abs=8)
    noise = torch.cat([draw.noise for draw in draws], dim=1)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert not torch.equal(noise[0], noise[1])


def test_one_scale_is_drawn_where_one_is_used():
    for scale, least, most in (("small", 0, 299), ("big", 300, 999)):
        timestep, noise = build(noise_scales=scale).draw_diffusion(torch.zeros(40, 3, 32, 32))
        assert timestep.shape == (1, 40)
        assert noise.shape == (1, 40, 3, 32, 32)
        assert least <= timestep.min() <= timestep.max() <= most


def gradients(dtype=torch.float32, **parameters):
    """Return the gradients of a training step by name."""
    model = build(**parameters).to(dtype)
    torch.manual_seed(7)
    step(model, photograph(2, 32, 32).to(dtype))
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_checkpointing_changes_no_gradient():
    plain, saved = gradients(), gradients(checkpointing=True)
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient, rtol=0, atol=1e-5 * max(1, gradient.abs().max().item()))


def test_parts_of_a_batch_change_no_gradient(monkeypatch):
    # In double precision: large timesteps make rounding a hundred times as large.
    together = gradients(torch.float64)
    monkeypatch.setattr(acceleration, "MOST_TOGETHER_ON_CPU", 3 * 32 * 32)
    for name, gradient in gradients(torch.float64).items():
        torch.testing.assert_close(gradient, together[name], rtol=0, atol=1e-9 * max(1, gradient.abs().max().item()))
    # Two scales of two images, three at a time; larger ones one at a time.
    model = build()
    batches = []
    model.unet.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    step(model, photograph(2, 32, 32))
    with torch.no_grad():
        model.eval()(photograph(1, 64, 64))
    assert batches == [3, 1, 1, 1]


def test_the_mask_trains_the_reconstruction_network_through_both_scales():
    """Of anomalous samples alone, whose noise trains nothing; with a detached guide through one scale."""

    def of_mask(**parameters):
        model = build(**parameters)
        torch.manual_seed(7)
        step(model, photograph(2, 32, 32), torch.ones(2))
        return model.unet.output.weight.grad

    assert of_mask().norm() > 0
    assert of_mask(detach_guide=True).norm() > 0
    assert not torch.allclose(of_mask(), of_mask(detach_guide=True))


def test_bfloat16_gives_nearly_the_same_maps(model):
    images = photograph(2, 32, 64)
    expected = model(images)
    found = build(precision="bfloat16")(images)
    assert found.anomaly_map.dtype == torch.float32
    # Random weights amplify rounding as trained ones do not.
    assert (found.anomaly_map - expected.anomaly_map).abs().mean() < 0.15 * expected.anomaly_map.std()
    terms = step(build(precision="bfloat16", channels_last=True, checkpointing=True), images)
    assert all(torch.isfinite(term) and term.dtype == torch.float32 for term in terms)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "of_images"),
    [
        (torch.float16, 4e-3, torch.float16),
        (torch.bfloat16, 3e-2, torch.float32),
        (torch.float64, 1e-5, torch.float32),
        (torch.float32, 1e-9, torch.float64),
    ],
)
def test_weights_in_other_precisions(dtype, tolerance, of_images):
    """The noise and its rates stay those of single precision, and so nearly do the results."""
    model, images = build(noise_draws=2), (photograph(2, 32, 32) * 128).round() / 128
    expected, before = model.predict(images)
    model.to(dtype)
    found, denoised = model.predict(images.to(of_images))
    precise = torch.promote_types(dtype, torch.float32)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert found.anomaly_map.dtype == denoised.reconstruction.dtype == precise
    # Random weights amplify rounding as trained ones do not.
    assert (found.anomaly_map - expected.anomaly_map).abs().mean() < tolerance
    assert (denoised.reconstruction - before.reconstruction).abs().mean() < tolerance / 4
    fresh = build(noise_draws=2)
    assert torch.equal(model.test_noise, fresh.test_noise)
    assert torch.equal(model.rate_tables, fresh.rate_tables)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_training_step_in_other_precisions(dtype):
    losses = {}
    for precision in (torch.float32, dtype):
        torch.manual_seed(5)
        model = build().to(precision)
        terms = step(model, photograph(2, 32, 32).to(precision), torch.tensor([0, 1]))
        assert terms.total.dtype == torch.promote_types(precision, torch.float32)
        assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
        losses[precision] = terms.total.item()
    rounding = 0.02 if dtype == torch.bfloat16 else 1e-5
    assert losses[dtype] == pytest.approx(losses[torch.float32], rel=rounding)


def test_tiles(model):
    """Networks see tiles, so that a tile of an image has the map that it has as an image with the same noise."""
    tiled = copy.deepcopy(model)
    tiled.tiler = Tiler(tile_size=32, stride=32)
    images = photograph(2, 64, 32)
    found = tiled(images).anomaly_map
    noise = model._draw_noise(images, 2)[0]
    for top in (0, 32):
        part = slice(top, top + 32)
        expected = model.predict(images[:, :, part], noise[..., part, :])[0].anomaly_map
        torch.testing.assert_close(found[:, :, part], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"tile_size=\(48, 48\) does not fit"):
        tiled.tiler = Tiler(tile_size=48, stride=48)


def test_layers_may_be_replaced(model):
    """Tools that quantize or hook layers find all of them used as modules."""
    called = set()
    watched = copy.deepcopy(model)
    for name, module in watched.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    watched(photograph(1, 32, 32))
    leaves = {name for name, module in watched.named_modules() if not list(module.children())}
    assert leaves <= called
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear})
    images = photograph(1, 32, 32)
    assert (quantized(images).anomaly_map - model(images).anomaly_map).abs().mean() < 0.05


def test_predictions_leave_the_images_alone(model):
    images = photograph(2, 64, 64)
    before = images.clone()
    model(images)
    assert torch.equal(images, before)


def test_sizes_of_images(model):
    with pytest.raises(ValueError, match=r"40x64 pixels .*multiples of 32. The nearest sizes are 32x64 or 64x64"):
        model(torch.rand(1, 3, 40, 64))
    deeper = part(DiffusionADModel, base_channels=32, channel_multipliers=(1,) * 7, num_blocks=1, segmentation_width=1)
    with pytest.raises(ValueError, match="multiples of 64"):
        deeper.eval()(torch.rand(1, 3, 32, 64))


def test_guidance_that_extrapolates_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(guidance_weight=1.6)
        build(guidance_weight=1000.0, noise_scales="small", small_timestep=700)
    with pytest.warns(UserWarning, match=r"guidance_weight=1.7 .* by 1.03 .* at timestep 299; .* Use 1.66 or less"):
        build(guidance_weight=1.7)
    with pytest.warns(UserWarning, match="at timestep 400"):
        build(guidance_weight=1.6, small_timestep=400, big_timestep=500)


def test_training_samples():
    torch.manual_seed(0)
    model = build()
    images = photograph(4, 64, 64)
    sample = part(AnomalySampler, texture_source="none")(images, model)
    assert sample.timestep.shape == (2, 4)
    assert sample.target.noise.shape == (2, 4, 3, 64, 64)
    assert sample.target.label.tolist() == [1, 1, 0, 0]
    assert torch.equal(sample.images[2:], images[2:])
    prediction = model.train()(sample.images, sample.timestep, sample.target.noise)
    assert torch.isfinite(part(DiffusionADLoss)(prediction, sample.target).total)


def test_kinds_of_products():
    textures = ["carpet", "zipper", "leather", "tile", "wood", "grid", "Class1", "Class10"]
    assert {kind_of_product(name) for name in textures} == {"texture"}
    assert {kind_of_product(name) for name in ("bottle", "capsules", "Class11", "metal_plate")} == {"object"}


@pytest.mark.parametrize(
    ("kind", "category", "share"),
    [
        ("auto", "bottle", 0.5),
        ("auto", "carpet", 0),
        ("auto", None, 0.5),
        ("object", "carpet", 0.5),
        ("texture", "bottle", 0),
    ],
)
def test_textures_take_photographs_alone(kind, category, share):
    sampler = part(AnomalySampler, texture_source="photographs", product_kind=kind)
    sampler.choose_kind(category)
    assert sampler.make_generator(TextureBank.from_photographs((32, 32))).structure_share == share
    # Where there are no photographs, the image itself is all that there is.
    assert sampler.make_generator(None).structure_share == 0.5


def test_a_few_steps_bring_the_loss_down():
    torch.manual_seed(0)
    model = part(
        DiffusionADModel,
        base_channels=16,
        num_groups=8,
        channel_multipliers=(1, 2),
        num_blocks=1,
        attention_levels=(),
        segmentation_width=4,
        precision="single",
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    sampler = part(AnomalySampler, texture_source="none")
    images = photograph(4, 32, 32)
    losses = []
    for _ in range(60):
        sample = sampler(images, model)
        terms = part(DiffusionADLoss)(model.train()(sample.images, sample.timestep, sample.target.noise), sample.target)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        losses.append(terms.total.item())
    means = [sum(losses[start : start + 20]) for start in (0, 20, 40)]
    assert all(later < earlier for earlier, later in pairwise(means))
