# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Name the file behind an image that cannot be read: a data loader says only that "image file is truncated"."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

__all__ = ["UnreadableImage"]


class UnreadableImage(Callback):
    """Where reading an image failed, looks for the file and raises an error that names it."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Find the file behind an exception of the data loader.

        Args:
            trainer: Trainer whose data loaders are searched.
            pl_module: The model (unused).
            exception: What stopped the run.

        Raises:
            ValueError: If a file cannot be read; names it.
        """
        del pl_module
        # PIL reports what it cannot decode as OSError (UnidentifiedImageError among them) or SyntaxError.
        if not isinstance(exception, OSError | SyntaxError):
            return
        for path in self._image_paths(trainer):
            if problem := _problem_with(path):
                msg = f"The image {path} cannot be read: {problem}. Replace it, or take it out of the data set."
                raise ValueError(msg) from exception

    @staticmethod
    def _image_paths(trainer: Trainer) -> Iterator[str]:
        """Yield the files behind the trainer's data loaders."""
        loaders: list[Any] = []
        for loader in (
            trainer.train_dataloader,
            trainer.val_dataloaders,
            trainer.test_dataloaders,
            trainer.predict_dataloaders,
        ):
            loaders.extend(loader if isinstance(loader, list | tuple) else [loader])
        datasets: list[Any] = [getattr(loader, "dataset", None) for loader in loaders]
        samples = (dataset.samples.image_path for dataset in datasets if hasattr(dataset, "samples"))
        listed = (dataset.image_filenames for dataset in datasets if hasattr(dataset, "image_filenames"))
        return (str(path) for path in chain(*samples, *listed))


def _problem_with(path: str) -> Exception | None:
    """Return why an image file cannot be read, or ``None`` where it can."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError) as error:
        return error
    return None
