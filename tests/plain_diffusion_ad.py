# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The plain path: DiffusionAD computed the way it was published, to hold our results and our speed against.

Eager, in 32 bits, channels first, one image after the other, a pass of the network for each noise scale, attention with
its whole matrix, the guidance as a correction of the noise, and synthetic anomalies made image by image with numpy and
OpenCV. It is written along the description of the method, over the weights of a checkpoint in the authors' layout: no
module of ours is called, and no number is taken from us.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, label
from torch.nn import functional as F  # noqa: N812

from plain_path import change, plain_noise, rotate

State = dict[str, torch.Tensor]

HEADS = 4
GROUPS = 32
SCORE_PIXELS = 50
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


class PlainResult(NamedTuple):
    """Map, score and reconstruction of one image."""

    anomaly_map: torch.Tensor
    score: torch.Tensor
    reconstruction: torch.Tensor


def alpha_bar(t: int) -> float:
    """Return the share of the image's variance that is left at a timestep of 1000."""
    return float(ALPHA_BAR[t])


class PlainSample(NamedTuple):
    """Images with anomalies ``(B, 3, H, W)``, their masks ``(B, 1, H, W)`` and labels ``(B,)``."""

    images: torch.Tensor
    mask: torch.Tensor
    label: torch.Tensor


def plain_predict(unet: State, segmentation: State, images, noise_s, noise_b, t_s=200, t_b=400, w=1.0):
    """Predict images ``(B, 3, H, W)`` with noise of the same shape, one after the other."""
    results = []
    with torch.no_grad():
        for image, of_small, of_big in zip(images.split(1), noise_s.split(1), noise_b.split(1), strict=True):
            reconstruction = plain_reconstruction(unet, image, of_small, of_big, t_s, t_b, w)[0]
            anomaly_map = plain_segmentation(segmentation, torch.cat((image, reconstruction), dim=1))
            score = torch.topk(anomaly_map.flatten(), SCORE_PIXELS).values.mean()
            results.append(PlainResult(anomaly_map[0], score, reconstruction[0]))
    return PlainResult(*(torch.stack(parts) for parts in zip(*results, strict=True)))


def plain_reconstruction(unet: State, image, noise_s, noise_b, t_s, t_b, w):
    """Reconstruct images, the guidance step by step; also return the noise predicted at both scales.

    Timesteps are numbers, or one for each image, ``(B,)``.
    """

    def rate(of_alpha_bar, t):
        return torch.as_tensor(of_alpha_bar(ALPHA_BAR[np.asarray(t)])).reshape(-1, 1, 1, 1).to(image)

    def signal(t):
        return rate(np.sqrt, t)

    def spread(t):
        return rate(lambda a: np.sqrt(1 - a), t)

    def estimate(x, t, e):
        return rate(lambda a: np.sqrt(1 / a), t) * x - rate(lambda a: np.sqrt(1 / a - 1), t) * e

    t_s, t_b = (t.cpu().numpy() if isinstance(t, torch.Tensor) else t for t in (t_s, t_b))
    x_s = signal(t_s) * image + spread(t_s) * noise_s
    e_s = plain_unet(unet, x_s, t_s)
    x_b = signal(t_b) * image + spread(t_b) * noise_b
    e_b = plain_unet(unet, x_b, t_b)
    guide = estimate(x_b, t_b, e_b).clamp(-1, 1)
    guide_at_s = signal(t_s) * guide + spread(t_s) * e_s
    corrected = e_s - spread(t_s) * w * (guide_at_s - x_s)
    return estimate(x_s, t_s, corrected).clamp(-1, 1), e_s, e_b


def plain_loss(unet: State, segmentation: State, sample: PlainSample, timestep, noise, w=1.0):
    """Return the published loss of a training batch and its terms: noise, focal and smooth L1, each with its weight.

    Args:
        unet: Weights, which may ask for gradients.
        segmentation: Weights; the running statistics among them are updated.
        sample: Images, masks and labels.
        timestep: Timesteps of both scales, ``(2, B)``.
        noise: Noise of both scales, ``(2, B, 3, H, W)``.
        w: Weight of the guidance.
    """
    reconstruction, *predicted = plain_reconstruction(unet, sample.images, *noise, *timestep, w)
    mask = plain_segmentation(segmentation, torch.cat((sample.images, reconstruction), dim=1), training=True)
    normal = sample.label == 0
    pairs = zip(predicted, noise, strict=True)
    of_noise = sum(F.mse_loss(e[normal], n[normal]) for e, n in pairs) if normal.any() else mask.sum() * 0
    entropy = F.binary_cross_entropy(mask, sample.mask, reduction="none")
    focal = 5 * (0.5 * (1 - torch.exp(-entropy)) ** 4 * entropy).mean()
    smooth_l1 = F.smooth_l1_loss(mask, sample.mask)
    return of_noise + focal + smooth_l1, of_noise, focal, smooth_l1


