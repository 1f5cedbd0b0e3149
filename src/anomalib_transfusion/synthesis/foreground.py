# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Foreground masks, in which anomalies may be: estimated from images, or read from files."""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from anomalib_transfusion.alignment import check_upright, cover_each_other, orientation_of
from anomalib_transfusion.synthesis.augmentation import send
from anomalib_transfusion.synthesis.sources import CACHE_BYTES, IMAGE_SUFFIXES, as_size, find_images, read_image

DILATION = 5
HALF = 127
MASK_SUFFIX = "_mask"

# Otsu's separability is the share of the variance that lies between the two classes. It is 0.64 for a Gaussian and
# 0.75 for a uniform distribution, which have no two classes; an object on a plain background comes near one.
_MIN_SEPARABILITY = 0.8
_MIN_AREA = 0.01
_MAX_AREA = 0.95
# The border shows background where an object stands free; a texture's border falls into both classes.
_MAX_BORDER_SHARE = 0.4
# Distance between the classes' mean colors, in units of the range: below it there is only noise to separate.
_MIN_CONTRAST = 0.05
_LEVELS = 256
_COARSE_SIDE = 128


def _border(images: Tensor) -> Tensor:
    """Return the pixels of a frame along the border, a thirty-second of the shorter side wide, shape ``(B, C, P)``."""
    width = max(1, min(images.shape[-2:]) // 32)
    sides = (
        images[..., :width, :],
        images[..., -width:, :],
        images[..., width:-width, :width],
        images[..., width:-width, -width:],
    )
    return torch.cat([side.flatten(2) for side in sides], dim=2)


def _otsu(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute Otsu's threshold of each row of values in [0, 1].

    Args:
        values: Values of shape ``(B, P)``.

    Returns:
        Threshold, separability (variance between the classes over the whole variance, in [0, 1]) and distance of
        the classes' means, each of shape ``(B,)``. Values above the threshold are the upper class.
    """
    levels = (values * (_LEVELS - 1)).round().long()
    histogram = torch.zeros(len(values), _LEVELS, dtype=torch.long, device=values.device)
    share = histogram.scatter_add_(1, levels, torch.ones_like(levels)).float() / values.shape[1]
    level = torch.arange(_LEVELS, device=values.device) / (_LEVELS - 1)
    lower = share.cumsum(1)
    moment = (share * level).cumsum(1)
    mean = moment[:, -1:]
    spread = (lower * (1 - lower)).clamp(min=1e-12)
    between = (mean * lower - moment).square() / spread
    best = between.argmax(dim=1, keepdim=True)
    variance = (share * (level - mean).square()).sum(1).clamp(min=1e-12)
    separability = between.gather(1, best).squeeze(1) / variance
    distance = (between.gather(1, best) / spread.gather(1, best)).sqrt().squeeze(1)
    return ((best.squeeze(1) + 0.5) / (_LEVELS - 1)).to(values.dtype), separability, distance


def _dilate(masks: Tensor, size: int) -> Tensor:
    # A square maximum is a maximum of rows, then of columns: 2 k instead of k^2 comparisons.
    rows = max_pool2d(masks, (size, 1), stride=1, padding=(size // 2, 0))
    return max_pool2d(rows, (1, size), stride=1, padding=(0, size // 2))


def _erode(masks: Tensor, size: int) -> Tensor:
    return 1 - _dilate(1 - masks, size)


def estimate_foreground(images: Tensor) -> Tensor:
    """Estimate the mask of the object in images of objects on a plain background.

    The distance of each pixel's color to the median color of the image's border is split by Otsu's threshold,
    image by image. Specks are removed, holes up to about a sixteenth of the shorter side closed, and the mask grows by
    two pixels (5 x 5) so that it covers the object's edge. An image in which no background can be found (such as a
    texture that fills the frame) is foreground as a whole. Images of
    256 pixels and more are averaged over blocks first: coarse shapes are enough.

    Args:
        images: Images of shape ``(B, 3, H, W)`` in [0, 1].

    Returns:
        The foreground, 0 or 1, shape ``(B, 1, H, W)``, in the type of ``images``.
    """
    height, width = images.shape[-2:]
    block = max(1, min(height, width) // _COARSE_SIDE)
    with torch.autocast(images.device.type, enabled=False):
        pixels = avg_pool2d(images.float(), block, ceil_mode=True)
        background = _border(pixels).median(dim=2).values[:, :, None, None]
        # The root mean square over the channels keeps the distance in [0, 1]; averaging removes the sensor's noise.
        distance = (pixels - background).square().mean(dim=1, keepdim=True).sqrt()
        distance = avg_pool2d(distance, 3, stride=1, padding=1, count_include_pad=False)
        threshold, separability, contrast = _otsu(distance.flatten(1))
        mask = (distance > threshold.view(-1, 1, 1, 1)).float()
        border_share = _border(mask).mean(dim=(1, 2))
        hole = 2 * (min(pixels.shape[-2:]) // 32) + 1
        mask = _dilate(_erode(mask, 3), 3)
        mask = _erode(_dilate(mask, hole), hole)
        mask = mask.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :height, :width]
        mask = _dilate(mask, DILATION)
        area = mask.mean(dim=(1, 2, 3))
        found = (
            (separability >= _MIN_SEPARABILITY)
            & (contrast >= _MIN_CONTRAST)
            & (border_share <= _MAX_BORDER_SHARE)
            & (area >= _MIN_AREA)
            & (area <= _MAX_AREA)
        )
        return torch.where(found.view(-1, 1, 1, 1), mask, 1.0).to(images.dtype)


class ForegroundMasks:
    """Foreground masks from files, found by the images' names.

    An image ``<stem>.<any suffix>`` has the mask ``<stem>.<image suffix>`` or ``<stem>_mask.<image suffix>`` anywhere
    below the folder. If several folders have such a mask, that in the folder named like the image's is taken. Masks
    are read as gray, resized, binarized at one half and dilated by 5 x 5, as in the published implementation of
    TransFusion. Soft masks are only read and resized, as in that of DiffusionAD.

    Args:
        folder: The folder, for messages.
        files: The mask files; at least one.
        size: Height and width of the masks in pixels, or one number for both.
        cache_bytes: Size of the cache of masks in bytes.
        soft: Whether masks keep the values between 0 and 1 that they have at the border of an object.
    """

    def __init__(
        self,
        folder: Path,
        files: list[Path],
        size: int | tuple[int, int],
        cache_bytes: int = CACHE_BYTES,
        *,
        soft: bool = False,
    ) -> None:
        self.folder = folder
        self.size = as_size(size)
        self.soft = soft
        self._by_stem: dict[str, list[Path]] = {}
        for file in files:
            self._by_stem.setdefault(file.stem.removesuffix(MASK_SUFFIX), []).append(file)
        self._cache: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._capacity = max(1, cache_bytes // (self.size[0] * self.size[1]))

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        size: int | tuple[int, int],
        *,
        soft: bool = False,
    ) -> "ForegroundMasks":
        """Find the masks below a folder; none is read yet.

        Args:
            path: The folder.
            size: Height and width of the masks in pixels, or one number for both.
            soft: Whether masks keep values between 0 and 1.

        Returns:
            The masks.

        Raises:
            FileNotFoundError: If the folder does not exist or holds no image.
        """
        root = Path(path).expanduser()
        files = find_images(root) if root.is_dir() else []
        if not files:
            problem = "holds no image" if root.is_dir() else "does not exist"
            msg = (
                f"the foreground mask folder {root} {problem}. Expected a mask for each training image, named"
                f" <stem of the image>.png or <stem of the image>{MASK_SUFFIX}.png. Name such a folder, or estimate"
                " the foreground or go without."
            )
            raise FileNotFoundError(msg)
        return cls(root, files, size, soft=soft)

    def _find(self, image_path: Path) -> Path:
        """Return the mask file of an image."""
        # A mask of an image 000_mask.png is filed under 000.
        found = self._by_stem.get(image_path.stem.removesuffix(MASK_SUFFIX), [])
        if len(found) > 1:
            found = [file for file in found if file.parent.name == image_path.parent.name] or found
        if len(found) == 1:
            return found[0]
        names = f"{image_path.stem} or {image_path.stem}{MASK_SUFFIX} with one of {', '.join(sorted(IMAGE_SUFFIXES))}"
        if not found:
            msg = (
                f"no foreground mask for {image_path}: searched below {self.folder} for {names}. Add the mask, or"
                " estimate the foreground or go without."
            )
            raise FileNotFoundError(msg)
        msg = (
            f"{len(found)} foreground masks for {image_path}: {', '.join(map(str, found))}. Keep one, or put it into"
            f" a folder named {image_path.parent.name}."
        )
        raise ValueError(msg)

    def _load(self, image_path: Path) -> np.ndarray:
        """Read the mask of an image, ``(H, W)``, uint8: 0 or 1, or up to 255 if masks are soft."""
        file = self._find(image_path)
        if file in self._cache:
            self._cache.move_to_end(file)
            return self._cache[file]
        stored = read_image(file, cv2.IMREAD_GRAYSCALE)
        with Image.open(file) as head:
            check_upright(orientation_of(head), file, "foreground mask")
        if stored.max() <= (0 if self.soft else HALF):
            msg = (
                f"The foreground mask {file} marks nothing: its values are {stored.min()} to {stored.max()}, and "
                f"expected are some above {0 if self.soft else HALF}, on the object. Save it with 255 there and 0 "
                "elsewhere, or estimate the foreground or go without."
            )
            raise ValueError(msg)
        mask = cv2.resize(stored, (self.size[1], self.size[0]))
        if not self.soft:
            mask = cv2.dilate((mask > HALF).astype(np.uint8), np.ones((DILATION, DILATION), np.uint8))
        self._cache[file] = mask
        if len(self._cache) > self._capacity:
            self._cache.popitem(last=False)
        return mask

    def check(self, image_paths: Iterable[str]) -> None:
        """Read the masks of images beforehand, keep as many as fit into the cache, and compare their sizes.

        Args:
            image_paths: Files of the images.

        Raises:
            FileNotFoundError: If an image has no mask.
            ValueError: If an image has more than one, or a mask cannot be decoded, marks nothing, is to be turned by
                EXIF, or has another aspect ratio than its image.
        """
        for path in map(Path, image_paths):
            self._load(path)
            file = self._find(path)
            with Image.open(path) as image, Image.open(file) as mask:
                size, other = image.size, mask.size
            if not cover_each_other(size, other):
                msg = (
                    f"The foreground mask {file} has {other[0]}x{other[1]} pixels (width x height), but its image "
                    f"{path} has {size[0]}x{size[1]}: they do not cover each other. Replace the mask by one of the "
                    "image's size; where one of them is a turned photograph, turn the mask."
                )
                raise ValueError(msg)

    def lookup(self, image_paths: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Read the masks of a batch of images.

        Args:
            image_paths: Paths of the images, of which only the names of file and folder matter.
            device: Device of the result.

        Returns:
            The masks, 0 or 1, or in [0, 1] if they are soft, float32, shape ``(B, 1, H, W)``.

        Raises:
            FileNotFoundError: If an image has no mask.
            ValueError: If an image has more than one, or a mask cannot be decoded, marks nothing or is to be
                turned by EXIF.
        """
        masks = np.stack([self._load(Path(path)) for path in image_paths])
        return send(torch.from_numpy(masks), device).unsqueeze(1).float() / (255 if self.soft else 1)
