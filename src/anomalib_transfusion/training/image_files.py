# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks of image files before a run: files that cannot be read, or that anomalib would misread."""

import os
import traceback
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataset
from anomalib.data.datasets.image.mvtec_loco import MVTecLOCODataset
from anomalib.data.predict import PredictDataset  # anomalib.data may be partially imported here
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from anomalib_transfusion.alignment import check_upright, cover_each_other, orientation_of

from .data_errors import explain_data_error
from .mask_files import check_masks
from .transforms import check_augmentations

__all__ = ["ImageFiles", "evaluated_images", "read_image_file", "training_images"]

# Modes of PIL whose conversion to 8-bit RGB, by which anomalib reads images, loses the content or fails.
SPOILT_MODES = {
    "I": "32-bit whole numbers, of which all above 255 would become white",
    "F": "floating point numbers, which would be cut to whole ones",
    "LAB": "LAB colors, which cannot be converted",
}
SIXTEEN_BIT = "16-bit gray values, of which all above 255 would become white"


class ImageFiles(Callback):
    """Callback that checks the image files of a run before it starts, and names the file behind a data loader's error.

    Only the headers of images are read, which takes a fraction of a millisecond each; masks of defects are read whole.
    Data sets that do not read their files by anomalib's functions are not checked.
    """

    def __init__(self) -> None:
        self._checked: set[tuple[str, str | None]] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the training images, and those of validation and test, which would be read much later."""
        del pl_module
        self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation images."""
        del pl_module
        self._check(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the test images."""
        del pl_module
        self._check(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the images."""
        del pl_module
        self._check(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Explain an exception of the data module, or name the file that made the data loader fail.

        anomalib's own messages do not name the file.

        Args:
            trainer: Trainer whose data loaders are searched.
            pl_module: The model (unused).
            exception: The exception that stopped the run.

        Raises:
            ValueError: If a file cannot be read, masks fit no image or a path is refused; names it.
        """
        del pl_module
        explain_data_error(getattr(trainer, "datamodule", None), exception)
        # The exception of a worker process has the traceback in that process as its text.
        places = "".join(traceback.format_exception(exception))
        if "in read_image\n" in places or "in read_mask\n" in places:
            self._name_unreadable(trainer, exception)

    @staticmethod
    def _name_unreadable(trainer: Trainer, cause: BaseException) -> None:
        """Raise ValueError for the first file of a run that cannot be read."""
        for image, mask in chain.from_iterable(_files(dataset) for dataset, _ in _datasets(trainer)):
            for path in filter(None, (image, mask)):
                _inspect(path, lambda file: file.convert("RGB"), cause)

    def _check(self, trainer: Trainer) -> None:
        """Raise ValueError if a file of this run cannot be read or would be misread; the message names it."""
        masks: dict[str, None] = {}
        for dataset, batch_size in _datasets(trainer):
            check_augmentations(dataset)
            sizes: dict[str, tuple[int, int]] = {}
            for image, mask in _files(dataset):
                if (image, mask) not in self._checked:
                    sizes[image] = _checked_head(image, mask)
                    self._checked.add((image, mask))
                    masks.update({mask: None} if mask else {})
            _check_memory(sizes, batch_size)
        # A prediction does not use masks.
        if not trainer.predicting:
            check_masks(list(masks))


def read_image_file(path: str | Path) -> Image.Image:
    """Read an image file in RGB, as anomalib does.

    Args:
        path: The file.

    Returns:
        The image.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or would be misread; the message names it.
    """
    if not Path(path).is_file():
        msg = f"There is no image {path}; expected an image file. Check the path."
        raise FileNotFoundError(msg)
    _checked_head(str(path), None)
    return _inspect(str(path), lambda file: file.convert("RGB"))


def evaluated_images(trainer: Trainer) -> Iterator[str]:
    """Yield the paths of the images of a test or a prediction, if the data sets know them beforehand.

    Args:
        trainer: The trainer, whose run has begun.

    Yields:
        The paths, of all processes together.
    """
    yield from _paths(trainer.test_dataloaders if trainer.testing else trainer.predict_dataloaders)


def training_images(trainer: Trainer) -> Iterator[str]:
    """Yield the paths of the training images, if the data sets know them beforehand.

    Args:
        trainer: The trainer, whose run has begun.

    Yields:
        The paths, of all processes together.
    """
    yield from _paths(trainer.train_dataloader)


def _paths(loaders: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield the paths of the images of one or several data loaders."""
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        dataset: Any = getattr(loader, "dataset", None)
        if hasattr(dataset, "image_filenames"):
            yield from map(str, dataset.image_filenames)
        elif isinstance(dataset, AnomalibDataset):
            yield from map(str, dataset.samples.image_path)


def _datasets(trainer: Trainer) -> Iterator[tuple[Any, int]]:
    """Yield the data sets that a run reads, each with its batch size."""
    loaders: list[Any] = []
    for loader in (
        trainer.train_dataloader,
        trainer.val_dataloaders,
        trainer.test_dataloaders,
        trainer.predict_dataloaders,
    ):
        loaders.extend(loader if isinstance(loader, list | tuple) else [loader])
    yield from ((loader.dataset, loader.batch_size or 1) for loader in loaders if hasattr(loader, "dataset"))
    # Lightning loads validation images only when it validates, perhaps after days, and anomalib tests after training.
    datamodule: Any = getattr(trainer, "datamodule", None)
    if trainer.state.fn == TrainerFn.FITTING:
        for name in ("val_data", "test_data"):
            if hasattr(datamodule, name):
                yield getattr(datamodule, name), getattr(datamodule, "eval_batch_size", 1)


def _files(dataset: Any) -> Iterator[tuple[str, str | None]]:  # noqa: ANN401
    """Yield the images of a data set with their masks, if anomalib's own functions read them."""
    if _read_by_anomalib(dataset):
        if isinstance(dataset, PredictDataset):
            yield from ((str(path), None) for path in dataset.image_filenames)
            return
        samples = dataset.samples
        masks = samples.mask_path if "mask_path" in samples else [None] * len(samples)
        for image, mask, label in zip(samples.image_path, masks, samples.label_index, strict=True):
            # An image with several kinds of defects may have several masks. Masks of good images are not read.
            several = mask if isinstance(mask, list | tuple) else [mask]
            read = [str(one) for one in several if label == 1 and isinstance(one, str | os.PathLike) and str(one)]
            if not read:
                yield str(image), None
            yield from ((str(image), one) for one in read)


def _read_by_anomalib(dataset: Any) -> bool:  # noqa: ANN401
    """Tell whether a data set reads its files by anomalib's own functions, which convert to 8 bits."""
    # Imported here: it would be partially imported if the models are imported first.
    from anomalib_transfusion.data.category_dataset import CategoryDataset

    if isinstance(dataset, CategoryDataset):
        return all(map(_read_by_anomalib, dataset.datasets.values()))
    reader = getattr(type(dataset), "__getitem__", None)
    return reader in {AnomalibDataset.__getitem__, MVTecLOCODataset.__getitem__, PredictDataset.__getitem__}


def _inspect(path: str, look: Callable[[Image.Image], Any], cause: BaseException | None = None) -> Any:  # noqa: ANN401
    """Open an image file and return what ``look`` returns for it.

    Raises:
        ValueError: If that fails; the message names the file.
    """
    try:
        with Image.open(path) as file:
            return look(file)
    # What decoders raise for damaged files is not confined to OSError: SyntaxError, ValueError, struct.error, ...
    except Exception as error:  # noqa: BLE001
        msg = f"The image {path} cannot be read: {error}. Replace it, or take it out of the data set."
        raise ValueError(msg) from cause or error


def _head(path: str, what: str) -> tuple[str, tuple[int, int]]:
    """Return the mode and the size (width, height) of an image.

    Raises:
        ValueError: If it cannot be read, or has an EXIF orientation other than 1; the message names the file.
    """
    mode, size, orientation = _inspect(path, lambda file: (file.mode, file.size, orientation_of(file)))
    check_upright(orientation, path, what)
    return mode, size


def _checked_head(image: str, mask: str | None) -> tuple[int, int]:
    """Check the header of an image and of its mask, and return the image's width and height.

    Raises:
        ValueError: If the image or its mask cannot be read or would be misread; the message names the file.
    """
    mode, size = _head(image, "image")
    problem = SIXTEEN_BIT if mode.startswith("I;16") else SPOILT_MODES.get(mode)
    if problem:
        msg = f"The image {image} holds {problem}. Convert it to 8 bits a channel, or take it out of the data set."
        raise ValueError(msg)
    if mask is not None:
        mask_mode, (width, height) = _head(mask, "mask")
        if mask_mode in SPOILT_MODES and mask_mode != "I":
            msg = f"The mask {mask} holds {SPOILT_MODES[mask_mode]}. Save it with 8 bits: 0, and 255 on the defect."
            raise ValueError(msg)
        # A mask of half the image's size is fine: both are resized to the size of the network's input.
        if not cover_each_other((width, height), size):
            msg = (
                f"The mask {mask} has {width}x{height} pixels (width x height), but its image {image} has "
                f"{size[0]}x{size[1]}: they do not cover each other. Replace the mask by one of the image's size."
            )
            raise ValueError(msg)
    return size


def _check_memory(sizes: dict[str, tuple[int, int]], batch_size: int) -> None:
    """Raise ValueError if a batch cannot fit into memory: anomalib enlarges each image to the largest of its batch."""
    if not sizes or not hasattr(os, "sysconf"):
        return
    largest, (width, height) = max(sizes.items(), key=lambda item: item[1][0] * item[1][1])
    # Three channels of four bytes, twice: as single images and stacked to a batch.
    needed = 2 * min(batch_size, len(sizes)) * width * height * 3 * 4
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        msg = (
            f"With {largest} of {width}x{height} pixels, a batch of {batch_size} takes {needed / 2**30:.0f} GiB, more "
            f"than the {memory / 2**30:.0f} GiB of this computer, since all images of a batch are enlarged to the "
            "largest. Choose a smaller batch size (--data.eval_batch_size, --data.train_batch_size), make the image "
            "smaller, or take it out of the data set."
        )
        raise ValueError(msg)