def plain_synthesis(images, textures: Sequence[Path], random: np.random.Generator) -> PlainSample:
    """Make training samples image by image on the main process; the first half of the batch gets anomalies.

    Args:
        images: Normal images in [0, 1], ``(B, 3, H, W)``.
        textures: Image files, read anew each time.
        random: The random numbers.
    """
    made = []
    for index, image in enumerate(images):
        pixels = image.permute(1, 2, 0).cpu().numpy()
        mask = np.zeros((*pixels.shape[:2], 1), np.float32)
        if index < max(1, len(images) // 2):
            mask = _plain_mask(pixels.shape[:2], random)
            share = random.uniform(0.2, 0.8)
            source = _plain_source(pixels, textures, random)
            pixels = (1 - mask) * pixels + (1 - share) * mask * source + share * mask * pixels
        made.append((pixels.astype(np.float32), mask))
    stacked = (np.ascontiguousarray(np.stack(part).transpose(0, 3, 1, 2)) for part in zip(*made, strict=True))
    changed, masks = (torch.from_numpy(part).to(images.device) for part in stacked)
    return PlainSample(changed, masks, masks.flatten(1).any(dim=1).long())


def _plain_mask(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Draw where an anomaly is, ``(H, W, 1)``, with the same cells until it is anywhere."""
    cells = 2 ** random.integers(0, 6, 2)
    for _ in range(50):
        noise = rotate(plain_noise(size, random, cells), random.uniform(-90, 90), cv2.INTER_LINEAR)
        if (noise > 0.5).any():
            break
    return (noise > 0.5).astype(np.float32)[..., None]


def _plain_source(pixels: np.ndarray, textures: Sequence[Path], random: np.random.Generator) -> np.ndarray:
    """Draw an appearance in [0, 1], half of the time from a texture and half from the image in disordered strips."""
    if textures and random.random() < 0.5:
        texture = cv2.cvtColor(cv2.imread(str(textures[random.integers(len(textures))])), cv2.COLOR_BGR2RGB)
        return change(cv2.resize(texture, pixels.shape[1::-1]), random).astype(np.float32) / 255
    disordered = change((pixels * 255).astype(np.uint8), random)
    for axis in (1, 0):
        strips = np.array_split(disordered, 8, axis=axis)
        disordered = np.concatenate([strips[index] for index in random.permutation(8)], axis=axis)
    return disordered.astype(np.float32) / 255


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


def plain_unet(state: State, x, t):
    """Predict the noise of ``(B, 3, H, W)`` at one timestep, or at one for each image."""
    half = state["time_embedding.1.weight"].shape[1] // 2
    angles = np.reshape(t, (-1, 1)) * np.exp(-np.log(10_000) * np.arange(half) / half)
    sinusoids = torch.from_numpy(np.concatenate((np.sin(angles), np.cos(angles)), axis=1)).to(x)
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


def plain_segmentation(state: State, x, training=False):
    """Predict the probability of an anomaly from image and reconstruction, ``(B, 6, H, W)``."""

    def convolved(block, place, x):
        """Convolve, normalize and rectify."""
        x = F.conv2d(x, state[f"{block}.{place}.weight"], state[f"{block}.{place}.bias"], padding=1)
        norm = f"{block}.{place + 1}"
        statistics = (state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *statistics, training=training))

    kept = []
    for i in range(1, 7):
        if kept:
            x = F.max_pool2d(x, 2)
        x = convolved(f"encoder_segment.block{i}", 3, convolved(f"encoder_segment.block{i}", 0, x))
        kept.append(x)
    kept.pop()
    for name in ("_b", "1", "2", "3", "4"):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = convolved(f"decoder_segment.up{name}", 1, x)
        x = torch.cat((x, kept.pop()), dim=1)
        x = convolved(f"decoder_segment.db{name}", 3, convolved(f"decoder_segment.db{name}", 0, x))
    name = "decoder_segment.fin_out.0"
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).sigmoid()


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
