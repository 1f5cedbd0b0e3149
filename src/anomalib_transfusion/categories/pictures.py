# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Result images in a separate folder for each category."""

from pathlib import Path, PurePath
from typing import Any

from anomalib.data import ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer

from .batch import positions_by_category, select

__all__ = ["CategoryPictures", "folder_of_category"]


def folder_of_category(category: str, image: str | Path, name: str | None) -> PurePath:
    """Return the folder to put in front of the part of an image's path that anomalib keeps.

    Args:
        category: Category of the image.
        image: Path of the image.
        name: Name of the data module, below which anomalib keeps the folders.

    Returns:
        The category's name, or an empty path if the image is in a folder with the data module's name.
    """
    found = name and name.lower() in (part.lower() for part in Path(image).parts)
    return PurePath() if found else PurePath(category)


class CategoryPictures(Callback):
    """Replaces anomalib's image visualizer, and makes it draw each category into a separate folder.

    anomalib keeps the folders of an image below the one with the name of the data module. If there is no such folder,
    as when categories are links to folders elsewhere, it keeps only the last one, and ``good/000.png`` of all
    categories would be the same file. In that case the category's name is prepended.

    Args:
        visualizer: The model's visualizer, an :class:`anomalib.visualization.ImageVisualizer`.
    """

    def __init__(self, visualizer: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.visualizer = visualizer

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the images of each category."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if self.visualizer.output_dir is None:
            self.visualizer.output_dir = Path(trainer.default_root_dir) / "images"
        base = self.visualizer.output_dir
        folders: dict[PurePath, list[int]] = {}
        for category, positions in positions_by_category(batch).items():
            for position in positions:
                folder = folder_of_category(category, batch.image_path[position], datamodule.name)  # type: ignore[index]
                folders.setdefault(folder, []).append(position)
        try:
            for folder, positions in folders.items():
                self.visualizer.output_dir = Path(base, folder)
                part = select(batch, positions)
                self.visualizer.on_test_batch_end(trainer, pl_module, outputs, part, batch_idx, dataloader_idx)
        finally:
            self.visualizer.output_dir = base

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the images of each category."""
        self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
