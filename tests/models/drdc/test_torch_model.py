# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What DRDC evaluates images to: the reverse process against a loop, standardization, fusion, and which are refined."""

import pytest
import torch

from anomalib_transfusion.models.drdc.base_model import Reconstruction, base_heat_map
from anomalib_transfusion.models.drdc.conditioning import condition
from anomalib_transfusion.models.drdc.inpainting import fill, lattice_sets
from anomalib_transfusion.models.drdc.loss import Prediction, drdc_loss, inpainting_loss
from anomalib_transfusion.models.drdc.training_sample import draw_sample
from anomalib_transfusion.networks.gaussian import alpha_bar, linear_betas

from .networks import build

NAMES = ["brick", "grass", "gravel"]


def network(**parameters):
    torch.manual_seed(0)
    return build(**{"categories": NAMES, **parameters}).model.eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def categories():
    return torch.tensor([2, 0, 3])


@pytest.mark.parametrize("kind", ["known_pixels", "drift", "low_frequency"])
@pytest.mark.parametrize("known", ["clean", "noisy"])
@torch.no_grad()
def test_folded_sets_are_the_loop_over_them(images, categories, kind, known):
    """Image by image, cell size by cell size, set by set, with formulas written out (R4 to R6)."""
    model = network(test_conditioning=kind, known=known)
    refinement = model.refinement
    found = refinement.paint(2 * images - 1, categories)
    assert found.shape == (2, 2, 3, 3, 32, 32)
    noise = refinement.noise
    levels = alpha_bar(linear_betas(30)).float()
    for number, (image, category) in enumerate(zip(2 * images - 1, categories, strict=True)):
        x = image[None]
        for cell, cell_size in enumerate((4, 8)):
            expected = torch.zeros(2, 3, 32, 32)
            for mask in lattice_sets(32, 32, cell_size, 4).split(1):
                estimate = fill(x, mask, cell_size)
                for step, timestep in enumerate((12, 4)):
                    signal, rest = levels[timestep].sqrt(), (1 - levels[timestep]).sqrt()
                    hidden = signal * estimate + rest * noise
                    seen = x if known == "clean" else signal * x + rest * noise
                    given = mask * hidden + (1 - mask) * seen
                    estimate = refinement.denoiser(given, mask, torch.tensor([timestep]), category[None])
                    estimate = condition(kind, estimate, x, mask, 7)
                    expected[step] += (mask * estimate)[0]
            torch.testing.assert_close(found[:, cell, number], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_passes_at_once_change_nothing(images, categories):
    wanted = network().predict(images, categories)[0]
    for number in (1, 5):
        found = network(passes_at_once=number).predict(images, categories)[0]
        torch.testing.assert_close(found.anomaly_map, wanted.anomaly_map, rtol=0, atol=1e-5)
    assert network().refinement.num_passes == 2 * 2 * 4


@torch.no_grad()
def test_maps_depend_on_the_image_alone(images, categories):
    """Neither on the seed, nor on the place in a batch, nor on the call before."""
    model = network()
    together = model.predict(images, categories)[0]
    torch.manual_seed(99)
    assert torch.equal(model.predict(images, categories)[0].anomaly_map, together.anomaly_map)
    for number in range(3):
        alone = model.predict(images[number : number + 1], categories[number : number + 1])[0]
        torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[number], rtol=0, atol=1e-5)


@torch.no_grad()
def test_no_pixel_is_painted_from_itself(images):
    """What is hidden in the start of the only pass says nothing of the pixel."""
    refinement = network(timesteps=(12,), cell_sizes=(8,)).refinement
    x = 2 * images[:1] - 1
    other = x.clone()
    other[:, :, 8:16, 8:16] = 0.3
    null = torch.tensor([3])
    first, second = refinement.paint(x, null), refinement.paint(other, null)
    assert torch.equal(first[..., 8:16, 8:16], second[..., 8:16, 8:16])
    assert not torch.equal(first[..., 8:16, 16:], second[..., 8:16, 16:])


@pytest.mark.parametrize("num_sets", [1, 4])
@torch.no_grad()
def test_with_the_process_noised_the_image_shows_through_at_each_timestep(images, categories, num_sets):
    refinement = network(process="noised", num_sets=num_sets).refinement
    levels = alpha_bar(linear_betas(30)).float()
    given = 2 * images - 1
    steps = refinement.steps(given, categories)
    assert [len(start) for start, _ in steps] == [num_sets * len(refinement.cell_sizes)] * 2
    for (start, painted), timestep in zip(steps, (12, 4), strict=True):
        noised = levels[timestep].sqrt() * given + (1 - levels[timestep]).sqrt() * refinement.noise
        for seen, mask in zip(start, refinement.masks, strict=True):
            torch.testing.assert_close(seen, torch.where(mask > 0.5, noised, given), atol=1e-5, rtol=0)
        assert painted.shape == (len(refinement.cell_sizes), *images.shape)
    if num_sets == 1:
        assert refinement.masks.eq(1).all()


