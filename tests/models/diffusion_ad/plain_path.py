# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The plain path: DiffusionAD computed the way it was published, to hold our results and our speed against.

Eager, in 32 bits, channels first, one image after the other, a pass of the network for each noise scale, attention with
its whole matrix, and the guidance as a correction of the noise. It is written along the description of the method, over
the weights of a checkpoint in the authors' layout: no module of ours is called, and no number is taken from us.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, label
from torch.nn import functional as F  # noqa: N812

State = dict[str, torch.Tensor]

HEADS = 4
GROUPS = 32
SCORE_PIXELS = 50


class PlainResult(NamedTuple):
    """Map, score and reconstruction of one image."""

    anomaly_map: torch.Tensor
    score: torch.Tensor
    reconstruction: torch.Tensor


def alpha_bar(t: int) -> float:
    """Return the share of the image's variance that is left at a timestep of 1000."""
    return float(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t])


def plain_predict(unet: State, segmentation: State, images, noise_s, noise_b, t_s=200, t_b=400, w=1.0):
    """Predict images ``(B, 3, H, W)`` with noise of the same shape, one after the other."""
    results = []
    with torch.no_grad():
        for image, of_small, of_big in zip(images.split(1), noise_s.split(1), noise_b.split(1), strict=True):
            reconstruction = plain_reconstruction(unet, image, of_small, of_big, t_s, t_b, w)
            anomaly_map = plain_segmentation(segmentation, torch.cat((image, reconstruction), dim=1))
            score = torch.topk(anomaly_map.flatten(), SCORE_PIXELS).values.mean()
            results.append(PlainResult(anomaly_map[0], score, reconstruction[0]))
    return PlainResult(*(torch.stack(parts) for parts in zip(*results, strict=True)))


def plain_reconstruction(unet: State, image, noise_s, noise_b, t_s, t_b, w):
    """Reconstruct one image, the guidance step by step."""
    a_s, a_b = alpha_bar(t_s), alpha_bar(t_b)
    x_s = math.sqrt(a_s) * image + math.sqrt(1 - a_s) * noise_s
    e_s = plain_unet(unet, x_s, t_s)
    x_b = math.sqrt(a_b) * image + math.sqrt(1 - a_b) * noise_b
    e_b = plain_unet(unet, x_b, t_b)
    guide = (math.sqrt(1 / a_b) * x_b - math.sqrt(1 / a_b - 1) * e_b).clamp(-1, 1)
    guide_at_s = math.sqrt(a_s) * guide + math.sqrt(1 - a_s) * e_s
    corrected = e_s - math.sqrt(1 - a_s) * w * (guide_at_s - x_s)
    return (math.sqrt(1 / a_s) * x_s - math.sqrt(1 / a_s - 1) * corrected).clamp(-1, 1)


def published_aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3, steps: int = 1000) -> float:
    """Return the area under the curve of region overlap over false positives, as published.

    Args:
        maps: Anomaly maps, ``(N, H, W)``.
        masks: Ground truth, 0 or 1, ``(N, H, W)``.
        limit: Largest false positive rate that counts.
        steps: Number of thresholds, from the largest value of the maps down.
    """
    regions = []
    for index, mask in enumerate(masks):
        labels, count = label(mask, np.ones((3, 3)))
        regions += [(index, labels == number) for number in range(1, count + 1)]
    filled = [binary_fill_holes(region) for _, region in regions]
    rates, overlaps = [], []
    for step in range(steps):
        predicted = maps > maps.max() - (maps.max() - maps.min()) * step / steps
        rates.append((predicted & (masks == 0)).sum() / (masks == 0).sum())
        overlaps.append(
            np.mean([
                (predicted[index] & whole).sum() / region.sum()
                for (index, region), whole in zip(regions, filled, strict=True)
            ]),
        )
    counted = np.array(rates) <= limit
    x, y = np.array(rates)[counted], np.array(overlaps)[counted]
    x = (x - x.min()) / (x.max() - x.min())
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())


