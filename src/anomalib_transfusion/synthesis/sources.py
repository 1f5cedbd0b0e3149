# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Sources of the appearance of synthetic anomalies: texture photographs, or the shuffled image itself."""

from collections import OrderedDict
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import skimage
import torch
from torch import Tensor
from torch.nn.functional import pad

from anomalib_transfusion.checks import check_arguments
from anomalib_transfusion.synthesis.augmentation import augment, send

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
TILES_PER_SIDE = 8
TextureResize = Literal["area", "bilinear"]
CACHE_BYTES = 512 * 2**20

# Photographs inside scikit-image's wheel. Brick, grass and gravel are left out: they are the demo's surfaces, and an
# anomaly must not look like what it stands out from. Drawings, text and stereo duplicates are left out as well.
PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


def read_image(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """Decode an image file with OpenCV, ignoring the EXIF orientation.

    anomalib ignores it as well, so that textures and masks fit its images.

    Args:
        path: The file.
        flags: OpenCV's reading mode.

    Returns:
        The image as OpenCV gives it, ``(H, W, 3)`` in BGR or ``(H, W)``, uint8.

    Raises:
        ValueError: If the file is no image that OpenCV can decode.
    """
    # imdecode instead of imread: imread cannot open paths with non-ASCII characters on Windows.
    encoded = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    image = cv2.imdecode(encoded, flags | cv2.IMREAD_IGNORE_ORIENTATION) if encoded.size else None
    if image is None:
        msg = f"{path} cannot be decoded as an image; it is damaged or of another format. Replace or remove the file."
        raise ValueError(msg)
    return image


def find_images(folder: Path) -> list[Path]:
    """List the image files below a folder at any depth, sorted, without those in hidden folders."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width, given one number for both or a pair."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


class TextureBank:
    """Texture photographs of one size, decoded when first drawn and cached as uint8.

    Build it with :meth:`from_folder` or :meth:`from_photographs`.

    Args:
        files: The image files; at least one.
        size: Height and width of the textures in pixels, or one number for both.
        crop: Whether a texture is a random crop of the photograph (which is enlarged where it is smaller than
            ``size``). Otherwise the whole photograph is resized to ``size``.
        cache_bytes: Size of the cache in bytes; the least recently drawn photographs are dropped first.
        resize: How photographs are downscaled: ``area`` averages, ``bilinear`` aliases, as in the published code.

    Raises:
        FileNotFoundError: If ``files`` is empty.
        ValueError: If ``resize`` is unknown.
    """

    def __init__(
        self,
        files: list[Path],
        size: int | tuple[int, int],
        *,
        crop: bool = False,
        cache_bytes: int = CACHE_BYTES,
        resize: TextureResize = "area",
    ) -> None:
        check_texture_resize(resize)
        if not files:
            msg = (
                "a TextureBank needs at least one image file, got none. Name some, or use TextureBank.from_folder or"
                " TextureBank.from_photographs."
            )
            raise FileNotFoundError(msg)
        self.files = files
        self.size = as_size(size)
        self.crop = crop
        self.cache_bytes = cache_bytes
        self.resize = resize
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached_bytes = 0

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        size: int | tuple[int, int],
        cache_bytes: int = CACHE_BYTES,
        resize: TextureResize = "area",
    ) -> "TextureBank":
        """Read textures from a folder in the layout of the Describable Textures Dataset (DTD).

        That is ``<path>/images/<class>/*.jpg``, as in DTD's archive, also below ``<path>/dtd``; images in any other
        folders below ``path`` are found as well. A photograph is resized to ``size`` as a whole.

        Args:
            path: The folder.
            size: Height and width of the textures in pixels, or one number for both.
            cache_bytes: Size of the cache in bytes.
            resize: How photographs are downscaled: ``area`` or ``bilinear``.

        Returns:
            The bank. No image is decoded yet.

        Raises:
            FileNotFoundError: If the folder does not exist or holds no image.
            ValueError: If ``resize`` is unknown.
        """
        root = Path(path).expanduser()
        wanted = (
            "Expected a folder in the layout of DTD, <folder>/images/<class>/*.jpg, or any folder of images"
            f" ({', '.join(sorted(IMAGE_SUFFIXES))}). Name such a folder, or download DTD from"
            " https://www.robots.ox.ac.uk/~vgg/data/dtd/ and extract it there."
        )
        if not root.is_dir():
            msg = f"the texture folder {root} does not exist. {wanted}"
            raise FileNotFoundError(msg)
        # DTD's archive holds labels and split lists beside the images; other layouts are searched as a whole.
        candidates = (root / "images", root / "dtd" / "images", root)
        files = next((found for folder in candidates if folder.is_dir() and (found := find_images(folder))), [])
        if not files:
            msg = f"the texture folder {root} holds no image. {wanted}"
            raise FileNotFoundError(msg)
        return cls(files, size, cache_bytes=cache_bytes, resize=resize)

    @classmethod
    def from_photographs(cls, size: int | tuple[int, int]) -> "TextureBank":
        """Take random crops of the photographs that scikit-image's wheel ships; nothing is downloaded.

        Args:
            size: Height and width of the crops in pixels, or one number for both.

        Returns:
            The bank.

        Raises:
            FileNotFoundError: If the installed scikit-image holds none of the photographs.
        """
        folder = Path(skimage.__file__).parent / "data"
        files = [folder / name for name in PHOTOGRAPHS if (folder / name).is_file()]
        if not files:
            msg = (
                f"the installed scikit-image holds none of the photographs {', '.join(PHOTOGRAPHS)} in {folder}."
                " Install scikit-image from PyPI, or pass a folder of textures."
            )
            raise FileNotFoundError(msg)
        return cls(files, size, crop=True)

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.files)

    def _load(self, index: int) -> np.ndarray:
        """Return photograph ``index`` in RGB, uint8, ``(H, W, 3)``, of the bank's size, or for crops at least that."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        image = cv2.cvtColor(read_image(self.files[index]), cv2.COLOR_BGR2RGB)
        height, width = self.size
        if self.crop:
            scale = max(height / image.shape[0], width / image.shape[1], 1.0)
            height = max(height, round(image.shape[0] * scale))
            width = max(width, round(image.shape[1] * scale))
        if image.shape[:2] != (height, width):
            averaged = self.resize == "area" and height < image.shape[0] and width < image.shape[1]
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if averaged else cv2.INTER_LINEAR)
        self._cache[index] = image
        self._cached_bytes += image.nbytes
        while self._cached_bytes > self.cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return image

    def sample(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw textures with replacement.

        Photographs and crops are drawn on the CPU from torch's global generator.

        Args:
            n: Number of textures.
            device: Device of the result.

        Returns:
            The textures, RGB, float32 in [0, 1], shape ``(n, 3, H, W)``.

        Raises:
            ValueError: If a drawn file cannot be decoded; the message names it.
        """
        height, width = self.size
        indices = torch.randint(len(self.files), (n,)).tolist()
        corners = torch.rand(n, 2, dtype=torch.float64).tolist() if self.crop else [(0.0, 0.0)] * n
        textures = np.empty((n, height, width, 3), dtype=np.uint8)
        for texture, index, (down, right) in zip(textures, indices, corners, strict=True):
            image = self._load(index)
            top = int(down * (image.shape[0] - height + 1))
            left = int(right * (image.shape[1] - width + 1))
            texture[:] = image[top : top + height, left : left + width]
        # Sent to the device as bytes, a quarter of the traffic of floats, and converted there.
        on_device = send(torch.from_numpy(textures), device)
        return on_device.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def check_texture_resize(texture_resize: TextureResize) -> None:
    """Raise ValueError, naming the value, if a way to downscale textures is unknown."""
    check_arguments(check_texture_resize, locals())


def shuffle_tiles(images: Tensor) -> Tensor:
    """Cut each image into 8 x 8 tiles and put them back in random order, each image in its own.

    Where a side is no multiple of eight, the image is extended by its last row or column to the next multiple,
    shuffled, and cut to its size again, so that every pixel belongs to a tile and all tiles have one size.

    Args:
        images: Images of shape ``(N, C, H, W)``.

    Returns:
        The shuffled images, shape ``(N, C, H, W)``.
    """
    count, channels, height, width = images.shape
    below, right = -height % TILES_PER_SIDE, -width % TILES_PER_SIDE
    if below or right:
        images = pad(images, (0, right, 0, below), mode="replicate")
    tile_height, tile_width = images.shape[-2] // TILES_PER_SIDE, images.shape[-1] // TILES_PER_SIDE
    tiles = images.reshape(count, channels, TILES_PER_SIDE, tile_height, TILES_PER_SIDE, tile_width)
    order = torch.rand(count, TILES_PER_SIDE**2, device=images.device).argsort(dim=1)
    order = order.view(count, TILES_PER_SIDE, TILES_PER_SIDE)
    sample = torch.arange(count, device=images.device).view(-1, 1, 1)
    # Row and column of tiles are indexed in place: (N, C, 8, h, 8, w) -> (N, 8, 8, C, h, w).
    tiles = tiles.permute(0, 2, 4, 1, 3, 5)[sample, order // TILES_PER_SIDE, order % TILES_PER_SIDE]
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)[..., :height, :width]


def structure_source(images: Tensor) -> Tensor:
    """Make anomaly appearances from the images themselves: augmented like textures, then shuffled in 8 x 8 tiles.

    Args:
        images: Images of shape ``(N, 3, H, W)`` in [0, 1].

    Returns:
        The appearances, shape ``(N, 3, H, W)``, in [0, 1].
    """
    return shuffle_tiles(augment(images))
