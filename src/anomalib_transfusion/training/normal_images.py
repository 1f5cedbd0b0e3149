# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The training images of a run one by one, beside the data loader, as the model gets them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

__all__ = ["prepared_images", "spread", "training_dataset"]


def training_dataset(trainer: Trainer) -> Any:  # noqa: ANN401
    """Return the training data of a run, or ``None`` if there is none whose images can be taken one by one."""
    dataset = getattr(getattr(trainer, "datamodule", None), "train_data", None)
    if dataset is None:
        dataset = getattr(trainer.train_dataloader, "dataset", None)
    # A data set without these is read as a stream.
    if dataset is None or not all(hasattr(dataset, name) for name in ("__getitem__", "__len__")) or not len(dataset):
        return None
    return dataset


def spread(positions: Sequence[int], most: int) -> list[int]:
    """Return at most ``most`` of some positions, spread evenly."""
    number = min(most, len(positions))
    return [positions[index * len(positions) // number] for index in range(number)]


def prepared_images(
    model: LightningModule,
    dataset: Any,  # noqa: ANN401
    positions: Sequence[int],
    batch_size: int = 8,
) -> Iterator[torch.Tensor]:
    """Yield images of a data set as the pre-processor gives them, on the model's device, ``(B, 3, H, W)``.

    Args:
        model: A model of anomalib.
        dataset: Data set of anomalib.
        positions: Positions of the images.
        batch_size: Number B of images at a time.
    """
    transform = getattr(model.pre_processor, "transform", None)
    for first in range(0, len(positions), batch_size):
        images = [dataset[position].image[None].float() for position in positions[first : first + batch_size]]
        yield torch.cat([image if transform is None else transform(image) for image in images]).to(model.device)