def plain_unet(state: State, x, t: int):
    """Predict the noise of ``(B, 3, H, W)`` at one timestep."""
    width = state["time_embedding.1.weight"].shape[1]
    half = width // 2
    angles = [t * math.exp(-math.log(10_000) * i / half) for i in range(half)]
    sinusoids = torch.tensor([[math.sin(a) for a in angles] + [math.cos(a) for a in angles]])
    embedding = F.silu(_linear(state, "time_embedding.1", sinusoids))
    embedding = _linear(state, "time_embedding.3", embedding)

    modules = {".".join(key.split(".")[:2]) for key in state}
    encoder = sum(name.startswith("down.") for name in modules)
    decoder = sum(name.startswith("up.") for name in modules)
    # The decoder's modules that double the resolution say where the levels end, for the encoder as well.
    doubling = [i for i in range(decoder) if any(f"up.{i}.{j}.in_layers.0.weight" in state for j in (1, 2))]
    of_level = doubling[0] + 1
    h = F.conv2d(x, state["down.0.0.weight"], state["down.0.0.bias"], padding=1)
    kept = [h]
    for i in range(1, encoder):
        halve = i % of_level == 0
        h = _residual(state, f"down.{i}.0", h, embedding, _halved if halve else None)
        if f"down.{i}.1.norm.weight" in state:
            h = _attention(state, f"down.{i}.1", h)
        kept.append(h)
    h = _residual(state, "middle.0", h, embedding)
    h = _attention(state, "middle.1", h)
    h = _residual(state, "middle.2", h, embedding)
    for i in range(decoder):
        h = _residual(state, f"up.{i}.0", torch.cat((h, kept.pop()), dim=1), embedding)
        j = 1
        if f"up.{i}.1.norm.weight" in state:
            h = _attention(state, f"up.{i}.1", h)
            j = 2
        if i in doubling:
            h = _residual(state, f"up.{i}.{j}", h, embedding, _doubled)
    h = F.silu(_group_norm(state, "out.0", h))
    return F.conv2d(h, state["out.2.weight"], state["out.2.bias"], padding=1)


def plain_segmentation(state: State, x):
    """Predict the probability of an anomaly from image and reconstruction, ``(B, 6, H, W)``."""
    kept = []
    for i in range(1, 7):
        if kept:
            x = F.max_pool2d(x, 2)
        x = _convolved(state, f"encoder_segment.block{i}", 3, _convolved(state, f"encoder_segment.block{i}", 0, x))
        kept.append(x)
    kept.pop()
    for name in ("_b", "1", "2", "3", "4"):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = _convolved(state, f"decoder_segment.up{name}", 1, x)
        x = torch.cat((x, kept.pop()), dim=1)
        x = _convolved(state, f"decoder_segment.db{name}", 3, _convolved(state, f"decoder_segment.db{name}", 0, x))
    name = "decoder_segment.fin_out.0"
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).sigmoid()


def _convolved(state: State, block: str, place: int, x):
    """Convolve, normalize by the statistics of the training and rectify."""
    x = F.conv2d(x, state[f"{block}.{place}.weight"], state[f"{block}.{place}.bias"], padding=1)
    norm = f"{block}.{place + 1}"
    statistics = (state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(x, *statistics))


def _residual(state: State, name: str, x, embedding, resample=None):
    """Run a residual block."""
    h = F.silu(_group_norm(state, f"{name}.in_layers.0", x))
    if resample is not None:
        h, x = resample(h), resample(x)
    h = F.conv2d(h, state[f"{name}.in_layers.2.weight"], state[f"{name}.in_layers.2.bias"], padding=1)
    h = h + _linear(state, f"{name}.embed_layers.1", F.silu(embedding))[:, :, None, None]
    h = F.silu(_group_norm(state, f"{name}.out_layers.0", h))
    h = F.conv2d(h, state[f"{name}.out_layers.3.weight"], state[f"{name}.out_layers.3.bias"], padding=1)
    if f"{name}.skip_connection.weight" in state:
        x = F.conv2d(x, state[f"{name}.skip_connection.weight"], state[f"{name}.skip_connection.bias"])
    return x + h


def _attention(state: State, name: str, x):
    """Run an attention block: heads are cut first, then queries, keys and values."""
    batch, channels, height, width = x.shape
    flat = x.reshape(batch, channels, height * width)
    projected = F.conv1d(_group_norm(state, f"{name}.norm", flat), *_weights(state, f"{name}.to_qkv"))
    projected = projected.reshape(batch * HEADS, 3 * channels // HEADS, height * width)
    q, k, v = projected.split(channels // HEADS, dim=1)
    scale = (channels // HEADS) ** -0.25
    weights = torch.einsum("bct,bcs->bts", q * scale, k * scale).softmax(dim=-1)
    attended = torch.einsum("bts,bcs->bct", weights, v).reshape(batch, channels, height * width)
    return (flat + F.conv1d(attended, *_weights(state, f"{name}.proj_out"))).reshape(x.shape)


def _halved(x):
    return F.avg_pool2d(x, 2)


def _doubled(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _weights(state: State, name: str):
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _linear(state: State, name: str, x):
    return F.linear(x, *_weights(state, name))


def _group_norm(state: State, name: str, x):
    return F.group_norm(x, GROUPS, *_weights(state, name), eps=1e-5)
