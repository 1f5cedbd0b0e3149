# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Ten batched augmentations of color and geometry for the anomaly's appearance, each image with its own strength.

Every augmentation maps images ``(N, 3, H, W)`` in [0, 1] to images of the same shape and range; strengths have the
shape ``(N,)`` unless stated otherwise. The ranges in :func:`augment` are those of the published implementation.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from anomalib_transfusion.synthesis.geometry import rotate

CHANGES_PER_IMAGE = 3
_LEVELS = 256


def send(values: Tensor, device: torch.device | str) -> Tensor:
    """Copy a CPU tensor to a device without making the host wait for it."""
    device = torch.device(device)
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _per_image(strength: Tensor) -> Tensor:
    return strength.view(-1, 1, 1, 1)


def gamma_contrast(images: Tensor, gamma: Tensor) -> Tensor:
    """Raise each channel to its own power; ``gamma`` has the shape ``(N, 3)``."""
    return images.pow(gamma[:, :, None, None])


def multiply_and_add_to_brightness(images: Tensor, multiply: Tensor, add: Tensor) -> Tensor:
    """Multiply the luma and add to it (``add`` in units of the range), while the color difference stays."""
    luma = tv.rgb_to_grayscale(images)
    return (images + luma * _per_image(multiply - 1) + _per_image(add)).clamp_(0, 1)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the smoothed image: 0 gives the smoothed one, 1 the original, more sharpens.

    As PIL's ``ImageEnhance.Sharpness``: neighbors weigh 1, the pixel itself 5, the outermost pixels stay. Sums of
    shifted slices take a quarter of the time of torchvision's convolution on a CPU, and allow one factor per image.
    """
    columns = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    neighborhood = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]
    center = images[..., 1:-1, 1:-1]
    smooth = neighborhood.add_(center, alpha=4).div_(13)
    result = images.clone()
    result[..., 1:-1, 1:-1] = torch.lerp(smooth, center, _per_image(factor)).clamp_(0, 1)
    return result


def hue_and_saturation(images: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """Rotate the hue by a fraction of the whole circle and add to the saturation, which is clipped to [0, 1].

    Hue, saturation and value as in HSV. Written out because kornia's conversions there and back take several times
    as long on a CPU, and the way back from HSV is one formula for all three channels.
    """
    red, green, blue = images.unbind(dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    # The sextant in which the hue lies follows from the largest channel; gray has hue zero.
    sextants = torch.where(green == value, (blue - red).div_(divisor).add_(2), (red - green).div_(divisor).add_(4))
    sextants = torch.where(red == value, (green - blue).div_(divisor), sextants)
    saturated = (chroma / value.clamp(min=1e-8)).add_(saturation.view(-1, 1, 1)).clamp_(0, 1)
    # A channel is at the value within one sextant of its own hue (red 0, green 2, blue 4) and falls to its lowest at
    # two, along a straight line.
    own = torch.tensor((0.0, 2.0, 4.0)).to(images.dtype)
    offset = _per_image(6 * hue) - send(own, images.device).view(1, 3, 1, 1)
    turn = sextants.unsqueeze(1).add(offset).div_(6)
    away = turn.sub_(turn.round()).abs_().mul_(6)
    return value.unsqueeze(1) * (1 - saturated.unsqueeze(1) * away.sub_(1).clamp_(0, 1))


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values at or above the threshold; a threshold above 1 changes nothing."""
    return torch.where(images >= _per_image(threshold), 1 - images, images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` (1 to 8) bits of the 8-bit value."""
    step = _per_image(2.0 ** (8 - bits))
    return (images * (_LEVELS - 1)).round_().div_(step).floor_().mul_(step).div_(_LEVELS - 1)


def invert(images: Tensor) -> Tensor:
    """Swap dark and bright, channel by channel."""
    return 1 - images


def _quantize(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return 8-bit levels of shape ``(N, 3, H * W)`` and their histograms of shape ``(N, 3, 256)``."""
    levels = (images * (_LEVELS - 1)).round_().long().flatten(2)
    histogram = torch.zeros(*levels.shape[:2], _LEVELS, dtype=torch.long, device=images.device)
    one = torch.ones((), dtype=torch.long, device=images.device)
    return levels, histogram.scatter_add_(2, levels, one.expand_as(levels))


def autocontrast(images: Tensor, cutoff: Tensor) -> Tensor:
    """Stretch each channel to the full range after cutting off ``cutoff`` percent of its pixels at either end.

    As PIL's ``ImageOps.autocontrast``: a channel of one level stays as it is.
    """
    _, histogram = _quantize(images)
    pixels = images.shape[-2] * images.shape[-1]
    cut = (cutoff * pixels / 100).floor().view(-1, 1, 1)
    low = (histogram.cumsum(2) <= cut).sum(2)
    high = _LEVELS - 1 - (histogram.flip(2).cumsum(2) <= cut).sum(2)
    flat = high <= low
    scale = torch.where(flat, 1.0, (_LEVELS - 1) / (high - low).clamp(min=1))
    offset = torch.where(flat, 0.0, -low * scale / (_LEVELS - 1))
    return (images * scale[:, :, None, None] + offset[:, :, None, None]).clamp_(0, 1)


def equalize(images: Tensor) -> Tensor:
    """Spread each channel's 8-bit histogram evenly over the range, with the integer rule of PIL's ``equalize``."""
    levels, histogram = _quantize(images)
    cumulative = histogram.cumsum(2)
    # The pixels of the brightest level that occurs do not count: the level before them must reach the top.
    total = cumulative[..., -1:]
    brightest = histogram.gather(2, (cumulative < total).sum(2, keepdim=True))
    step = (total - brightest) // (_LEVELS - 1)
    table = ((cumulative - histogram + step // 2) // step.clamp(min=1)).clamp(max=_LEVELS - 1)
    table = torch.where(step == 0, torch.arange(_LEVELS, device=images.device), table)
    return (table.to(images.dtype) / (_LEVELS - 1)).gather(2, levels).view_as(images)


def _uniform(images: Tensor, low: float, high: float, *shape: int) -> Tensor:
    return torch.empty(len(images), *shape, device=images.device, dtype=images.dtype).uniform_(low, high)


def _random_gamma(images: Tensor) -> Tensor:
    return gamma_contrast(images, _uniform(images, 0.5, 2.0, 3))


def _random_brightness(images: Tensor) -> Tensor:
    add = _uniform(images, -30 / 255, 30 / 255)
    return multiply_and_add_to_brightness(images, _uniform(images, 0.8, 1.2), add)


def _random_sharpness(images: Tensor) -> Tensor:
    return sharpness(images, _uniform(images, 0.0, 2.0))


def _random_hue_and_saturation(images: Tensor) -> Tensor:
    hue = _uniform(images, -50 / 255, 50 / 255)
    return hue_and_saturation(images, hue, _uniform(images, -50 / 255, 50 / 255))


def _random_solarize(images: Tensor) -> Tensor:
    threshold = _uniform(images, 32 / 255, 128 / 255)
    return solarize(images, torch.where(_uniform(images, 0, 1) < 0.5, threshold, 2.0))


def _random_posterize(images: Tensor) -> Tensor:
    return posterize(images, torch.randint(1, 9, (len(images),), device=images.device))


def _random_autocontrast(images: Tensor) -> Tensor:
    return autocontrast(images, torch.randint(0, 21, (len(images),), device=images.device))


def _random_rotation(images: Tensor) -> Tensor:
    return rotate(images, _uniform(images, -45.0, 45.0))


CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (
    _random_gamma,
    _random_brightness,
    _random_sharpness,
    _random_hue_and_saturation,
    _random_solarize,
    _random_posterize,
    invert,
    _random_autocontrast,
    equalize,
    _random_rotation,
)


def augment(images: Tensor) -> Tensor:
    """Apply three different augmentations to each image, in random order and with random strengths.

    The augmentations of each image are drawn on the CPU, so that the host can group the images and run each
    augmentation once in each of the three stages. The strengths are drawn on the images' device.

    Args:
        images: Images of shape ``(N, 3, H, W)`` in [0, 1].

    Returns:
        The changed images, shape ``(N, 3, H, W)``, in [0, 1].
    """
    return torch.cat(augment_each(list(images.split(1))))


def augment_each(images: list[Tensor]) -> list[Tensor]:
    """Apply :func:`augment` to images in a list, before they are concatenated.

    Args:
        images: ``N`` images of shape ``(1, 3, H, W)`` in [0, 1]. They are not written to.

    Returns:
        The changed images, each of shape ``(1, 3, H, W)``, in [0, 1].
    """
    drawn = torch.rand(len(images), len(CHANGES)).argsort(dim=1)[:, :CHANGES_PER_IMAGE]
    parts = list(images)
    for stage in drawn.unbind(dim=1):
        groups: dict[int, list[int]] = {}
        for image, change in enumerate(stage.tolist()):
            groups.setdefault(change, []).append(image)
        for change in sorted(groups):
            members = groups[change]
            together = parts[members[0]] if len(members) == 1 else torch.cat([parts[image] for image in members])
            for image, changed in zip(members, CHANGES[change](together).split(1), strict=True):
                parts[image] = changed
    return parts
