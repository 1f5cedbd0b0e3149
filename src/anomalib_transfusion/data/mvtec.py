# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""MVTec AD under the name ``MVTec``, which anomalib renamed to ``MVTecAD`` and then dropped."""

from pathlib import Path

from anomalib.data.datamodules.image.mvtecad import DOWNLOAD_INFO, MVTecAD
from anomalib.data.datasets.image.mvtecad import CATEGORIES, MVTecADDataset, make_mvtec_ad_dataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import Transform

from .download import download

__all__ = ["MVTec"]

#: MVTec AD's own first.
EXTENSIONS = (".png", *(extension for extension in IMG_EXTENSIONS if extension != ".png"))


class _Images(MVTecADDataset):
    """A category in MVTec AD's layout whose images may be in other formats than PNG."""

    def __init__(self, root: Path, category: str, split: Split) -> None:
        # anomalib's own class finds images in PNG only; with other images it fails to match masks.
        super(MVTecADDataset, self).__init__()
        self.root_category = root / category
        self.category = category
        self.split = split
        extensions = (*EXTENSIONS, *map(str.upper, EXTENSIONS))
        self.samples = make_mvtec_ad_dataset(self.root_category, split=split, extensions=extensions)


class MVTec(MVTecAD):
    """MVTec AD data module with TransFusion's batch size, for MVTec AD itself and for data in the same layout.

    It differs from :class:`anomalib.data.MVTecAD` in the default batch sizes, in the formats of images that it reads,
    in its messages about a wrong category or a failed download, and in that such a download leaves nothing behind.

    Args:
        root (Path | str | None): Path to the root of the dataset. ``None`` stands for anomalib's cache folder.
            Defaults to ``"./datasets/MVTecAD"``.
        category (str): Category of the MVTec AD dataset (e.g. ``"bottle"`` or ``"cable"``), or any folder of ``root``
            in the same layout.
            Defaults to ``"bottle"``.
        train_batch_size (int, optional): Training batch size.
            Defaults to ``8``.
        eval_batch_size (int, optional): Test batch size.
            Defaults to ``8``.
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
        test_split_mode (TestSplitMode): Method to create test set.
            Defaults to ``TestSplitMode.FROM_DIR``.
        test_split_ratio (float): Fraction of data to use for testing.
            Defaults to ``0.2``.
        val_split_mode (ValSplitMode): Method to create validation set.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float): Fraction of data to use for validation.
            Defaults to ``0.5``.
        seed (int | None, optional): Seed for reproducibility.
            Defaults to ``None``.

    Example:
        In Python::

            >>> from anomalib.data import MVTec
            >>> datamodule = MVTec(root="./datasets/MVTecAD", category="cable")

        On the command line::

            anomalib train --model TransFusion --data MVTec --data.category cable
    """

    #: Suffixes of images, in lower or upper case.
    extensions = EXTENSIONS

    def __init__(
        self,
        root: Path | str | None = "./datasets/MVTecAD",
        category: str = "bottle",
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            root=root,
            category=category,
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

    def prepare_data(self) -> None:
        """Download MVTec AD (about 5 GB) if the category is not there yet.

        An archive that lies in the root already is unpacked instead. Download and unpacking happen in a temporary
        folder in the root, so that no partial archive or category remains after a failure.

        Raises:
            ValueError: If the category is neither one of MVTec AD nor a folder of the root.
            RuntimeError: If the download fails, or the archive cannot be unpacked or lacks the category.
        """
        folder = self.root / self.category
        if folder.is_dir():
            super().prepare_data()
            return
        if self.category not in CATEGORIES:
            found = self.root.iterdir() if self.root.is_dir() else ()
            present = sorted(path.name for path in found if path.is_dir() and not path.name.startswith("."))
            msg = (
                f"There is no category {self.category!r}: MVTec AD has {', '.join(CATEGORIES)}, and {self.root} has "
                f"{', '.join(present) or 'no folder'}. Pass one of these as category (--data.category), or the folder "
                "that holds yours as root (--data.root)."
            )
            raise ValueError(msg)
        download(
            self.root,
            DOWNLOAD_INFO,
            what=f"MVTec AD's category {self.category!r}",
            remedy=(
                "pass --data.root (root=) with the folder that holds the unpacked data set, which is offered at "
                "https://www.mvtec.com/company/research/datasets/mvtec-ad"
            ),
        )
        if not folder.is_dir():
            msg = (
                f"The archive unpacked into {self.root} has no folder {self.category!r}. Pass --data.root (root=) with "
                "the folder that holds the unpacked MVTec AD data set."
            )
            raise RuntimeError(msg)

    def _setup(self, _stage: str | None = None) -> None:
        """Set up the training and the test set.

        Raises:
            RuntimeError: If there is no training image.
        """
        self.train_data = _Images(self.root, self.category, Split.TRAIN)
        self.test_data = _Images(self.root, self.category, Split.TEST)
        if len(self.train_data) == 0:
            msg = (
                f"There is no training image in {self.root / self.category / Split.TRAIN.value / 'good'}. Put images "
                f"without a defect there, with names that end in {', '.join(EXTENSIONS)}."
            )
            raise RuntimeError(msg)
