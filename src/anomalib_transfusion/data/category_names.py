# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Names of the data sets that have categories, and of their categories."""

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anomalib.data
from anomalib.data.datamodules.base.image import AnomalibDataModule

__all__ = ["chosen", "dataset_class", "folder_arguments", "known_categories", "present_categories"]

#: Names of the folders of normal images and of masks, in a tree with one folder for each category.
NORMAL, MASKS = "good", ("ground_truth", "masks")


def dataset_class(name: str) -> type[AnomalibDataModule]:
    """Return the data module class of ``anomalib.data`` with this name, which must have a parameter ``category``.

    Raises:
        ValueError: If there is no such data module, or it has no categories; names the valid ones.
    """
    classes = {
        key: value
        for key, value in vars(anomalib.data).items()
        if isinstance(value, type) and issubclass(value, AnomalibDataModule) and not inspect.isabstract(value)
    }
    # Registered data modules may wait for their first look-up.
    found = classes.get(name, getattr(anomalib.data, name, None))
    if name == "Folder" or (isinstance(found, type) and "category" in inspect.signature(found).parameters):
        return found  # type: ignore[return-value]
    known = sorted(key for key, value in classes.items() if "category" in inspect.signature(value).parameters)
    msg = (
        f"dataset is {name!r}, but MultiCategory joins the categories of {', '.join([*known, 'Folder'])}. Choose one "
        "of these (--data.dataset)."
    )
    raise ValueError(msg)


def known_categories(dataset: type[AnomalibDataModule]) -> tuple[str, ...]:
    """Return the categories of a published data set; none for the user's own folders."""
    for base in dataset.__mro__:
        # anomalib keeps them beside the data set, not beside the data module; Visa alone does.
        beside = base.__module__.replace(".datamodules.", ".datasets.")
        for name in (base.__module__, beside):
            if name.startswith("anomalib.data.datasets.image."):
                importlib.import_module(name)
            module = sys.modules[name]
            found = getattr(module, "CATEGORIES", None) or getattr(module, "VISA_CATEGORIES", None)
            if found:
                return tuple(found)
    return ()


def present_categories(dataset: type[AnomalibDataModule], root: Path) -> tuple[str, ...]:
    """Return the folders of a root that hold a category's training images."""
    if dataset.__name__ == "Visa":
        # The layout after anomalib's Visa has split the data; before, the root has folders of the same names.
        root = root / "visa_pytorch" if (root / "visa_pytorch").is_dir() else root
        training: tuple[str, ...] = ("train", "Data")
    else:
        training = (NORMAL,) if dataset.__name__ == "Folder" else ("train",)
    folders = root.iterdir() if root.is_dir() else ()
    return tuple(sorted(path.name for path in folders if any((path / name).is_dir() for name in training)))


def chosen(
    dataset: type[AnomalibDataModule],
    roots: Sequence[Path],
    categories: str | Sequence[str],
) -> dict[str, Path]:
    """Return the root folder of each chosen category.

    Args:
        dataset: Data module of one category.
        roots: Folders that hold a folder for each category.
        categories: Names of the categories, or ``"all"``: all folders in the roots, or if the data set is not there
            yet, all its published categories.

    Raises:
        ValueError: If no category is given, one twice or an unknown one, or two roots have a category of that name.
    """
    known = known_categories(dataset)
    found: dict[str, list[Path]] = {}
    for root in roots:
        present = present_categories(dataset, root)
        makes_its_images = dataset.__name__ == "DemoSurface"
        for category in known if makes_its_images else present or known:
            found.setdefault(category, []).append(root)
    asked = _asked(categories, tuple(found), roots)
    unknown = [category for category in asked if category not in found and category not in known]
    if unknown:
        places = " and ".join(map(str, roots))
        msg = (
            f"There is no category {', '.join(map(repr, unknown))} of {dataset.__name__} in {places}; known are "
            f"{', '.join(dict.fromkeys([*found, *known])) or 'none'}. Choose among these (--data.categories), or pass "
            "the folder that holds a folder for each category (--data.root)."
        )
        raise ValueError(msg)
    for category in asked:
        if len(found.get(category, ())) > 1:
            msg = (
                f"The category {category!r} is in {' and in '.join(map(str, found[category]))}, but each name must be "
                "one category. Rename one of the folders, or leave the category out (--data.categories)."
            )
            raise ValueError(msg)
    return {category: found.get(category, roots)[0] for category in asked}


def _asked(categories: str | Sequence[str], all_of_them: tuple[str, ...], roots: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of the chosen categories; raise ValueError if there are none, or one twice."""
    if isinstance(categories, str):
        asked = all_of_them if categories == "all" else (categories,)
        if not asked:
            msg = (
                f"There is no category in {' and '.join(map(str, roots))}; expected a folder for each, with its "
                "training images in train/good, or for Folder in good. Check the root (--data.root)."
            )
            raise ValueError(msg)
        return asked
    asked = tuple(categories)
    if not asked:
        msg = "categories is empty, but a model needs one category at least. Name some or pass all (--data.categories)."
        raise ValueError(msg)
    twice = sorted({category for category in asked if asked.count(category) > 1})
    if twice:
        msg = (
            f"categories has {', '.join(map(repr, twice))} more than once, but each is trained on once. Name each "
            "once; balanced draws the categories equally often."
        )
        raise ValueError(msg)
    return asked


def folder_arguments(root: Path, category: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``Folder`` for one category in a tree ``root/category/{good,defect,...}``.

    Folders that the user has not named are searched: normal images in ``good``, masks in ``ground_truth`` or ``masks``
    (or in a subfolder for each folder of anomalous images), anomalous images in every other folder.

    Args:
        root: Folder that holds a folder for each category.
        category: Name of the category.
        arguments: Arguments of ``Folder`` that the user gave.
    """
    folder = root / category
    named = {"normal_dir": NORMAL, **arguments}
    if "mask_dir" not in named:
        named["mask_dir"] = next((name for name in MASKS if (folder / name).is_dir()), None)
    taken = {
        os.fspath(name)
        for key in ("normal_dir", "normal_test_dir", "mask_dir")
        for name in ([named.get(key)] if isinstance(named.get(key), str | Path | None) else named[key])
        if name is not None
    }
    if "abnormal_dir" not in named:
        others = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        named["abnormal_dir"] = [name for name in others if name not in taken] or None
    masks, defects = named["mask_dir"], named["abnormal_dir"]
    if isinstance(masks, str) and isinstance(defects, list):
        beside = [f"{masks}/{defect}" for defect in defects]
        if all((folder / name).is_dir() for name in beside):
            named["mask_dir"] = beside
    return {"name": category, "root": folder, **named}
