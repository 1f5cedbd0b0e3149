# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Blended anomalies: masks, sources and mixing, against the authors' numbers where there are any."""

import json
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from torch.nn.functional import interpolate

from anomalib_transfusion.synthesis import TextureBank, perlin_noise
from anomalib_transfusion.synthesis.blending import BlendedAnomalyGenerator, blend, one_sided_masks, shuffle_strips
from parts import part
from paths import REFERENCE, needs_reference


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def reference():
    """The authors' numbers."""
    with np.load(REFERENCE / "diffusionad_tiny.npz") as arrays:
        return {
            name: torch.from_numpy(np.asarray(arrays[name]))
            for name in arrays.files
            if name.startswith(("blend", "self", "disorder", "perlin"))
        }


@pytest.fixture(scope="module")
def statistics():
    """Statistics of the authors' synthesis."""
    return json.loads((REFERENCE / "diffusionad_mask_statistics.json").read_text())


def photograph(name="chelsea", size=(64, 64)):
    image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None] / 255
    return interpolate(image, size, mode="bilinear").clamp(0, 1)


def orders(count, height=64, width=64):
    """Return which rows and columns of tiles lie in each place, of images that number them, ``(N, 8)`` each."""
    rows = torch.arange(8.0).repeat_interleave(height // 8).view(1, 1, -1, 1).expand(count, 1, height, width)
    columns = torch.arange(8.0).repeat_interleave(width // 8).view(1, 1, 1, -1).expand(count, 1, height, width)
    shuffled = shuffle_strips(torch.cat((rows, columns), dim=1)).unflatten(2, (8, -1)).unflatten(4, (8, -1))
    # Within a tile, and all along a strip, the numbers are the same.
    assert (shuffled.amax(dim=(3, 5)) == shuffled.amin(dim=(3, 5))).all()
    tiles = shuffled[:, :, :, 0, :, 0].int()
    assert (tiles[:, 0] == tiles[:, 0, :, :1]).all()
    assert (tiles[:, 1] == tiles[:, 1, :1]).all()
    return tiles[:, 0, :, 0], tiles[:, 1, 0]


def frequencies(order):
    """Return how often each strip lies in each place, ``(8, 8)``."""
    return torch.nn.functional.one_hot(order.long(), 8).double().mean(dim=0)


@needs_reference
def test_strips_take_the_authors_orders(reference):
    rows, columns = orders(4000)
    assert torch.equal(rows.sort(dim=1).values, torch.arange(8, dtype=torch.int32).expand(4000, 8))
    for ours, theirs in ((rows, reference["disorder_rows"]), (columns, reference["disorder_columns"])):
        expected = frequencies(theirs)
        # What never happens in 400 draws of theirs, with an expectation of 50 or 100, never happens.
        assert torch.equal(frequencies(ours) == 0, expected == 0)
        assert (frequencies(ours) - expected).abs().max() < 4.5 * (0.25 * 0.75 / 400 + 0.25 * 0.75 / 4000) ** 0.5
    assert torch.equal(columns[:, :4] % 2, torch.zeros(4000, 4, dtype=torch.int32))
    assert len(columns.unique(dim=0)) > 570, "all but some of the 576 orders of the columns"


def test_tiles_keep_their_pixels_on_any_size():
    images = torch.rand(2, 3, 48, 80)
    shuffled = shuffle_strips(images)
    assert torch.equal(shuffled.flatten(2).sort(dim=2).values, images.flatten(2).sort(dim=2).values)
    assert not torch.equal(shuffled, images)
    assert shuffle_strips(torch.rand(2, 3, 45, 83)).shape == (2, 3, 45, 83)


@needs_reference
@pytest.mark.parametrize("number", [0, 1, 2])
def test_perlin_noise_of_the_authors_gradients(reference, number):
    angles = reference[f"perlin{number}_angles"].float()
    cells = torch.tensor(angles.shape)[None] - 1
    noise = perlin_noise(cells, (64, 64), directions=angles[None])
    torch.testing.assert_close(noise[0, 0], reference[f"perlin{number}_noise"], rtol=0, atol=2e-6)


@needs_reference
@pytest.mark.parametrize("kind", ["blend", "self"])
def test_blending(reference, kind):
    image, mask = reference["blend_image"][None], reference[f"{kind}_mask"][None]
    share = reference[f"{kind}_beta"].view(1, 1, 1, 1).float()
    if kind == "blend":
        threshold = (reference["blend_perlin"] > 0.5) * reference["blend_foreground"]
        torch.testing.assert_close(threshold, reference["blend_mask"])
        source = reference["blend_source"][None]
    else:
        # The source is not stored; inside of the mask it follows from the result.
        result = reference["self_augmented"][None]
        source = torch.where(mask > 0, (result - image) / ((1 - share) * mask.clamp(min=1e-3)) + image, 0)
        # Rows and columns of the image in another order: the values are those of the image.
        certain = (mask == 1).expand_as(source)
        # Sources were 8-bit images.
        levels = source[certain] * 255
        assert (levels - levels.round()).abs().max() < 0.02
    torch.testing.assert_close(
        blend(image, source, mask, share),
        reference[f"{kind}_augmented"][None],
        rtol=0,
        atol=2e-7 if kind == "blend" else 1e-6,
    )


@needs_reference
@pytest.mark.slow
def test_masks_have_the_authors_statistics(statistics):
    """4,000 masks against theirs, within five standard errors of the difference."""
    theirs = statistics["object"]
    count, size = 4000, (256, 256)
    areas = torch.cat([
        one_sided_masks(200, size, attempts=50).mean(dim=(1, 2, 3)) for _ in range(count // 200)
    ]).double()
    assert (areas == 0).double().mean() <= 0.001
    error = areas.std().item() * (1 / count + 1 / theirs["attempts_at_an_anomaly"]) ** 0.5
    assert abs(areas.mean().item() - theirs["area_mean_of_nonempty"]) < 5 * error
    assert areas.std().item() == pytest.approx(theirs["area_std_of_nonempty"], rel=0.1)
    for quantile, expected in theirs["area_quantiles_of_nonempty"].items():
        share = float(quantile)
        # The share of ours below their quantile has the error of both samples.
        error = (share * (1 - share) * 2 / count) ** 0.5
        assert abs((areas <= expected).double().mean().item() - share) < 5 * error
    first = torch.cat([one_sided_masks(200, size, attempts=1).amax(dim=(1, 2, 3)) for _ in range(10)])
    empty = (first == 0).double().mean().item()
    expected = theirs["share_with_more_than_one_try"]
    assert abs(empty - expected) < 5 * (expected * (1 - expected) * (1 / 2000 + 1 / 4004)) ** 0.5


@needs_reference
def test_small_masks_have_about_the_authors_area(statistics):
    areas = one_sided_masks(600, (128, 128), attempts=50).mean(dim=(1, 2, 3))
    expected = statistics["object"]["area_mean_of_nonempty"]
    assert abs(areas.mean().item() - expected) < 5 * areas.std().item() / 600**0.5


def test_one_side_of_the_noise_is_taken():
    """About half of the area of the masks of TransFusion."""
    assert 0.03 < one_sided_masks(200, (64, 64), exponents=(3, 3), attempts=50).mean() < 0.07


def test_empty_masks_are_drawn_again():
    first = one_sided_masks(200, (64, 64), exponents=(0, 0), attempts=1).amax(dim=(1, 2, 3))
    # Theirs: 59 % with a single cell.
    assert 0.4 < (first == 0).float().mean() < 0.75
    assert (one_sided_masks(200, (64, 64), exponents=(0, 0), attempts=50).amax(dim=(1, 2, 3)) > 0).all()
    nowhere = one_sided_masks(3, (32, 32), torch.zeros(3, 1, 32, 32), attempts=4)
    assert not nowhere.any()


def test_soft_foreground_stays_soft():
    foreground = torch.full((8, 1, 32, 32), 0.37)
    masks = one_sided_masks(8, (32, 32), foreground, exponents=(2, 4), attempts=50)
    assert masks.unique().tolist() == pytest.approx([0, 0.37])


def test_half_of_a_batch_has_an_anomaly():
    images = photograph().expand(8, -1, -1, -1)
    batch = part(BlendedAnomalyGenerator, None)(images)
    assert batch.label.tolist() == [1] * 4 + [0] * 4
    assert torch.equal(batch.label > 0, batch.mask.flatten(1).amax(dim=1) > 0)
    outside = (batch.mask == 0).expand_as(images)
    assert torch.equal(batch.images[outside], images[outside])
    assert (batch.images[:4] != images[:4]).any()
    assert batch.images.amin() >= 0
    assert batch.images.amax() <= 1


@pytest.mark.parametrize(
    ("batch", "share", "counts"),
    [(1, 0.5, {0, 1}), (3, 0.5, {1, 2}), (4, 0.25, {1}), (2, 1, {2})],
)
def test_share_of_anomalies_in_small_batches(batch, share, counts):
    generator = part(BlendedAnomalyGenerator, None, anomalous_share=share, min_perlin_scale=3)
    images = torch.rand(batch, 3, 64, 64)
    assert {int(generator(images).label.sum()) for _ in range(12)} == counts


def test_a_coin_for_each_sample():
    generator = part(BlendedAnomalyGenerator, None, exact_share=False, min_perlin_scale=3)
    counts = [int(generator(torch.rand(8, 3, 64, 64)).label.sum()) for _ in range(30)]
    assert len(set(counts)) > 3
    assert 90 < sum(counts) < 150


def test_share_of_the_image_in_an_anomaly():
    """White textures on black images show it."""
    generator = part(BlendedAnomalyGenerator, None, anomalous_share=1, image_share=(0.3, 0.4))
    batch = generator(torch.zeros(40, 3, 32, 32))
    # Black becomes at most white, of which 60 to 70 % are blended in.
    assert batch.images.amax() <= 0.7
    assert batch.images.amax() > 0.59


def test_sources_by_share():
    files = [Path(skimage.__file__).parent / "data" / "coffee.png"]
    bank = TextureBank(files, (64, 64))
    black = torch.zeros(60, 3, 64, 64)

    def colorful(share):
        """Tell how many anomalies on black have more than one color: black has one, however it is changed."""
        batch = part(BlendedAnomalyGenerator, bank, structure_share=share, anomalous_share=1, min_perlin_scale=2)(black)
        inside = torch.where(batch.mask > 0, batch.images, torch.nan).flatten(1)
        return sum(len(row[~row.isnan()].unique()) > 9 for row in inside)

    assert colorful(1.0) < 5
    assert colorful(0.0) > 50
    assert 10 < colorful(0.5) < 50


@needs_reference
@pytest.mark.slow
def test_anomalies_are_as_strong_as_the_authors(statistics):
    """Within 7 %: of the ten changes, that of brightness is another color space's, and none is in 8 bits."""
    folder = Path(skimage.__file__).parent / "data"
    files = [folder / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")]
    images = photograph(size=(256, 256)).expand(16, -1, -1, -1)
    for kind, share in (("object", 0.5), ("texture", 0.0)):
        bank = TextureBank(files, (256, 256), resize="bilinear")
        generator = part(BlendedAnomalyGenerator, bank, structure_share=share, anomalous_share=1)
        changes = []
        for _ in range(60):
            batch = generator(images)
            change = (batch.images - images).abs().mean(dim=1, keepdim=True)
            changes.append((change * batch.mask).sum(dim=(1, 2, 3)) / batch.mask.sum(dim=(1, 2, 3)))
        expected = statistics[kind]["mean_absolute_change_in_mask"]["mean"]
        assert torch.cat(changes).mean().item() == pytest.approx(expected, rel=0.07)
