# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""A small surface inspection data set that needs no download.

The surfaces are photographs of bricks, gravel and grass that scikit-image ships (512 by 512 pixels, gray, CC0). Crops
for training are cut from the left and the right of a photograph, crops for testing from the middle, so that no pixel is
in both. The defects of the test images are drawn by :mod:`anomalib_transfusion.data.demo_defects`.

The folders follow MVTec AD::

    DemoSurface/
    └── brick/
        ├── train/good/000.png ...
        ├── test/good/000.png ...
        ├── test/crack/000.png ...           (also displaced, hole, scratch, stain)
        ├── ground_truth/crack/000_mask.png ...
        └── demo_surface.json                (the parameters, and the place of each crop in the photograph)
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from numpy.typing import NDArray
from torchvision.transforms.v2 import Transform

from .demo_defects import DEFECTS

__all__ = ["CATEGORIES", "TEST_COLUMNS", "DemoSurface", "photograph"]

logger = logging.getLogger(__name__)

CATEGORIES = ("brick", "gravel", "grass")

#: First column of the test crops, and the column after the last. They are in the middle because of the perspective of
#: the bricks, whose slant there is between the slants to the left and to the right.
TEST_COLUMNS = (176, 336)

_MIN_SIDE, _MAX_HEIGHT, _MAX_WIDTH = 64, 512, TEST_COLUMNS[1] - TEST_COLUMNS[0]
_MANIFEST = "demo_surface.json"
#: Incremented when the images change, so that folders of an older version are replaced.
_FORMAT = 1


