# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The names of the categories, and which of them an image is of.

Indices count from 0 in the order of the names. Of an image without a known category, the category head tells it from
the features; where it is in doubt, the image is of the null category, whose index is the number of categories.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from anomalib_transfusion.checks import listed

__all__ = ["UNKNOWN", "CategoryNames", "chosen_category", "names_of_data"]

UNKNOWN = -1
"""Index of an image whose category the head is to tell."""

ONLY = "all"
"""Name of the category of data that has none."""


def names_of_data(datamodule: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Return the names of the categories of a data module; its own name where it knows no category.

    Args:
        datamodule: A data module of any kind, or ``None``.
    """
    names = getattr(datamodule, "categories", None)
    if names and not isinstance(names, str):
        return tuple(map(str, names))
    return (str(getattr(datamodule, "category", None) or getattr(datamodule, "name", None) or ONLY),)


class CategoryNames:
    """Names of the categories that a model knows.

    Args:
        names: The names; ``None`` where they are to be taken from the data.

    Raises:
        ValueError: If there are none, or one is there twice.
    """

    def __init__(self, names: Sequence[str] | None) -> None:
        self.given = names is not None
        self.names: tuple[str, ...] = () if names is None else tuple(names)
        if self.given and (not self.names or len(set(self.names)) < len(self.names)):
            msg = (
                f"categories={list(self.names)} is impossible; expected different names, at least one. Name each "
                "category once, or leave it out for those of the data."
            )
            raise ValueError(msg)
        self._reported: set[str] = set()

    def __len__(self) -> int:
        """Return the number of categories: at least one, also where they are not known yet."""
        return max(1, len(self.names))

    def learn(self, names: Sequence[str]) -> None:
        """Take the names of the training data, unless there are some; those must then hold all of the data's.

        Args:
            names: Names of the categories of the training data.

        Raises:
            ValueError: If the data has a category that is none of the names.
        """
        if not self.names:
            self.names = tuple(names)
            return
        unknown = [name for name in names if name not in self.names]
        # What was trained on one kind of image alone takes another one's for the same.
        if unknown and not (len(self.names) == len(names) == 1 and not self.given):
            msg = (
                f"The training data has the category {listed(unknown)}, which is none of the model's: expected "
                f"{listed(self.names)}. Train on the categories of the model (--data.categories), pass "
                "categories (--model.categories) with all names, or train a new model on these."
            )
            raise ValueError(msg)

    def restore(self, names: Sequence[str]) -> None:
        """Take the names of a checkpoint.

        Args:
            names: Names in the order of the checkpoint's weights.

        Raises:
            ValueError: If the model was given others.
        """
        if self.names and self.given and self.names != tuple(names):
            msg = (
                f"The checkpoint is of {len(names)} categories, {listed(list(names))}, and the model of "
                f"{len(self.names)}, {listed(self.names)}; expected the same names in the same order. Leave categories "
                "out (--model.categories), for the checkpoint has them, or train on these."
            )
            raise ValueError(msg)
        self.names = tuple(names)

    def indices(self, batch: Any, datamodule: Any) -> Tensor:  # noqa: ANN401
        """Return the index of each image's category; :data:`UNKNOWN` where batch and data do not tell it.

        Of an unknown name, it is said once that the head decides.

        Args:
            batch: A batch, with ``category`` or without.
            datamodule: The data module, with ``category`` or without; may be ``None``.

        Returns:
            Indices in [-1, C - 1], ``(B,)``.
        """
        images = batch.image
        named = getattr(batch, "category", None)
        of_data = getattr(datamodule, "category", None)
        names: Sequence[str | None] = named or [of_data if isinstance(of_data, str) and of_data else None] * len(images)
        # There is nothing to choose between.
        if len(self) == 1:
            return torch.zeros(len(images), dtype=torch.long, device=images.device)
        for name in names:
            if name is not None and name not in self.names and name not in self._reported:
                self._reported.add(name)
                rank_zero_warn(
                    f"The category {name!r} is none of the model's, {listed(self.names)}; of its images, the category "
                    "head tells which they are most like. Expect little of the results; train on that category, too.",
                )
        found = [self.names.index(name) if name in self.names else UNKNOWN for name in names]
        return torch.tensor(found, device=images.device)

    def training_indices(self, batch: Any, datamodule: Any) -> Tensor:  # noqa: ANN401
        """Return the index of each training image's category.

        Args:
            batch: A batch of training images, with ``category`` or without.
            datamodule: As of :meth:`indices`.

        Returns:
            Indices in [0, C - 1], ``(B,)``.

        Raises:
            ValueError: If it is not known of an image.
        """
        named = getattr(batch, "category", None) or names_of_data(datamodule)
        if len(self) == 1:
            return torch.zeros(len(batch.image), dtype=torch.long, device=batch.image.device)
        if unknown := [name for name in named if name not in self.names]:
            msg = (
                f"A training image is of the category {unknown[0]!r}, which is none of the model's: expected one of "
                f"{listed(self.names)}. Train with --data MultiCategory, whose batches know their categories."
            )
            raise ValueError(msg)
        indices = [self.names.index(name) for name in named]
        return torch.tensor(indices, device=batch.image.device).expand(len(batch.image))


def chosen_category(logits: Tensor, confidence: float) -> Tensor:
    """Return the most probable category of each image, or the null category where its probability is too small.

    Args:
        logits: Logits of the category head, ``(B, C)``.
        confidence: Smallest probability of a category that is taken, in [0, 1].

    Returns:
        Indices in [0, C], of which C is the null category, ``(B,)``.
    """
    probability, index = logits.softmax(dim=1).max(dim=1)
    return torch.where(probability < confidence, torch.full_like(index, logits.shape[1]), index)
