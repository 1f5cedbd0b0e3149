# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""A data set that joins several categories, and samplers for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pandas as pd
import torch
from anomalib.data.datasets.base.image import AnomalibDataset
from torch.utils.data import BatchSampler, DistributedSampler, Sampler
from torchvision.transforms.v2 import Transform

from anomalib_transfusion.categories.batch import CategoryBatch, CategoryItem

__all__ = ["BalancedSampler", "CategoryBatchSampler", "CategoryDataset"]

_FIELDS = tuple(field.name for field in fields(CategoryItem) if field.name != "category")


class CategoryDataset(AnomalibDataset):
    """Joins the data sets of several categories into one, whose items have a ``category``.

    Each data set reads its own images. The table of samples has two additional columns: ``category``, and
    ``position``, the row in the category's own table.

    Args:
        datasets: Data set of each category.

    Raises:
        ValueError: If some categories have masks and others have none.
    """

    def __init__(self, datasets: Mapping[str, AnomalibDataset]) -> None:
        self._datasets: dict[str, AnomalibDataset] = {}
        super().__init__()
        self._datasets = dict(datasets)
        by_task: dict[str, list[str]] = {}
        for category, dataset in self._datasets.items():
            # From pandas 3 on, None for an image without a mask (MVTecAD2) is not a number, which no item takes.
            dataset.samples["mask_path"] = dataset.samples["mask_path"].fillna("")
            if len(dataset):
                by_task.setdefault(dataset.task.value, []).append(category)
        if len(by_task) > 1:
            kinds = "; ".join(f"{task}: {', '.join(categories)}" for task, categories in sorted(by_task.items()))
            msg = (
                f"The categories are of different tasks ({kinds}), but one model has one task. Give the anomalous "
                "images of all categories masks, or of none, or leave categories out."
            )
            raise ValueError(msg)
        samples = [
            dataset.samples.assign(category=category, position=range(len(dataset)))
            for category, dataset in self._datasets.items()
        ]
        self.samples = pd.concat(samples, ignore_index=True)
        self.samples.attrs["task"] = next(iter(by_task), "classification")

    @property
    def datasets(self) -> Mapping[str, AnomalibDataset]:
        """The data set of each category, which reads its images."""
        return self._datasets

    @property
    def augmentations(self) -> Transform | None:
        """The transform of the images and masks of all categories."""
        return self._augmentations

    @augmentations.setter
    def augmentations(self, augmentations: Transform | None) -> None:
        self._augmentations = augmentations
        for dataset in self._datasets.values():
            dataset.augmentations = augmentations

    @property
    def categories(self) -> list[str]:
        """The category of each image."""
        return self.samples["category"].tolist()

    def __getitem__(self, index: int) -> CategoryItem:
        """Return an image with its ground truth and its category."""
        sample = self.samples.iloc[index]
        item: Any = self._datasets[sample.category][int(sample.position)]
        return CategoryItem(**{name: getattr(item, name) for name in _FIELDS}, category=sample.category)

    @property
    def collate_fn(self) -> Callable:
        """Function that collates items into a :class:`CategoryBatch`."""
        return CategoryBatch.collate


class CategoryBatchSampler(BatchSampler):
    """Makes batches of one category each, so that the evaluation of a category does not depend on the others.

    In a batch of several categories, anomalib would resize images of different sizes to one size.

    On several processes Lightning replaces the sampler by one that repeats images to give each process the same number;
    this class never repeats an image, so that none counts twice in metrics.

    Args:
        sampler: Order of the images.
        batch_size: Largest number of images in a batch.
        drop_last: Must be false; Lightning passes it.
        categories: Category of each image.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        batch_size: int,
        drop_last: bool = False,
        categories: Sequence[str] = (),
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.categories = categories

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the positions of the images of each batch."""
        return iter(self._batches())

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches())

    def _batches(self) -> list[list[int]]:
        """Return the batches, category by category in the order of their first images."""
        positions: Any = self.sampler
        if isinstance(positions, DistributedSampler):
            positions = range(positions.rank, len(self.categories), positions.num_replicas)
        of_category: dict[str, list[int]] = {}
        for position in positions:
            of_category.setdefault(self.categories[position], []).append(position)
        return [
            members[start : start + self.batch_size]
            for members in of_category.values()
            for start in range(0, len(members), self.batch_size)
        ]


class BalancedSampler(DistributedSampler):
    """Draws the categories equally often.

    An epoch has about as many images as the data set, the same share for each category. From a larger category a random
    subset is drawn; images of a smaller one are repeated, each as often as any other or once more. As a
    ``DistributedSampler`` it is not replaced by Lightning, which calls its ``set_epoch``.

    Args:
        categories: Category of each image.
        num_replicas: Number of processes.
        rank: Number of this process.
        seed: Seed of the order, the same in all processes. Each epoch has a different order.
    """

    def __init__(self, categories: Sequence[str], num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(categories, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.members: dict[str, list[int]] = {}
        for position, category in enumerate(categories):
            self.members.setdefault(category, []).append(position)
        share = -(-len(categories) // len(self.members))
        while share * len(self.members) % num_replicas:
            share += 1
        self.share = share
        self.total_size = share * len(self.members)
        self.num_samples = self.total_size // num_replicas

    def __iter__(self) -> Iterator[int]:
        """Yield the positions of the images of this process."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn: list[int] = []
        for members in self.members.values():
            rounds = -(-self.share // len(members))
            order = torch.cat([torch.randperm(len(members), generator=generator) for _ in range(rounds)])
            drawn += [members[position] for position in order[: self.share].tolist()]
        shuffled = torch.randperm(self.total_size, generator=generator).tolist()
        return iter([drawn[position] for position in shuffled[self.rank :: self.num_replicas]])
