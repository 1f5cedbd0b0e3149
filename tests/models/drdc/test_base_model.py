# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The base model against arithmetic of its own: features, jitter, neighbor mask, attention and heat map."""

import math

import pytest
import torch

from anomalib_transfusion.models.drdc.base_model import BaseModel, base_heat_map, grid_of, jitter, neighbor_mask

ARGUMENTS = {
    "image_size": (64, 96),
    "backbone": "test_efficientnet",
    "backbone_layers": None,
    "feature_stride": 8,
    "normalize_features": False,
    "feature_pooling": 1,
    "hidden_dim": 16,
    "num_layers": 2,
    "neighbor_size": 3,
    "jitter_scale": 20.0,
    "dropout": 0.1,
}


def build(**parameters):
    torch.manual_seed(0)
    return BaseModel(**{**ARGUMENTS, **parameters}).eval()


@pytest.fixture
def images():
    return 2 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) - 1


@torch.no_grad()
def test_layers_are_joined_at_the_stride_of_the_tokens(images):
    """Those of stride 2, 4, 8 and 16 unless others are named; each resized, corners on corners."""
    whole, two = build(), build(backbone_layers=["blocks.2", "blocks.3"])
    assert whole.backbone.strides == [2, 4, 8, 16]
    assert two.backbone.layers == ["blocks.2", "blocks.3"]
    levels = two.backbone(images)
    resized = [torch.nn.functional.interpolate(x, size=(8, 12), mode="bilinear", align_corners=True) for x in levels]
    torch.testing.assert_close(two.features(images), torch.cat(resized, dim=1))
    assert two.channels == sum(x.shape[1] for x in levels)
    assert two.output.out_features == two.channels


