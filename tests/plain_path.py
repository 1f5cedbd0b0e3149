# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The plain path: TransFusion computed the way it was published, to hold our results and our speed against.

Everything here is as plain as the published code: eager, 32-bit, channels first, attention with its whole matrix, one
image after the other in the reverse process, and synthetic anomalies made image by image with numpy and OpenCV on the
main process. Of our network only the layers of PyTorch that hold its parameters are called, in an order of this file's
own, so that what is changed in our modules for speed does not change the reference with it.

No number of threads, memory format or precision is set here; the benchmarks and tests do that.
"""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_transfusion.models.transfusion.loss import LossTerms, Target, TransFusionLoss
from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from anomalib_transfusion.models.transfusion.training_sample import TrainingSample
from anomalib_transfusion.models.transfusion.unet import AttentionBlock, Prediction, ResidualBlock, ResUNet, UNetBlock

Array = np.ndarray


def plain_copy(model: TransFusionModel) -> TransFusionModel:
    """Copy a model with its weights, in 32 bits and channels first."""
    return copy.deepcopy(model).float().to(memory_format=torch.contiguous_format)


def plain_network(
    network: ResUNet,
    x_t: torch.Tensor,
    previous_mask: torch.Tensor,
    timestep: torch.Tensor,
) -> Prediction:
    """Predict anomaly, normal appearance and mask logits, as the forward pass of our network does."""
    inputs = [x_t]
    if network.previous_mask:
        inputs.append(previous_mask)
    if network.positional_encoding:
        rows = torch.sin(torch.arange(x_t.shape[2], dtype=torch.float32, device=x_t.device))
        inputs.append(rows.view(1, 1, -1, 1).repeat(x_t.shape[0], 1, 1, x_t.shape[3]))
    time = _embed_time(network, timestep)

    x = network.input_projection(torch.cat(inputs, dim=1))
    kept = [x]
    for level in network.encoder:
        for block in level.blocks:
            x = _unet_block(block, x, time)
            kept.append(x)
        if level.downsample is not None:
            x = level.downsample(x)
            kept.append(x)
    for block in network.middle:
        x = _unet_block(block, x, time)
    for level in network.decoder:
        for block in level.blocks:
            x = _unet_block(block, torch.cat((x, kept.pop()), dim=1), time)
        if level.upsample is not None:
            x = level.upsample(x)
    head = network.mask_head
    return Prediction(
        anomaly=network.anomaly_head(_swish(_normalized(network.output_norm, x))),
        normal=network.normal_head(x),
        mask_logits=head.conv(_swish(head.norm(x))),
    )


def _normalized(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """Normalize groups of channels by PyTorch's function, with our weights."""
    return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def _swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def _embed_time(network: ResUNet, timestep: torch.Tensor) -> torch.Tensor:
    layers = network.time_embedding
    half = layers.linear_1.in_features // 2
    rates = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(10_000) / (half - 1)))
    angles = timestep.float().view(-1, 1) * rates.view(1, -1)
    return layers.linear_2(_swish(layers.linear_1(torch.cat((torch.sin(angles), torch.cos(angles)), dim=1))))


