# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""File names for the pictures of several images, so that no two images share a file."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path, PurePath

from anomalib_transfusion.files import fitting_name, marked_name

__all__ = ["as_one_name", "plain_path", "tell_apart"]


def plain_path(path: str | Path) -> Path:
    """Resolve ``..`` in a path as the file system does; other paths are returned unchanged.

    Args:
        path: Path of an image.

    Returns:
        The path; symbolic links behind the last ``..`` are not resolved.
    """
    parts = Path(path).parts
    if ".." not in parts:
        return Path(path)
    end = len(parts) - parts[::-1].index("..")
    return Path(os.path.realpath(Path(*parts[:end])), *parts[end:])


def tell_apart(images: Iterable[Path], place: Callable[[Path], PurePath]) -> dict[Path, PurePath]:
    """Return a unique path for the picture of each image: the usual one, if needed with more of the image's folders.

    Paths are also unique on file systems that do not distinguish ``A.png`` and ``a.png``. If pictures of images in the
    same folder would have the same name, all but the first get a mark in their names. Names that are too long are
    shortened.

    Args:
        images: The images, without ``..``; one that comes twice counts once.
        place: The usual place of an image's picture: its name, with some of the last folders of the image's path.

    Returns:
        Where the picture of each image goes, relative to a folder for all of them.
    """
    usual = {image: place(image) for image in images}
    folders = {image: _folders(image) for image in usual}
    names: dict[Path, str] = {}
    for together in _alike(usual, lambda image: (as_one_name(*folders[image]), as_one_name(usual[image].name))):
        # A file that keeps its own name comes first, then the order of the names.
        together.sort(key=lambda image: (usual[image].name != image.name, str(image)))
        for number, image in enumerate(together):
            name = usual[image].name
            names[image] = marked_name(name, image.name) if number else fitting_name(name)
    kept = {image: len(usual[image].parts) - 1 for image in usual}

    def where(image: Path) -> PurePath:
        return PurePath(*folders[image][len(folders[image]) - kept[image] :], names[image])

    def claimed(image: Path) -> str:
        return as_one_name(*where(image).parts)

    while True:
        clashing = [image for together in _alike(usual, claimed) if len(together) > 1 for image in together]
        growing = [image for image in clashing if kept[image] < len(folders[image])]
        if not growing:
            return {image: where(image) for image in usual}
        for image in growing:
            kept[image] += 1


def as_one_name(*parts: str) -> str:
    """Return a key that is equal for paths that some file system does not distinguish."""
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()


def _folders(image: Path) -> list[str]:
    """Return the names of the folders of an image, from the root; a drive is its letter."""
    parts = [part.strip(":\\/") for part in Path(os.path.abspath(image)).parts[:-1]]  # noqa: PTH100
    return [part for part in parts if part]


def _alike(images: Iterable[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    """Group the images by a key."""
    groups: dict[Hashable, list[Path]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return list(groups.values())