def test_jitter_is_in_proportion_to_a_tokens_length():
    tokens = torch.tensor([[[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    noise = torch.tensor([[[1.0, -1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]]])
    # Of length 5, with four channels: 20 * 5 / 4 = 25.
    expected = torch.tensor([[[28.0, -21.0, 50.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(jitter(tokens, noise, 20.0), expected)


@pytest.mark.parametrize(("rows", "columns", "size"), [(4, 6, 3), (5, 4, 1), (14, 14, 7)])
def test_neighbor_mask_by_four_loops(rows, columns, size):
    hidden = neighbor_mask(rows, columns, size)
    for row in range(rows):
        for column in range(columns):
            for other_row in range(rows):
                for other_column in range(columns):
                    near = abs(row - other_row) <= size // 2 and abs(column - other_column) <= size // 2
                    assert hidden[row * columns + column, other_row * columns + other_column] == near
    # What every token sees at least is what softmax needs.
    assert not hidden.all(dim=1).any()


@pytest.mark.parametrize(
    ("size", "stride", "asked", "window"),
    [((224, 224), 16, 7, 7), ((256, 256), 16, 7, 7), ((128, 128), 16, 7, 3), ((64, 96), 8, 7, 3), ((64, 64), 16, 7, 1)],
)
def test_window_is_at_most_half_of_the_grid(size, stride, asked, window):
    model = build(image_size=size, feature_stride=stride, neighbor_size=asked)
    # A token in the middle of the grid has its whole window.
    rows, columns = model.grid
    middle = rows // 2 * columns + columns // 2
    assert model.hidden[middle].sum() == window**2
    assert torch.equal(model.hidden, neighbor_mask(rows, columns, window))


@torch.no_grad()
def test_features_of_all_strides_are_joined_at_one(images):
    """Corners of both grids lie on each other: the weights are those of a straight line between the ends."""
    model = build()
    joined = model.features(images)
    assert joined.shape == (2, sum(model.backbone.channels), 8, 12)
    assert model.backbone.strides == [2, 4, 8, 16]
    first = 0
    for level, channels in zip(model.backbone(images), model.backbone.channels, strict=True):
        height, width = level.shape[2:]
        for row, column in ((0, 0), (3, 5), (7, 11)):
            y, x = row * (height - 1) / 7, column * (width - 1) / 11
            top, left = min(int(y), height - 2), min(int(x), width - 2)
            down, right = y - top, x - left
            corners = level[:, :, top : top + 2, left : left + 2]
            upper = (1 - right) * corners[:, :, 0, 0] + right * corners[:, :, 0, 1]
            lower = (1 - right) * corners[:, :, 1, 0] + right * corners[:, :, 1, 1]
            expected = (1 - down) * upper + down * lower
            torch.testing.assert_close(joined[:, first : first + channels, row, column], expected, rtol=1e-4, atol=1e-5)
        first += channels


@torch.no_grad()
def test_pooled_features_are_means_of_neighborhoods(images):
    """Of the tokens of a level that lie in the image: four in a corner, six at an edge, nine inside."""
    plain, pooled = build(), build(feature_pooling=3)
    level = plain.backbone(images)[2]
    assert plain.backbone.strides[2] == plain.feature_stride
    first = sum(plain.backbone.channels[:2])
    found = pooled.features(images)[:, first : first + plain.backbone.channels[2]]
    for row, column in ((0, 0), (0, 5), (7, 11), (4, 6)):
        rows = slice(max(0, row - 1), row + 2)
        columns = slice(max(0, column - 1), column + 2)
        expected = level[:, :, rows, columns].mean(dim=(2, 3))
        torch.testing.assert_close(found[:, :, row, column], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain.features(images), pooled.features(images))


@torch.no_grad()
@pytest.mark.parametrize(("dropout", "alike"), [(0.0, True), (0.3, False)])
def test_dropout_is_in_training_alone(images, dropout, alike):
    model = build(dropout=dropout)
    assert torch.equal(model(images).reconstructed, model(images).reconstructed)
    tokens = torch.randn(1, 96, model.channels)
    first, second = (model.train().transform(tokens) for _ in range(2))
    assert torch.equal(first, second) == alike


@torch.no_grad()
def test_attention_by_arithmetic():
    """Eight heads, scaled by the root of their width; a window is not looked at, and the residual is normalized."""
    model = build()
    layer = model.encoder[0].attention
    tokens, position = torch.randn(2, 96, 16), torch.randn(96, 16)
    weights = layer.attention.in_proj_weight.chunk(3)
    biases = layer.attention.in_proj_bias.chunk(3)
    placed = tokens + position
    query, key, value = (x @ w.T + b for x, w, b in zip((placed, placed, tokens), weights, biases, strict=True))
    attended = torch.empty(2, 96, 16)
    for head in range(8):
        part = slice(2 * head, 2 * head + 2)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(2)
        scores[:, model.hidden] = -math.inf
        attended[..., part] = scores.softmax(dim=2) @ value[..., part]
    attended = attended @ layer.attention.out_proj.weight.T + layer.attention.out_proj.bias
    total = tokens + attended
    centered = total - total.mean(dim=2, keepdim=True)
    expected = centered / (centered.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(placed, placed, tokens, tokens, model.hidden), expected, rtol=1e-4, atol=1e-5)


def test_no_token_reconstructs_itself_from_itself():
    """In one encoder and one decoder layer, from tokens beyond the window alone: a gradient shows who saw whom."""
    model = build(num_layers=1)
    tokens = torch.randn(1, 96, model.channels, requires_grad=True)
    middle = 4 * 12 + 6
    encoded = model.embed(tokens)
    layer = model.decoder[0]
    position = torch.zeros(96, 16)
    queries = layer.queries.expand(1, -1, -1)
    found = layer.to_encoded(queries, encoded, encoded + position, queries, model.hidden)[0, middle]
    # The plain sum of what a layer norm returns is constant.
    (found * torch.arange(16)).sum().backward()
    seen = tokens.grad.abs().sum(dim=2)[0] > 0
    assert torch.equal(seen, ~model.hidden[middle])


@torch.no_grad()
def test_decoder_begins_with_queries_of_its_own(images):
    """With the keys and values gone, what is left depends on the queries and not on the image."""
    model = build()
    for layer in model.decoder:
        for attention in (layer.to_encoded, layer.to_decoded):
            attention.attention.out_proj.weight.zero_()
    first, second = model(images).reconstructed
    torch.testing.assert_close(first, second)
    model = build()
    first, second = model(images).reconstructed
    assert not torch.allclose(first, second)


@torch.no_grad()
def test_heat_map_is_the_distance():
    features, reconstructed = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6)
    found = base_heat_map(features, reconstructed, (4, 6))
    expected = torch.linalg.vector_norm(features - reconstructed, dim=1, keepdim=True)
    torch.testing.assert_close(found, expected)
    # A constant distance stays what it is at the resolution of the image.
    enlarged = base_heat_map(torch.full((1, 4, 4, 6), 2.0), torch.ones(1, 4, 4, 6), (64, 96))
    torch.testing.assert_close(enlarged, torch.full((1, 1, 64, 96), 2.0))


@torch.no_grad()
def test_normalized_features(images):
    """By running statistics, which a training moves; the summary for the category is their mean either way."""
    model = build(normalize_features=True).train()
    raw = model.features(images)
    found = model(images)
    mean, variance = raw.mean(dim=(0, 2, 3)), raw.var(dim=(0, 2, 3), unbiased=False)
    expected = (raw - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(found.features, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.summary, expected.mean(dim=(2, 3)), rtol=1e-3, atol=1e-3)
    assert torch.equal(build()(images).features, build().features(images))


@torch.no_grad()
def test_target_is_without_jitter(images):
    model = build()
    noise = torch.randn(2, 96, model.channels)
    plain, jittered = model(images), model(images, noise)
    assert torch.equal(plain.features, jittered.features)
    assert not torch.allclose(plain.reconstructed, jittered.reconstructed)
    assert torch.equal(plain.reconstructed, build(jitter_scale=0.0)(images, noise).reconstructed)


def test_size_of_the_published_model():
    """Counted from UniAD's description: 272 channels, 4 and 4 layers of width 256 and 1024 hidden units, 14 x 14."""
    model = build(image_size=(224, 224), backbone="efficientnet_b4", feature_stride=16, hidden_dim=256, num_layers=4)
    attention = 4 * (256 * 256 + 256) + 2 * 256
    feed_forward = 256 * 1024 + 1024 + 1024 * 256 + 256 + 2 * 256
    encoder = 4 * (attention + feed_forward)
    decoder = 4 * (2 * attention + feed_forward + 196 * 256) + 2 * 256
    ends = 272 * 256 + 256 + 256 * 272 + 272
    positions = 14 * 128 + 14 * 128
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert model.channels == 272
    assert trained == encoder + decoder + ends + positions


def test_smallest_grid():
    assert grid_of((64, 96), 16) == (4, 6)
    with pytest.raises(ValueError, match="feature_stride=16 leaves 3x6 tokens of an image of 48x96"):
        grid_of((48, 96), 16)