@torch.no_grad()
def test_guidance(images, categories):
    model = network(guidance_weight=0.7, timesteps=(12,))
    corrupted, mask = 2 * images - 1, torch.ones(3, 1, 32, 32)
    timestep = torch.full((3,), 12)
    true = model.refinement.denoiser(corrupted, mask, timestep, categories)
    null = model.refinement.denoiser(corrupted, mask, timestep, torch.full((3,), 3))
    found = model.refinement.denoise(corrupted, mask, timestep, categories)
    torch.testing.assert_close(found, null + 1.7 * (true - null), rtol=1e-4, atol=1e-5)
    assert model.refinement.num_passes == 2 * 8


@torch.no_grad()
def test_fusion_by_arithmetic(images, categories):
    """Both maps in deviations of the category's normal images, smoothed, bounded; the score is the largest pixel."""
    model = network(gamma=0.5, filter_size=3)
    model.statistics.copy_(torch.arange(16).view(4, 4, 1, 1) + 1.0)
    prediction, _ = model.predict(images, categories)
    x = 2 * images - 1
    features = model.base(x)
    base = base_heat_map(features.features, features.reconstructed, (32, 32))
    difference = (model.refinement.paint(x, categories) - x).abs().mean(dim=(0, 1, 3))[:, None]
    for number, category in enumerate(categories.tolist()):
        mean, deviation, other_mean, other_deviation = model.statistics[category].flatten().tolist()
        fused = (base[number] - mean) / deviation + 0.5 * (difference[number] - other_mean) / other_deviation
        # In the middle of a corner of the image: the mean over a square of 3 pixels.
        middle = fused[0, 9:12, 19:22].mean()
        expected = (1 + middle / (1 + middle.abs())) / 2
        torch.testing.assert_close(prediction.anomaly_map[number, 0, 10, 20], expected, rtol=1e-4, atol=1e-5)
        assert prediction.pred_score[number] == prediction.anomaly_map[number].max()


@torch.no_grad()
def test_measured_statistics(images):
    """Mean and deviation over the pixels of a category's images; those of all in the last row."""
    model = network()
    model.measure([(images[:2], torch.tensor([0, 2])), (images[2:], torch.tensor([2]))])
    x = 2 * images - 1
    features = model.base(x)
    base = base_heat_map(features.features, features.reconstructed, (32, 32))
    painted = model.refinement.paint(x, torch.tensor([0, 2, 2]))
    refinement = (painted - x).abs().mean(dim=(0, 1, 3))[:, None]
    for row, chosen in ((0, [0]), (2, [1, 2]), (3, [0, 1, 2])):
        expected = [
            base[chosen].mean(),
            base[chosen].std(unbiased=False),
            refinement[chosen].mean(),
            refinement[chosen].std(unbiased=False),
        ]
        torch.testing.assert_close(model.statistics[row].flatten(), torch.stack(expected), rtol=1e-3, atol=1e-4)
    # Of the category without an image, nothing was measured.
    assert model.statistics[1].flatten().tolist() == [0, 1, 0, 1]
    assert {"statistics", "base_scores"} <= model.state_dict().keys()
    # Normal images are about 0 deviations from normal: 0.5.
    found = model.predict(images, torch.tensor([0, 2, 2]))[0].anomaly_map
    assert 0.4 < found.mean() < 0.6


