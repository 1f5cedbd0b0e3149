# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""One model for many categories: the categories of a data set as one data module."""

import inspect
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.utils.path import get_datasets_dir
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from torch.utils.data import DataLoader, SequentialSampler
from torchvision.transforms.v2 import Transform

from anomalib_transfusion.categories.attach import attach, detach
from anomalib_transfusion.categories.post_processing import statistics_of

from .category_dataset import BalancedSampler, CategoryBatchSampler, CategoryDataset
from .category_names import chosen, dataset_class, folder_arguments

__all__ = ["MultiCategory"]

logger = logging.getLogger(__name__)


class MultiCategory(AnomalibDataModule):
    """Joins the categories of a data set to train one model, any of anomalib's, on all of them.

    Each category has its own data module, which downloads and splits its data, so every split is within a
    category. Batches know the category of each image (``batch.category``). Metrics are computed for each category, as
    ``image_AUROC_bottle``, and ``image_AUROC`` is the mean over the categories; threshold and normalization are found
    and applied for each category. The threshold and normalization of all categories together stay in the model,
    for images of unknown category and for exported models.

    Args:
        dataset (str): Name of a data module of ``anomalib.data`` with categories, as ``"MVTecAD"``, ``"MVTec"``,
            ``"Visa"``, ``"BTech"``, ``"MVTecAD2"`` or ``"DemoSurface"``; or ``"Folder"`` for a tree with a folder for
            each category, and in it ``good`` for the normal images and other folders for anomalous ones.
            Defaults to ``"MVTecAD"``.
        root (Path | str | Sequence[Path | str] | None): Folder that holds a folder for each category, or several such
            folders. ``None`` stands for the data set's own default.
            Defaults to ``None``.
        categories (str | Sequence[str]): Names of the categories, or ``"all"``: all folders in the root, or if there
            are none yet, all published categories of the data set.
            Defaults to ``"all"``.
        balanced (bool): Whether categories are drawn equally often in training, rather than each image once in an
            epoch.
            Defaults to ``False``.
        train_batch_size (int, optional): Training batch size.
            Defaults to ``32``.
        eval_batch_size (int, optional): Validation and test batch size. A batch has images of one category.
            Defaults to ``32``.
        num_workers (int, optional): Number of workers.
            Defaults to ``8``.
        train_augmentations (Transform | None): Augmentations to apply to the training images.
            Defaults to ``None``.
        val_augmentations (Transform | None): Augmentations to apply to the validation images.
            Defaults to ``None``.
        test_augmentations (Transform | None): Augmentations to apply to the test images.
            Defaults to ``None``.
        augmentations (Transform | None): General augmentations to apply if stage-specific
            augmentations are not provided.
            Defaults to ``None``.
        test_split_mode (TestSplitMode | str | None): Method to create each category's test set. ``None`` stands for the
            data set's own default, here and below.
            Defaults to ``None``.
        test_split_ratio (float | None): Fraction of data to use for testing.
            Defaults to ``None``.
        val_split_mode (ValSplitMode | str | None): Method to create each category's validation set.
            Defaults to ``None``.
        val_split_ratio (float | None): Fraction of data to use for validation.
            Defaults to ``None``.
        seed (int | None, optional): Seed of each category's splits, and of the order of ``balanced``.
            Defaults to ``None``.
        dataset_args (dict[str, Any] | None): Further arguments of the data set, as ``{"image_size": 64}`` for
            ``DemoSurface`` or ``{"mask_dir": "masks"}`` for ``Folder``.
            Defaults to ``None``.

    Raises:
        ValueError: If the data set is unknown or has no categories, no category is given, one twice or an unknown one,
            or two roots have a category of the same name.
        TypeError: If the data set does not take an argument.

    Example:
        In Python::

            >>> from anomalib.data import MultiCategory
            >>> datamodule = MultiCategory(dataset="MVTecAD", root="./datasets/MVTecAD", categories=["bottle", "cable"])

        On the command line::

            anomalib train --model Dinomaly --data MultiCategory --data.dataset MVTecAD --data.categories all
    """

    def __init__(
        self,
        dataset: str = "MVTecAD",
        root: Path | str | Sequence[Path | str] | None = None,
        categories: str | Sequence[str] = "all",
        balanced: bool = False,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str | None = None,
        test_split_ratio: float | None = None,
        val_split_mode: ValSplitMode | str | None = None,
        val_split_ratio: float | None = None,
        seed: int | None = None,
        dataset_args: dict[str, Any] | None = None,
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
        self.dataset = dataset_class(dataset)
        self.balanced = balanced
        splits = {
            "test_split_mode": test_split_mode,
            "test_split_ratio": test_split_ratio,
            "val_split_mode": val_split_mode,
            "val_split_ratio": val_split_ratio,
            "seed": seed,
        }
        self._arguments = {
            "train_batch_size": train_batch_size,
            "eval_batch_size": eval_batch_size,
            "num_workers": num_workers,
            **{name: value for name, value in splits.items() if value is not None},
            **(dataset_args or {}),
        }
        self._check_arguments()
        roots = _roots(root, self.dataset)
        #: Data module of each category. They must be kept: deleting a data set deletes its synthetic images.
        self.children: dict[str, AnomalibDataModule] = {
            name: self._child(name, where) for name, where in chosen(self.dataset, roots, categories).items()
        }
        self.categories = tuple(self.children)
        # The folder above the categories, so that result images of all categories go to folders of their own.
        self._name = Path(os.path.commonpath(roots)).name or self.dataset.__name__
        logger.info("%d categories of %s: %s", len(self.categories), dataset, ", ".join(self.categories))

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the folder that holds the categories; anomalib keeps the folders below it in paths of results."""
        return self._name

    def prepare_data(self) -> None:
        """Download or generate the missing categories, by their own data modules."""
        for child in self.children.values():
            child.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set up the categories, and make the trainer evaluate and post-process by category.

        Args:
            stage: Current stage; ``None`` for all.

        Raises:
            RuntimeError: If a category cannot be read, or has no training image.
            ValueError: If some categories have masks and others have none.
        """
        super().setup(stage)
        if self.trainer is not None:
            attach(self.trainer, self.categories)

    def teardown(self, stage: str) -> None:
        """Give the trainer back the model's own evaluation and post-processing."""
        del stage
        self._leave()

    def on_exception(self, exception: BaseException) -> None:
        """Give the trainer back the model's own evaluation and post-processing."""
        del exception
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the categories and the thresholds and normalization of each, for the checkpoint."""
        model = self.trainer.lightning_module if self.trainer is not None else None
        statistics = {} if model is None else {name: dict(values) for name, values in statistics_of(model).items()}
        return {"categories": list(self.categories), "statistics": statistics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the thresholds and normalization of each category from a checkpoint.

        Raises:
            ValueError: If the checkpoint lacks a category of this data module or, to resume a training, has others.
        """
        trained = list(state_dict.get("categories", []))
        unknown = [category for category in self.categories if category not in trained]
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        lost = [category for category in trained if category not in self.categories] if fitting else []
        if unknown or lost:
            wrong = f"does not know {', '.join(unknown)}" if unknown else f"knows {', '.join(lost)} as well"
            msg = (
                f"The checkpoint was trained on the categories {', '.join(trained)}; the data has "
                f"{', '.join(self.categories)}, and the checkpoint {wrong}. Choose the categories that it was trained "
                "on (--data.categories), or train on these."
            )
            raise ValueError(msg)
        if self.trainer is not None:
            statistics = statistics_of(self.trainer.lightning_module)
            statistics.clear()
            statistics.update(state_dict.get("statistics", {}))

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Return the loader of the training images; with ``balanced``, categories are drawn equally often."""
        if not self.balanced:
            return super().train_dataloader()
        sampler = BalancedSampler(
            self.train_data.categories,  # type: ignore[attr-defined]
            num_replicas=self.trainer.world_size if self.trainer is not None else 1,
            rank=self.trainer.global_rank if self.trainer is not None else 0,
            # Without a seed, that of Lightning's own samplers.
            seed=self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0")),
        )
        return DataLoader(
            self.train_data,
            sampler=sampler,
            batch_size=self.train_batch_size,
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
        )

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Return the loader of the validation images, in batches of one category."""
        return self._eval_dataloader(self.val_data)

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Return the loader of the test images, in batches of one category."""
        return self._eval_dataloader(self.test_data)

    def _eval_dataloader(self, dataset: Any) -> DataLoader:  # noqa: ANN401
        """Return a loader in batches of one category."""
        sampler = CategoryBatchSampler(
            SequentialSampler(dataset),
            self.eval_batch_size,
            categories=dataset.categories,
        )
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or dataset.collate_fn,
        )

    def _setup(self, _stage: str | None = None) -> None:
        """Let each category set up and split itself, and join them."""
        for category, child in self.children.items():
            try:
                child.setup(_stage)
            except Exception as error:
                # MVTecAD finds only the masks of images in other formats, and complains about a mismatch.
                formats = " in PNG, or take MVTec for other formats" if self.dataset.__name__ == "MVTecAD" else ""
                msg = (
                    f"The category {category!r} cannot be read: {error} Expected the layout of "
                    f"{self.dataset.__name__}. Lay its folder out like that{formats}, or leave the "
                    "category out (--data.categories)."
                )
                raise RuntimeError(msg) from error
            if not len(child.train_data):
                msg = (
                    f"The category {category!r} has no training image, but a model needs normal images of each. Put "
                    "some into its folder of training images, or leave the category out (--data.categories)."
                )
                raise RuntimeError(msg)
        for subset in ("train_data", "val_data", "test_data"):
            datasets = {
                category: _subset(child, subset) for category, child in self.children.items() if hasattr(child, subset)
            }
            if datasets:
                setattr(self, subset, CategoryDataset(datasets))

    def _create_test_split(self) -> None:
        """Do nothing: each category has split itself."""

    def _create_val_split(self) -> None:
        """Do nothing: each category has split itself."""

    def _leave(self) -> None:
        """Restore the model's own callbacks in the trainer."""
        if self.trainer is not None:
            detach(self.trainer)

    def _check_arguments(self) -> None:
        """Raise TypeError if the data set's data module does not accept an argument."""
        taken = inspect.signature(self.dataset).parameters
        own = {"root", "category", "name"}
        for name in self._arguments:
            if name not in taken or name in own:
                msg = (
                    f"{self.dataset.__name__} does not take {name!r} from MultiCategory, but "
                    f"{', '.join(sorted(taken.keys() - own))}. Leave it out (--data.{name} or --data.dataset_args)."
                )
                raise TypeError(msg)

    def _child(self, category: str, root: Path) -> AnomalibDataModule:
        """Return the data module of one category."""
        if self.dataset.__name__ == "Folder":
            return self.dataset(**folder_arguments(root, category, self._arguments))  # type: ignore[arg-type]
        return self.dataset(root=root, category=category, **self._arguments)  # type: ignore[call-arg]


def _subset(child: AnomalibDataModule, subset: str) -> Any:  # noqa: ANN401
    """Return a subset of one category. Some data sets have several test sets, of which their loader chooses one."""
    chooses = type(child).test_dataloader is not AnomalibDataModule.test_dataloader
    return child.test_dataloader().dataset if subset == "test_data" and chooses else getattr(child, subset)


def _roots(root: Path | str | Sequence[Path | str] | None, dataset: type[AnomalibDataModule]) -> list[Path]:
    """Return the absolute paths of the folders that hold the categories."""
    if root is None:
        default = inspect.signature(dataset).parameters["root"].default
        missing = Path() if dataset.__name__ == "Folder" else get_datasets_dir() / dataset.__name__
        root = default if default is not None else missing
    several = [root] if isinstance(root, str | Path) else list(root)
    # Absolute: the name of the folder must be a part of every image's path.
    return [Path(os.path.abspath(each)) for each in several]  # noqa: PTH100
