# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The base model: a transformer that reconstructs the features of a frozen network, from a distance.

Zhan et al. (2024) name a transformer and feature reconstruction. The details are those of UniAD (You et al. 2022),
whose task and terms the abstract has; features at several strides, jitter, neighbor mask, queries of each layer.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.checks import Range, check_arguments, check_odd
from anomalib_transfusion.networks.backbone import FrozenBackbone, RunningNorm

__all__ = ["BaseModel", "Reconstruction", "base_heat_map", "jitter", "neighbor_mask"]

STRIDES = (2, 4, 8, 16)
NUM_HEADS = 8
# Hidden units of the feed-forward parts, as multiples of the width.
EXPANSION = 4
SMALLEST_GRID = 4


class Reconstruction(NamedTuple):
    """Features of a batch, and what the transformer makes of them.

    Attributes:
        features: The features f, ``(B, C, h, w)``.
        reconstructed: Their reconstruction, likewise.
        summary: Mean of the normalized features over the positions, ``(B, C)``, from which the category is told.
    """

    features: Tensor
    reconstructed: Tensor
    summary: Tensor


def jitter(tokens: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Add noise to tokens in proportion to their length: f + scale * norm(f) / C * noise (UniAD, Section 3.3).

    Args:
        tokens: Tokens f, ``(B, N, C)``.
        noise: Standard normal noise, likewise.
        scale: Scale of the noise; 0 for none.
    """
    return tokens + scale * tokens.norm(dim=2, keepdim=True) / tokens.shape[2] * noise


def neighbor_mask(height: int, width: int, neighbor_size: int) -> Tensor:
    """Return which tokens do not see which: none sees the square window around itself, itself included.

    Args:
        height: Rows of the grid of tokens.
        width: Columns of the grid.
        neighbor_size: Side of the window in tokens, odd.

    Returns:
        True where the token of the row must not see that of the column, ``(h * w, h * w)``.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    reach = neighbor_size // 2
    far = [(place.flatten()[:, None] - place.flatten()[None, :]).abs() > reach for place in (rows, columns)]
    return ~(far[0] | far[1])


def base_heat_map(features: Tensor, reconstructed: Tensor, size: Sequence[int]) -> Tensor:
    """Return the distance of each token from its reconstruction, at the resolution of the image.

    Args:
        features: Features, ``(B, C, h, w)``.
        reconstructed: Their reconstruction, likewise.
        size: Height and width of the image in pixels.

    Returns:
        Maps H_base, at least 0, ``(B, 1, H, W)``.
    """
    return in_pixels((features - reconstructed).square().sum(dim=1, keepdim=True).sqrt(), size)


def in_pixels(distances: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate the tokens' distances ``(B, 1, h, w)`` bilinearly to the size of the image, ``(B, 1, H, W)``."""
    return F.interpolate(distances, size=tuple(size), mode="bilinear", align_corners=False)


class BaseModel(nn.Module):
    """Reconstructs features of images of one size.

    Args:
        image_size: Height and width of the images in pixels.
        backbone: timm's name of the network whose features are reconstructed; it is never trained.
        backbone_layers: Names of its layers; ``None`` for the last ones of stride 2, 4, 8 and 16, as UniAD.
        feature_stride: Pixels a token is wide.
        normalize_features: Whether each channel of the features is normalized by its running statistics; UniAD's are
            not.
        feature_pooling: Side in tokens of the mean filter of each level's features, odd; 1 for none, as UniAD.
        hidden_dim: Width of the transformer, a multiple of 8, the number of heads.
        num_layers: Layers of the encoder, and of the decoder.
        neighbor_size: Side in tokens of the window around itself that no token sees, odd; at most half of the grid.
        jitter_scale: Scale of the noise that is added to the features in training; 0 for none.
        dropout: Share of the attention weights and of the hidden units that a training step leaves out.

    Raises:
        ValueError: If a parameter is impossible, or the grid of tokens too small for a window.
    """

    hidden: Tensor

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        backbone: str,
        backbone_layers: Sequence[str] | None,
        feature_stride: Annotated[int, Range(1, 64, "Use 16, or 8 for images below 224 pixels.")],
        normalize_features: bool,
        feature_pooling: Annotated[int, Range(1, 99, "Use 3, or 1 for none.")],
        hidden_dim: Annotated[int, Range(8, 4096, "Use 256, as UniAD.")],
        num_layers: Annotated[int, Range(1, 64, "Use 4, as UniAD.")],
        neighbor_size: Annotated[int, Range(1, 99, "Use 7, as UniAD.")],
        jitter_scale: Annotated[float, Range(0, 1000, "Use 20, as UniAD.")],
        dropout: Annotated[float, Range(0, 0.9, "Use 0.1, as UniAD, or 0 for short trainings.")],
    ) -> None:
        check_arguments(BaseModel.__init__, locals())
        super().__init__()
        if hidden_dim % NUM_HEADS:
            msg = (
                f"hidden_dim={hidden_dim} is impossible; expected a multiple of {NUM_HEADS}, the number of heads. Use "
                f"{max(1, hidden_dim // NUM_HEADS) * NUM_HEADS}."
            )
            raise ValueError(msg)
        check_odd("feature_pooling", feature_pooling, "a token is in the middle of its filter")
        check_odd("neighbor_size", neighbor_size, "a token is in the middle of its window")
        self.backbone = FrozenBackbone(backbone, backbone_layers, STRIDES)
        self.feature_stride = feature_stride
        self.stride = max(feature_stride, *self.backbone.strides)
        self.channels = sum(self.backbone.channels)
        self.feature_pooling = feature_pooling
        self.jitter_scale = jitter_scale
        self.normalize_features = normalize_features
        self.norm = RunningNorm(self.channels)
        self.grid = grid_of(image_size, feature_stride)
        window = _window(neighbor_size, self.grid)
        # Not in the state dict: it follows from the parameters.
        self.register_buffer("hidden", neighbor_mask(*self.grid, window), persistent=False)

        rows, columns = self.grid
        self.embed = nn.Linear(self.channels, hidden_dim)
        self.row_embedding = nn.Parameter(torch.rand(rows, 1, hidden_dim // 2))
        self.column_embedding = nn.Parameter(torch.rand(1, columns, hidden_dim // 2))
        self.encoder = nn.ModuleList(_EncoderLayer(hidden_dim, dropout) for _ in range(num_layers))
        self.decoder = nn.ModuleList(_DecoderLayer(hidden_dim, dropout, rows * columns) for _ in range(num_layers))
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.output = nn.Linear(hidden_dim, self.channels)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and not name.startswith("backbone."):
                nn.init.xavier_uniform_(parameter)

    def forward(self, images: Tensor, noise: Tensor | None = None, channels_last: bool = False) -> Reconstruction:
        """Reconstruct the features of images.

        Args:
            images: Images in [-1, 1], ``(B, 3, H, W)``, of the size that the model was built for.
            noise: Standard normal noise for the :func:`jitter` of a training, ``(B, h * w, C)``; ``None`` for none.
            channels_last: Whether the backbone computes in channels-last memory.
        """
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        features = self.features(images)
        normal = self.norm(features)
        if self.normalize_features:
            features = normal
        tokens = features.flatten(2).transpose(1, 2)
        if noise is not None:
            tokens = jitter(tokens, noise, self.jitter_scale)
        reconstructed = self.transform(tokens).transpose(1, 2).unflatten(2, self.grid)
        return Reconstruction(features, reconstructed, normal.mean(dim=(2, 3)))

    def features(self, images: Tensor) -> Tensor:
        """Return the features of images in [-1, 1] at all strides, joined at the tokens' stride, ``(B, C, h, w)``."""
        resized = [
            F.interpolate(self._pooled(level), size=self.grid, mode="bilinear", align_corners=True)
            for level in self.backbone(images)
        ]
        return torch.cat(resized, dim=1)

    def _pooled(self, level: Tensor) -> Tensor:
        """Return the means of the neighborhoods, in the image alone, of features ``(B, C, h, w)``."""
        side = self.feature_pooling
        if side == 1:
            return level
        return F.avg_pool2d(level, side, stride=1, padding=side // 2, count_include_pad=False)

    def transform(self, tokens: Tensor) -> Tensor:
        """Reconstruct tokens, ``(B, h * w, C)``, each from those beyond its window."""
        rows, columns = self.grid
        half = self.row_embedding.shape[2]
        position = torch.cat(
            (self.row_embedding.expand(rows, columns, half), self.column_embedding.expand(rows, columns, half)),
            dim=2,
        ).flatten(0, 1)
        encoded = self.embed(tokens)
        for layer in self.encoder:
            encoded = layer(encoded, position, self.hidden)
        decoded = encoded
        for layer in self.decoder:
            decoded = layer(decoded, encoded, position, self.hidden)
        return self.output(self.decoder_norm(decoded))


class _Attention(nn.Module):
    """Attention with dropout, a residual connection and a layer norm behind it.

    Args:
        width: Channels of the tokens.
        dropout: Share of what is left out in training.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, NUM_HEADS, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, residual: Tensor, hidden: Tensor) -> Tensor:
        """Attend to ``(B, N, C)``; the residual is what the result is added to."""
        attended, _ = self.attention(queries, keys, values, attn_mask=hidden, need_weights=False)
        return self.norm(residual + self.dropout(attended))


class _FeedForward(nn.Module):
    """Two linear layers with a rectifier, a residual connection and a layer norm behind it.

    Args:
        width: Channels of the tokens.
        dropout: Share of what is left out in training.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        layers = (nn.Linear(width, EXPANSION * width), nn.ReLU(), nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(EXPANSION * width, width), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens, ``(B, N, C)``."""
        return self.norm(tokens + self.layers(tokens))


class _EncoderLayer(nn.Module):
    """Attention of the tokens to those beyond their window, and a feed-forward part.

    Args:
        width: Channels of the tokens.
        dropout: Share of what is left out in training.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = _Attention(width, dropout)
        self.feed_forward = _FeedForward(width, dropout)

    def forward(self, tokens: Tensor, position: Tensor, hidden: Tensor) -> Tensor:
        """Transform tokens, ``(B, N, C)``; the position is added to queries and keys alone."""
        placed = tokens + position
        return self.feed_forward(self.attention(placed, placed, tokens, tokens, hidden))


class _DecoderLayer(nn.Module):
    """Queries of the layer's own look at the encoder's output, then at the layer before (UniAD, Section 3.2).

    Args:
        width: Channels of the tokens.
        dropout: Share of what is left out in training.
        num_tokens: Number of positions, each with a learned query.
    """

    def __init__(self, width: int, dropout: float, num_tokens: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(num_tokens, width))
        self.to_encoded = _Attention(width, dropout)
        self.to_decoded = _Attention(width, dropout)
        self.feed_forward = _FeedForward(width, dropout)

    def forward(self, decoded: Tensor, encoded: Tensor, position: Tensor, hidden: Tensor) -> Tensor:
        """Transform the layer before and the encoder's output, ``(B, N, C)`` each."""
        queries = self.queries.expand(encoded.shape)
        found = self.to_encoded(queries + position, encoded + position, encoded, queries, hidden)
        found = self.to_decoded(found + position, decoded + position, decoded, found, hidden)
        return self.feed_forward(found)


def grid_of(image_size: Sequence[int], feature_stride: int) -> tuple[int, int]:
    """Return rows and columns of tokens.

    Args:
        image_size: Height and width in pixels.
        feature_stride: Pixels a token is wide.

    Raises:
        ValueError: If a side has fewer than four tokens.
    """
    height, width = image_size
    grid = (height // feature_stride, width // feature_stride)
    if min(grid) < SMALLEST_GRID:
        msg = (
            f"feature_stride={feature_stride} leaves {grid[0]}x{grid[1]} tokens of an image of {height}x{width} "
            f"pixels; expected at least {SMALLEST_GRID} a side, for each must see some beyond its window. Use a "
            "smaller feature_stride, or larger images with the Resize of the pre-processor."
        )
        raise ValueError(msg)
    return grid


def _window(neighbor_size: int, grid: tuple[int, int]) -> int:
    """Return the side of the window: at most the largest odd number that half of the grid's shorter side holds."""
    half = min(grid) // 2
    return min(neighbor_size, half - 1 + half % 2)
