# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's images and batches with one more field: the category."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from anomalib.data.dataclasses import ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem

__all__ = [
    "CategoryBatch",
    "CategoryItem",
    "NumpyCategoryBatch",
    "NumpyCategoryItem",
    "merge",
    "positions_by_category",
    "select",
]


@dataclass
class NumpyCategoryItem(NumpyImageItem):
    """An image with the name of its category, as NumPy arrays."""

    category: str | None = None


@dataclass
class NumpyCategoryBatch(NumpyImageBatch):
    """A batch of images with the names of their categories, as NumPy arrays."""

    category: list[str] | None = None

    item_class: ClassVar[type[NumpyImageItem]] = NumpyCategoryItem


@dataclass
class CategoryItem(ImageItem):
    """An image with the name of its category."""

    category: str | None = None

    numpy_class: ClassVar[type[NumpyImageItem]] = NumpyCategoryItem


@dataclass
class CategoryBatch(ImageBatch):
    """A batch of images with the name of the category of each image."""

    category: list[str] | None = None

    item_class: ClassVar[type[ImageItem]] = CategoryItem
    numpy_class: ClassVar[type[NumpyImageBatch]] = NumpyCategoryBatch


def positions_by_category(batch: Any) -> dict[str, list[int]]:  # noqa: ANN401
    """Return the positions of each category's images in a batch; an empty dictionary for a batch without categories.

    Args:
        batch: A batch of any kind.

    Returns:
        Ascending positions by category, in the order in which the categories first occur.
    """
    positions: dict[str, list[int]] = {}
    for position, category in enumerate(getattr(batch, "category", None) or ()):
        positions.setdefault(category, []).append(position)
    return positions


def select(batch: ImageBatch, positions: Sequence[int]) -> ImageBatch:
    """Return a batch of some of the images, or the batch itself if all are selected.

    Args:
        batch: A batch of B images.
        positions: Positions of the images, each in [0, B).

    Returns:
        A batch of the same class with the selected images, their ground truth and their predictions.
    """
    if len(positions) == len(batch):
        return batch

    def selected(value: Any) -> Any:  # noqa: ANN401
        if value is None:
            return None
        return value[positions] if isinstance(value, torch.Tensor) else [value[position] for position in positions]

    return type(batch)(**{field.name: selected(getattr(batch, field.name)) for field in fields(batch)})


def merge(batch: ImageBatch, parts: Sequence[tuple[Sequence[int], ImageBatch]]) -> None:
    """Write the tensors of the parts of a batch back into the batch, in the original order.

    Args:
        batch: A batch, changed in place.
        parts: Positions and images of each part, as from :func:`select`; together the whole batch.
    """
    order = torch.tensor([position for positions, _ in parts for position in positions])
    back = torch.argsort(order)
    for field in fields(batch):
        values = [getattr(part, field.name) for _, part in parts]
        if all(isinstance(value, torch.Tensor) for value in values):
            together = torch.cat(values)
            setattr(batch, field.name, together[back.to(together.device)])
