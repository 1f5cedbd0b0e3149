# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Explanations of anomalib's errors about a data set: paths with non-ASCII characters, masks that fit no image."""

import os
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anomalib.data.datamodules.image.folder import Folder
from anomalib.data.datamodules.image.mvtecad import MVTecAD
from anomalib.data.datasets.image.mvtecad import IMG_EXTENSIONS as MVTEC_SUFFIXES
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_transfusion.checks import listed

__all__ = ["explain_data_error"]

# Largest number of files to list in a message.
LISTED = 4
# anomalib's functions that build the table of a data set's files.
TABLES = {"make_folder_dataset", "make_mvtec_ad_dataset"}


class _Pairs(NamedTuple):
    """Images of defects and their masks, which anomalib pairs in the order of their names.

    Attributes:
        images: The images.
        masks: The masks.
        place: Folders that were searched for masks.
        suffixes: Suffixes of the files.
    """

    images: Sequence[Path]
    masks: Sequence[Path]
    place: str
    suffixes: Sequence[str]

    def problem(self) -> str | None:
        """Describe which images and masks do not belong together; None if all do."""
        lonely = [image for image in self.images if not any(image.stem in mask.stem for mask in self.masks)]
        useless = [mask for mask in self.masks if not any(image.stem in mask.stem for image in self.images)]
        if lonely or useless:
            said = [f"without a mask: {_names(lonely)}"] if lonely else []
            return "; ".join([*said, f"masks of no image: {_names(useless)}"] if useless else said)
        if len(self.images) != len(self.masks):
            return f"{len(self.images)} images, but {len(self.masks)} masks"
        for image, mask in zip(self.images, self.masks, strict=True):
            if image.stem not in mask.stem:
                return f"in the order of their names, {mask.name} comes where {image.name} does"
        return None


def explain_data_error(datamodule: Any, error: BaseException) -> None:  # noqa: ANN401
    """Raise a clearer error where anomalib's own about a data set does not say what to do; otherwise return.

    Args:
        datamodule: The data module of the run.
        error: The error that it raised.

    Raises:
        ValueError: If a path has characters that anomalib refuses, or masks fit no image; names them.
    """
    first = error
    # MultiCategory wraps the error of a category in one that names the category.
    while first.__cause__ is not None:
        first = first.__cause__
    functions = [frame.name for frame in traceback.extract_tb(first.__traceback__)]
    if functions[-1:] == ["validate_path"] and "non-printable" in str(first):
        path = str(first).partition(": ")[2]
        strange = "".join(dict.fromkeys(character for character in path if not " " <= character <= "~"))
        msg = (
            f"anomalib takes no folder of data whose path has other characters than those of ASCII, and {path} has "
            f"{strange!r}. Rename the folder, or move the data: files in it, results and checkpoints may have any name."
        )
        raise ValueError(msg) from error
    # anomalib itself names a missing folder.
    if TABLES.isdisjoint(functions) or functions[-1] == "validate_path":
        return
    for pairs in _pairs(datamodule):
        problem = pairs.problem()
        if problem:
            msg = (
                f"Images of defects and masks in {pairs.place} do not belong together: {problem}. anomalib expects a "
                "mask for each, in the order of their names, whose name has the image's in it and ends in "
                f"{', '.join(pairs.suffixes)}, as 000.png, 000_mask.png or 000_GT.png for 000.png. Rename or add "
                "masks, move the images without one, or do without masks (with Folder, leave out --data.mask_dir)."
            )
            raise ValueError(msg) from error


def _pairs(datamodule: Any) -> Iterator[_Pairs]:  # noqa: ANN401
    """Yield the images of defects of a data module with their masks, for classes whose layout is known."""
    for child in getattr(datamodule, "children", {}).values():
        yield from _pairs(child)
    if isinstance(datamodule, Folder) and datamodule.mask_dir is not None:
        suffixes = tuple(datamodule.extensions or IMG_EXTENSIONS)
        images, masks = (
            [Path(datamodule.root or "") / folder for folder in _as_list(folders)]
            for folders in (datamodule.abnormal_dir, datamodule.mask_dir)
        )
        place = ", ".join(map(str, masks))
        yield _Pairs(_files(images, suffixes), _files(masks, suffixes), place, suffixes)
    elif isinstance(datamodule, MVTecAD):
        root = Path(datamodule.root) / datamodule.category
        suffixes = tuple(getattr(datamodule, "extensions", MVTEC_SUFFIXES))
        for kind in sorted(path for path in (root / "test").glob("*") if path.is_dir() and path.name != "good"):
            beside = root / "ground_truth" / kind.name
            yield _Pairs(_files([kind], suffixes), _files([beside], suffixes), str(beside), suffixes)


def _as_list(folders: Any) -> list[Any]:  # noqa: ANN401
    """Return one folder or several as a list."""
    return [] if folders is None else [folders] if isinstance(folders, str | os.PathLike) else list(folders)


def _files(folders: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """Return the images below folders, in the order of anomalib."""
    lower = {suffix.lower() for suffix in suffixes}
    return sorted(path for folder in folders for path in folder.glob("**/*") if path.suffix.lower() in lower)


def _names(paths: Sequence[Path]) -> str:
    """Return the names of some files."""
    return listed([path.name for path in paths], LISTED)