@torch.no_grad()
def test_statistics_of_each_cell(images):
    """In the middle of a cell those of its pixels, and of all pixels as of four images more; bilinear in between."""
    model = network(statistics_grid=4, filter_size=1)
    categories = torch.tensor([0, 2, 2])
    model.measure([(images[:2], categories[:2]), (images[2:], categories[2:])])
    x = 2 * images - 1
    features = model.base(x)
    base = base_heat_map(features.features, features.reconstructed, (32, 32))
    refinement = (model.refinement.paint(x, categories) - x).abs().mean(dim=(0, 1, 3))[:, None]
    for row, chosen in ((0, [0]), (2, [1, 2]), (3, [0, 1, 2])):
        for maps, table in ((base, model.statistics[row, :2]), (refinement, model.statistics[row, 2:])):
            found, number = maps[chosen].double(), len(chosen)
            cell = found[..., 8:16, 24:32]
            mean, square = ((number * cell.pow(p).mean() + 4 * found.pow(p).mean()) / (number + 4) for p in (1, 2))
            expected = torch.stack((mean, (square - mean**2).sqrt())).float()
            torch.testing.assert_close(table[:, 1, 3], expected, rtol=1e-3, atol=1e-4)
    fused = model.predict(images, categories)[0].anomaly_map
    # Pixel 4 is half a pixel behind the middle of the first cell, and 7.5 before that of the second.
    weights = torch.tensor([0.9375, 0.0625])
    for number, category in enumerate(categories.tolist()):
        mean, deviation, other_mean, other_deviation = (model.statistics[category, :, 0, :2] * weights).sum(dim=-1)
        value = (base[number, 0, 0, 4] - mean) / deviation
        value += (refinement[number, 0, 0, 4] - other_mean) / other_deviation
        expected = (1 + value / (1 + value.abs())) / 2
        torch.testing.assert_close(fused[number, 0, 0, 4], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_scores_of_the_base_model_are_of_standardized_maps(images):
    """Of the last row's statistics for the null category; a category without an image keeps what it has."""
    model = network(statistics_grid=4, filter_size=1, gamma=0.0)
    model.measure([(images[:2], torch.tensor([0, 2])), (images[2:], torch.tensor([2]))])
    base = base_heat_map(*model.base(2 * images - 1)[:2], (32, 32))
    for row, chosen in ((0, [0]), (2, [1, 2]), (3, [0, 1, 2])):
        table = torch.nn.functional.interpolate(model.statistics[row : row + 1, :2], (32, 32), mode="bilinear")
        scores = ((base[chosen] - table[:, :1]) / table[:, 1:]).flatten(1).max(dim=1).values
        expected = torch.stack((scores.mean(), scores.var(unbiased=False).sqrt()))
        torch.testing.assert_close(model.base_scores[row], expected, rtol=1e-3, atol=1e-3)
    assert model.base_scores[1].tolist() == [0, 1]


@torch.no_grad()
def test_statistics_of_another_grid_are_fitted():
    coarse, fine = network(), network(statistics_grid=4)
    fine.statistics.copy_(torch.rand(4, 4, 4, 4))
    coarse.load_state_dict(fine.state_dict())
    torch.testing.assert_close(coarse.statistics, fine.statistics.mean(dim=(2, 3), keepdim=True))
    fine.load_state_dict(coarse.state_dict())
    assert torch.equal(fine.statistics, coarse.statistics.expand_as(fine.statistics))


@torch.no_grad()
def test_scores_are_bounded_and_keep_their_order(images):
    model = network(gamma=0.0)
    model.statistics[:, 1] = 1e-3
    images = torch.stack([images[0] * strength for strength in (0.1, 0.5, 1.0)])
    raw = base_heat_map(*model.base(2 * images - 1)[:2], (32, 32)).flatten(1)
    found = model.predict(images)[0]
    assert ((found.anomaly_map >= 0) & (found.anomaly_map <= 1)).all()
    smooth = torch.nn.functional.avg_pool2d(raw.view(3, 1, 32, 32), 7, 1).flatten(1).amax(dim=1)
    order = found.pred_score.argsort().tolist()
    assert order == smooth.argsort().tolist()


@torch.no_grad()
def test_without_gamma_the_base_model_is_alone(images):
    model = network(gamma=0.0)
    calls = []
    model.refinement.denoiser.register_forward_hook(lambda *_: calls.append(1))
    prediction, found = model.predict(images)
    assert (calls, found.painted, found.refinement) == ([], None, None)
    assert prediction.anomaly_map.std() > 0


@torch.no_grad()
def test_uncertain_images_alone_are_refined(images, categories):
    model = network(refine="uncertain", uncertain_band=(-1.0, 1.0))
    everything = network()
    for each in (model, everything):
        each.statistics.copy_(torch.tensor([0.2, 0.1, 0.3, 0.4]).view(1, 4, 1, 1).expand(4, 4, 1, 1))
    scores = model._score(base_heat_map(*model.base(2 * images - 1)[:2], model.image_size), model.statistics[:1, :2])
    # Around the second image.
    model.base_scores[:, 0] = scores[1]
    model.base_scores[:, 1] = (scores - scores[1]).abs()[[0, 2]].min() / 2
    seen = []
    model.refinement.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    prediction, found = model.predict(images, categories)
    assert sum(seen) == 2 * 2 * 4
    refined = everything.predict(images, categories)[0]
    torch.testing.assert_close(prediction.anomaly_map[1], refined.anomaly_map[1], rtol=0, atol=1e-5)
    # The others' maps are those of the base model: as if what was painted were as normal as can be.
    everything.gamma = 0.0
    base = everything.predict(images, categories)[0]
    for other in (0, 2):
        torch.testing.assert_close(prediction.anomaly_map[other], base.anomaly_map[other], rtol=0, atol=1e-5)
        assert torch.equal(found.painted[:, :, other], (2 * images[other] - 1).expand(2, 2, 3, 32, 32))


@torch.no_grad()
def test_the_head_tells_unknown_categories(images):
    model = network(category_confidence=0.0)
    _, told = model.predict(images)
    summary = model.base(2 * images - 1).summary
    expected = (summary @ model.head.weight.T + model.head.bias).argmax(dim=1)
    assert torch.equal(told.categories, expected)
    assert model.predict(images, torch.tensor([1, -1, 3]))[1].categories.tolist() == [1, expected[1], 3]
    # In doubt, the null category.
    assert network(category_confidence=1.0).predict(images)[1].categories.tolist() == [3, 3, 3]


def test_loss_by_arithmetic():
    """Hidden pixels count 1.1, known ones 0.1."""
    images, estimate = torch.zeros(1, 3, 1, 2), torch.tensor([[[[1.0, 2.0]]]]).expand(1, 3, 1, 2)
    mask = torch.tensor([[[[1.0, 0.0]]]])
    expected = (1.1 * 1 + 0.1 * 4) / 1.2
    assert inpainting_loss(estimate, images, mask).item() == pytest.approx(expected)
    features = Reconstruction(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[0.0, 1.0]]]]), torch.zeros(1, 1))
    logits = torch.tensor([[0.25, 0.75]]).log()
    terms = drdc_loss(Prediction(features, logits, estimate), images, mask, torch.tensor([1]))
    assert terms.base.item() == pytest.approx((1 + 4) / 2)
    assert terms.category.item() == pytest.approx(0.2876821)
    assert terms.total.item() == pytest.approx(2.5 + expected + 0.2876821)