class DemoSurface(AnomalibDataModule):
    """Surface inspection data that is generated locally, for demonstrations and tests.

    The images are deterministic: the same parameters give the same images, whatever the random state. They are made by
    :meth:`prepare_data` on first use. A folder made with other parameters is made anew.

    Args:
        root (Path | str | None): Folder that holds a folder for each category; it is created. ``None`` stands for
            anomalib's cache folder.
            Defaults to ``"./datasets/DemoSurface"``.
        category (str): Surface: ``"brick"``, ``"gravel"`` or ``"grass"``.
            Defaults to ``"brick"``.
        train_batch_size (int, optional): Training batch size.
            Defaults to ``8``.
        eval_batch_size (int, optional): Test batch size.
            Defaults to ``8``.
        num_workers (int, optional): Number of workers.
            Defaults to ``2``.
        train_augmentations (Transform | None): Augmentations to apply to the training images.
            Defaults to ``None``.
        val_augmentations (Transform | None): Augmentations to apply to the validation images.
            Defaults to ``None``.
        test_augmentations (Transform | None): Augmentations to apply to the test images.
            Defaults to ``None``.
        augmentations (Transform | None): General augmentations to apply if stage-specific
            augmentations are not provided.
            Defaults to ``None``.
        test_split_mode (TestSplitMode): Method to create test set.
            Defaults to ``TestSplitMode.FROM_DIR``.
        test_split_ratio (float): Fraction of data to use for testing.
            Defaults to ``0.2``.
        val_split_mode (ValSplitMode): Method to create validation set.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float): Fraction of data to use for validation.
            Defaults to ``0.5``.
        seed (int | None, optional): Seed of the splits. The images do not depend on it.
            Defaults to ``None``.
        image_size (int | tuple[int, int], optional): Side of the crops in pixels, or their height (64 to 512) and
            width (64 to 160).
            Defaults to ``128``.
        num_train_images (int, optional): Number of training images.
            Defaults to ``160``.
        num_test_images (int, optional): Number of test images without a defect.
            Defaults to ``30``.
        num_defect_images (int, optional): Number of test images of each of the five kinds of defect.
            Defaults to ``10``.

    Raises:
        ValueError: If the category is unknown, the image size out of range or a number of images below 1.

    Example:
        Create the data and look at a batch::

            >>> from anomalib.data import DemoSurface
            >>> datamodule = DemoSurface(category="gravel")
            >>> datamodule.prepare_data()
            >>> datamodule.setup()
            >>> batch = next(iter(datamodule.train_dataloader()))
            >>> batch.image.shape
            torch.Size([8, 3, 128, 128])

        On the command line::

            anomalib train --model TransFusion --data DemoSurface --data.category gravel
    """

    def __init__(
        self,
        root: Path | str | None = "./datasets/DemoSurface",
        category: str = "brick",
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 2,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
        image_size: int | tuple[int, int] = 128,
        num_train_images: int = 160,
        num_test_images: int = 30,
        num_defect_images: int = 10,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        if category not in CATEGORIES:
            msg = f"DemoSurface has no category {category!r}. Choose one of {', '.join(CATEGORIES)}."
            raise ValueError(msg)
        self.root = resolve_dataset_root(root, "DemoSurface")
        self.category = category
        self.image_size = _checked_size(image_size)
        self.num_train_images = _checked_number("num_train_images", num_train_images)
        self.num_test_images = _checked_number("num_test_images", num_test_images)
        self.num_defect_images = _checked_number("num_defect_images", num_defect_images)

    def prepare_data(self) -> None:
        """Make the images of the category if they are not there yet.

        They are written into a temporary folder beside the final one, which is renamed at the end: an interrupted run
        leaves no half-made data set. A complete folder that was made with the same parameters is kept; one with other
        parameters or missing files is made anew.

        Raises:
            FileExistsError: If the folder of the category was not made by DemoSurface. It is never touched.
        """
        folder = self.root / self.category
        if self._is_complete(folder):
            logger.info("Found the images of DemoSurface in %s.", folder)
            return
        if folder.exists() and not (folder / _MANIFEST).is_file():
            msg = (
                f"The folder {folder} was not made by DemoSurface (it has no {_MANIFEST}), so it is left as it is. "
                "Pass another folder as root (--data.root), or move this one away."
            )
            raise FileExistsError(msg)
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root, prefix=f".{self.category}-") as temporary:
            made = Path(temporary) / "made"
            self._make(made)
            if folder.exists():
                logger.warning("The images in %s are incomplete or of other parameters: they are made anew.", folder)
                folder.rename(Path(temporary) / "replaced")
            try:
                made.rename(folder)
            except OSError:
                # Another process was faster; its images are the same.
                if not self._is_complete(folder):
                    raise
        logger.info("Made the images of DemoSurface in %s.", folder)

    def _setup(self, _stage: str | None = None) -> None:
        """Set up the training and the test set from the folder of the category.

        Raises:
            RuntimeError: If there are no images: :meth:`prepare_data` makes them.
        """
        if not self._is_complete(self.root / self.category):
            msg = (
                f"The folder {self.root / self.category} does not hold the images of these parameters. "
                "Call prepare_data() before setup(); the Engine does so by itself."
            )
            raise RuntimeError(msg)
        self.train_data = MVTecADDataset(split=Split.TRAIN, root=self.root, category=self.category)
        self.test_data = MVTecADDataset(split=Split.TEST, root=self.root, category=self.category)

    @property
    def _parameters(self) -> dict[str, Any]:
        """Parameters that the images depend on, as in the manifest."""
        return {
            "format": _FORMAT,
            "category": self.category,
            "image_size": list(self.image_size),
            "num_train_images": self.num_train_images,
            "num_test_images": self.num_test_images,
            "num_defect_images": self.num_defect_images,
        }

    def _is_complete(self, folder: Path) -> bool:
        """Tell whether a folder holds all images of these parameters."""
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if manifest.get("parameters") != self._parameters:
            return False
        return all(
            (folder / name).is_file() for name in (*manifest["crops"], *map(_mask_name, manifest["crops"])) if name
        )

    def _make(self, folder: Path) -> None:
        """Write the images, masks and the manifest of the category into a new folder."""
        surface = photograph(self.category)
        counts = {"train/good": self.num_train_images, "test/good": self.num_test_images}
        counts |= {f"test/{kind}": self.num_defect_images for kind in DEFECTS}
        crops: dict[str, list[int]] = {}
        for number, (place, count) in enumerate(counts.items()):
            split, label = place.split("/")
            for index in range(count):
                # A generator for each image, so that no image depends on the number of images of another kind.
                rng = np.random.default_rng([CATEGORIES.index(self.category), number, index])
                top, left = _position(surface.shape, self.image_size, split, rng)
                image = surface[top : top + self.image_size[0], left : left + self.image_size[1]]
                name = f"{place}/{index:03d}.png"
                crops[name] = [top, left]
                if label in DEFECTS:
                    image, mask = DEFECTS[label](image, rng)
                    _write(folder / _mask_name(name), _png(mask))
                _write(folder / name, _png(image))
        manifest = {"parameters": self._parameters, "crops": crops}
        _write(folder / _MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def photograph(category: str) -> NDArray[np.uint8]:
    """Return the photograph of a surface, ``(512, 512)``, uint8 in [0, 255], from scikit-image."""
    return np.asarray(getattr(skimage.data, category)(), dtype=np.uint8)


def _position(
    photograph_size: tuple[int, ...],
    image_size: tuple[int, int],
    split: str,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Draw the top row and the left column of a crop that lies in the columns of its split."""
    first, end = TEST_COLUMNS
    if split == "train":
        first, end = ((0, first), (end, photograph_size[1]))[rng.integers(2)]
    top = rng.integers(photograph_size[0] - image_size[0] + 1)
    left = rng.integers(first, end - image_size[1] + 1)
    return int(top), int(left)


def _mask_name(name: str) -> str:
    """Return the name of an image's mask as in MVTec AD, or nothing for an image without a defect."""
    path = Path(name)
    if path.parent.name == "good":
        return ""
    return f"ground_truth/{path.parent.name}/{path.stem}_mask.png"


def _png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image."""
    return cv2.imencode(".png", image)[1].tobytes()


def _write(path: Path, content: bytes) -> None:
    """Write a file and make its folder. OpenCV would not report a full disk for a small image."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        msg = (
            f"{path} could not be written ({error.strerror}). Check that the disk has space and the folder is writable."
        )
        raise OSError(error.errno, msg) from error


def _checked_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the crops in pixels, or raise if the photograph has no room for them."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not (_MIN_SIDE <= height <= _MAX_HEIGHT and _MIN_SIDE <= width <= _MAX_WIDTH):
        msg = (
            f"image_size is {image_size}, but the crops of DemoSurface are {_MIN_SIDE} to {_MAX_HEIGHT} pixels high "
            f"and {_MIN_SIDE} to {_MAX_WIDTH} wide. Choose a size in between; the model's pre-processor resizes the "
            "images to its own."
        )
        raise ValueError(msg)
    return int(height), int(width)


def _checked_number(name: str, number: int) -> int:
    """Return a number of images, or raise if it is not positive."""
    if number < 1:
        msg = f"{name} is {number}, but DemoSurface needs at least 1 image of each kind. Pass a larger number."
        raise ValueError(msg)
    return number