def _unet_block(block: UNetBlock, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    x = _residual(block.residual, x, time)
    return x if isinstance(block.attention, nn.Identity) else _attention(block.attention, x)


def _residual(block: ResidualBlock, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    h = block.conv_1(_swish(_normalized(block.norm_1, x)))
    h = h + block.time_projection(time).view(h.shape[0], -1, 1, 1)
    return block.conv_2(_swish(_normalized(block.norm_2, h))) + block.shortcut(x)


def _attention(block: AttentionBlock, x: torch.Tensor) -> torch.Tensor:
    """Attend with the whole matrix of scores, ``(B, H * W, H * W)``, in memory."""
    batch, channels, height, width = x.shape
    tokens = x.reshape(batch, channels, height * width).permute(0, 2, 1)
    query, key, value = block.projection(tokens).chunk(3, dim=-1)
    scores = torch.einsum("bqc,bkc->bqk", query, key) / math.sqrt(channels)
    attended = torch.einsum("bqk,bkc->bqc", scores.softmax(dim=-1), value)
    tokens = block.output(attended) + tokens
    return tokens.permute(0, 2, 1).reshape(batch, channels, height, width)


def _next_image(
    x_t: torch.Tensor,
    mask: torch.Tensor,
    prediction: Prediction,
    beta: torch.Tensor,
    next_beta: torch.Tensor,
) -> torch.Tensor:
    """Eq. 4 with an anomaly head that predicts beta times the anomaly."""
    binary = (mask > 0.5).float().repeat(1, 3, 1, 1)
    difference = beta - next_beta
    return x_t - binary * prediction.anomaly * (difference / beta) + binary * prediction.normal * difference


@torch.no_grad()
def plain_reverse_process(
    model: TransFusionModel,
    images: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the reverse process, one image after the other.

    Args:
        model: A :func:`plain_copy` in evaluation mode.
        images: Images in [0, 1], ``(B, 3, H, W)``.

    Returns:
        Mean (or last) mask ``(B, 1, H, W)``, reconstruction in about [-1, 1] ``(B, 3, H, W)`` and anomaly map
        ``(B, 1, H, W)``.
    """
    results = [_plain_image(model, image.unsqueeze(0)) for image in images]
    masks, reconstructions, maps = zip(*results, strict=True)
    return torch.cat(masks), torch.cat(reconstructions), torch.cat(maps)


def _plain_image(model: TransFusionModel, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x_t = (image - 0.5) * 2
    mask = torch.zeros(1, 1, *image.shape[2:], device=image.device)
    masks = []
    timesteps = [*model.inference_timesteps, 0]
    for t, next_t in pairwise(timesteps):
        timestep = torch.tensor([t], device=image.device)
        prediction = plain_network(model.network, x_t, (mask > 0.5).float(), timestep)
        mask = torch.sigmoid(prediction.mask_logits)
        masks.append(mask)
        x_t = _next_image(x_t, mask, prediction, model.beta[t], model.beta[next_t])
    if model.mask_aggregation == "mean":
        mask = torch.stack(masks).sum(dim=0) / (model.mask_divisor or len(masks))
    error = ((image - (x_t / 2 + 0.5).clamp(0, 1)) ** 2).mean(dim=1, keepdim=True)
    combined = model.discriminative_weight * mask + (1 - model.discriminative_weight) * error
    side = model.filter_size
    box = torch.full((1, 1, side, side), 1 / side**2, device=image.device)
    return mask, x_t, F.conv2d(combined, box, padding=side // 2)


def plain_training_step(model: TransFusionModel, loss: TransFusionLoss, sample: TrainingSample) -> LossTerms:
    """Compute the loss of a batch; its gradient and the optimizer's step are the caller's.

    Args:
        model: A :func:`plain_copy` in training mode.
        loss: The loss.
        sample: What :func:`plain_synthesis` or our sampler has made.

    Returns:
        The loss and its terms.
    """
    prediction = plain_network(model.network, sample.x_t, sample.previous_mask, sample.timestep)
    beta, next_beta = (model.beta[sample.timestep - back].view(-1, 1, 1, 1) for back in (0, 1))
    return loss(prediction, sample.target, sample.x_t, beta, next_beta)


def plain_synthesis(
    images: torch.Tensor,
    beta: torch.Tensor,
    textures: Sequence[Path],
    random: np.random.Generator,
    rotation_probability: float = 0.3,
) -> TrainingSample:
    """Make training samples image by image on the main process; the first half of the batch gets anomalies.

    Args:
        images: Normal images in [0, 1], ``(B, 3, H, W)``.
        beta: Transparency schedule, ``(T,)``.
        textures: Image files, read anew each time.
        random: The random numbers.
        rotation_probability: Share of the samples that are rotated by up to 20 degrees.

    Returns:
        The samples, on the device of the images.
    """
    schedule = beta.cpu().numpy()
    rows = []
    for index, image in enumerate(images):
        pixels = image.permute(1, 2, 0).cpu().numpy()
        anomalous = index < max(1, len(images) // 2)
        rows.append(_plain_sample(pixels, anomalous, schedule, textures, random, rotation_probability))
    names = ("x_t", "previous_mask", "normal", "anomaly", "mask")
    stacked = {name: np.stack([row[name] for row in rows]).transpose(0, 3, 1, 2) for name in names}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)).to(images.device) for name, value in stacked.items()}
    timestep = torch.tensor([row["timestep"] for row in rows], device=images.device)
    target = Target(tensors["normal"], tensors["anomaly"], tensors["mask"])
    return TrainingSample(tensors["x_t"], tensors["previous_mask"], timestep, target)


def _plain_sample(
    pixels: Array,
    anomalous: bool,
    schedule: Array,
    textures: Sequence[Path],
    random: np.random.Generator,
    rotation_probability: float,
) -> dict[str, Array]:
    """Make one sample of an image ``(H, W, 3)`` in [0, 1]; every part is ``(H, W, channels)``."""
    height, width = pixels.shape[:2]
    timestep = int(random.integers(1, len(schedule)))
    normal = (pixels * 2 - 1).astype(np.float32)
    mask = previous = np.zeros((height, width, 1), np.float32)
    anomaly = np.zeros_like(normal)
    if anomalous:
        noise = rotate(plain_noise((height, width), random), random.uniform(-90, 90), cv2.INTER_LINEAR)
        mask = (np.abs(noise) > 0.5).astype(np.float32)[..., None]
        limit = (noise.max(), random.uniform(0.5, 1), 0.5, random.uniform(0, 0.5))[random.integers(4)]
        previous = (np.abs(noise) > limit).astype(np.float32)[..., None]
        anomaly = mask * _plain_appearance(pixels, textures, random)
    if timestep == len(schedule) - 1:
        previous = np.zeros_like(previous)
    beta = schedule[timestep]
    x_t = (1 - mask) * normal + (1 - beta) * mask * normal + beta * mask * anomaly
    parts = {"x_t": x_t, "previous_mask": previous, "normal": normal, "anomaly": anomaly, "mask": mask}
    if random.random() < rotation_probability:
        angle = random.uniform(-20, 20)
        parts = {
            name: rotate(part, angle, cv2.INTER_NEAREST).reshape(part.shape).astype(np.float32)
            for name, part in parts.items()
        }
    return {**{name: part.astype(np.float32) for name, part in parts.items()}, "timestep": np.int64(timestep)}


def plain_noise(size: tuple[int, int], random: np.random.Generator, cells: Array | None = None) -> Array:
    """Draw Perlin's noise ``(H, W)`` corner by corner, with these cells an axis or with 1 to 32."""
    cells = 2 ** random.integers(0, 6, 2) if cells is None else cells
    direction = random.uniform(0, 2 * np.pi, cells + 1)
    place = [np.arange(length) * count / length for length, count in zip(size, cells, strict=True)]
    row, column = (axis.astype(int) for axis in place)
    down, right = (place[0] - row)[:, None], (place[1] - column)[None, :]

    def corner(below: int, beside: int) -> Array:
        angle = direction[(row + below)[:, None], (column + beside)[None, :]]
        return np.cos(angle) * (down - below) + np.sin(angle) * (right - beside)

    fade_down, fade_right = (t**3 * (t * (6 * t - 15) + 10) for t in (down, right))
    above = corner(0, 0) * (1 - fade_right) + corner(0, 1) * fade_right
    below = corner(1, 0) * (1 - fade_right) + corner(1, 1) * fade_right
    return (math.sqrt(2) * (above * (1 - fade_down) + below * fade_down)).astype(np.float32)


def rotate(image: Array, degrees: float, interpolation: int) -> Array:
    """Rotate an image ``(H, W)`` or ``(H, W, channels)`` about its center; outside is 0."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height), flags=interpolation)


def _plain_appearance(pixels: Array, textures: Sequence[Path], random: np.random.Generator) -> Array:
    """Draw an appearance in [-1, 1], half of the time from a texture and half from the image in disorder."""
    if textures and random.random() < 0.5:
        file = textures[random.integers(len(textures))]
        texture = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        appearance = change(cv2.resize(texture, pixels.shape[1::-1]), random)
    else:
        changed = change((pixels * 255).astype(np.uint8), random)
        tiles = [tile for band in np.array_split(changed, 8) for tile in np.array_split(band, 8, axis=1)]
        order = random.permutation(64)
        size = pixels.shape[1] // 8, pixels.shape[0] // 8
        shuffled = [cv2.resize(tiles[index], size, interpolation=cv2.INTER_NEAREST) for index in order]
        bands = [np.concatenate(shuffled[start : start + 8], axis=1) for start in range(0, 64, 8)]
        appearance = cv2.resize(np.concatenate(bands), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return appearance.astype(np.float32) / 127.5 - 1


def change(image: Array, random: np.random.Generator) -> Array:
    """Change an image of bytes by three of ten changes."""
    for index in random.permutation(len(_CHANGES))[:3]:
        image = _CHANGES[index](image, random)
    return image


def _bytes(values: Array) -> Array:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _gamma(image: Array, random: np.random.Generator) -> Array:
    levels = np.arange(256) / 255
    tables = [_bytes(255 * levels ** random.uniform(0.5, 2)) for _ in range(3)]
    return cv2.merge([cv2.LUT(channel, table) for channel, table in zip(cv2.split(image), tables, strict=True)])


def _brightness(image: Array, random: np.random.Generator) -> Array:
    luma, *rest = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
    luma = _bytes(luma * random.uniform(0.8, 1.2) + random.uniform(-30, 30))
    return cv2.cvtColor(cv2.merge([luma, *rest]), cv2.COLOR_YCrCb2RGB)


def _sharpness(image: Array, random: np.random.Generator) -> Array:
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    smooth = cv2.filter2D(image, -1, kernel / 13)
    factor = random.uniform(0, 2)  # the default of imgaug 0.4.0's pillike.EnhanceSharpness, which the authors call bare
    return cv2.addWeighted(image, factor, smooth, 1 - factor, 0)


def _hue_and_saturation(image: Array, random: np.random.Generator) -> Array:
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
    hue = ((hue.astype(int) + random.integers(-50, 51)) % 256).astype(np.uint8)
    saturation = _bytes(saturation.astype(int) + random.integers(-50, 51))
    return cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB_FULL)


def _solarize(image: Array, random: np.random.Generator) -> Array:
    if random.random() < 0.5:
        return image
    return np.where(image >= random.uniform(32, 128), 255 - image, image)


def _posterize(image: Array, random: np.random.Generator) -> Array:
    return image & np.uint8(256 - 2 ** random.integers(0, 8))


def _invert(image: Array, random: np.random.Generator) -> Array:
    del random
    return 255 - image


def _autocontrast(image: Array, random: np.random.Generator) -> Array:
    cutoff = random.integers(0, 21)
    low, high = np.percentile(image, (cutoff, 100 - cutoff), axis=(0, 1))
    return _bytes((image - low) * (255 / np.maximum(high - low, 1)))


def _equalize(image: Array, random: np.random.Generator) -> Array:
    del random
    return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)])


def _turn(image: Array, random: np.random.Generator) -> Array:
    return rotate(image, random.uniform(-45, 45), cv2.INTER_LINEAR)


_CHANGES: tuple[Callable[[Array, np.random.Generator], Array], ...] = (
    _gamma,
    _brightness,
    _sharpness,
    _hue_and_saturation,
    _solarize,
    _posterize,
    _invert,
    _autocontrast,
    _equalize,
    _turn,
)