def test_drawn_samples():
    """Timesteps from 1 to the largest, one of all sets, the null category as often as was asked for."""
    model = network(cell_sizes=(8,))
    images, categories = torch.zeros(400, 3, 32, 32), torch.arange(400) % 3
    torch.manual_seed(0)
    sample = draw_sample(images, categories, model.refinement, 0.25)
    assert (sample.timestep.min(), sample.timestep.max()) == (1, 12)
    # Sixteen cells in four sets.
    assert (sample.mask.mean(dim=(1, 2, 3)) == 0.25).all()
    dropped = sample.conditions == 3
    assert 0.18 < dropped.float().mean() < 0.32
    assert torch.equal(sample.conditions[~dropped], categories[~dropped])
    assert torch.equal(sample.categories, categories)


@pytest.mark.parametrize(("train", "idle"), [("base", "refinement"), ("refinement", "base"), ("both", None)])
def test_parts_that_are_not_trained_are_left_out(images, train, idle):
    model = network(train=train).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ran = []
    for name in ("base", "refinement"):
        network_of = model.base if name == "base" else model.refinement.denoiser
        network_of.register_forward_hook(lambda *_, name=name: ran.append(name))
    x = 2 * images - 1
    sample = draw_sample(x, torch.tensor([0, 1, 2]), model.refinement, 0.0)
    terms = drdc_loss(model(x, sample), x, sample.mask, sample.categories)
    terms.total.backward()
    assert set(ran) == {"base", "refinement"} - {idle}
    for name, parameter in model.named_parameters():
        part = "refinement" if name.startswith("refinement.") else "base"
        frozen = name.startswith("base.backbone.") or part == idle
        assert (parameter.grad is None) == frozen, name
    if idle:
        assert getattr(terms, idle) == 0
        assert all(
            torch.equal(value, before[name])
            for name, value in model.state_dict().items()
            if name.startswith(f"{idle}.")
        )


def test_tables_keep_their_precision():
    model = network().half()
    assert model.statistics.dtype == model.refinement.noise.dtype == model.refinement.alpha_bar.dtype == torch.float32
    found = model.predict(torch.rand(1, 3, 32, 32))[0]
    assert found.anomaly_map.isfinite().all()
