# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks that an image and its mask cover each other pixel by pixel: EXIF orientation and aspect ratio."""

from pathlib import Path

from PIL import ExifTags, Image

__all__ = ["check_upright", "cover_each_other", "orientation_of"]

# Values of EXIF's Orientation, tag 0x0112, and how a viewer turns an image of them (CIPA DC-008, Section 4.6.4).
TURNS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored along its main diagonal",
    6: "turned clockwise by 90 degrees",
    7: "mirrored along its other diagonal",
    8: "turned counterclockwise by 90 degrees",
}


def orientation_of(file: Image.Image) -> int:
    """Return the orientation that EXIF gives an image, 1 where it is shown as it is stored.

    Args:
        file: The opened file; its pixels are not decoded. A TIFF file always gives 1, because every program turns it.
    """
    # PIL decodes all of a PNG to look for EXIF behind the pixels, where hardly any program writes it.
    if file.format == "TIFF" or (file.format == "PNG" and not {"exif", "Raw profile type exif"} & file.info.keys()):
        return 1
    return file.getexif().get(ExifTags.Base.Orientation, 1)


def check_upright(orientation: int, path: str | Path, what: str) -> None:
    """Refuse an image that some programs turn and others do not.

    anomalib and this package read pixels as they are stored; viewers, annotation tools and OpenCV turn them as EXIF
    says.

    Args:
        orientation: Orientation of the image by EXIF, as :func:`orientation_of` returns it.
        path: Path of the file, for the message.
        what: Name of the kind of file, for the message: ``image``, ``mask``, ...

    Raises:
        ValueError: If the orientation is not 1; the message names the file and the orientation.
    """
    if orientation in TURNS:
        msg = (
            f"The {what} {path} has the EXIF orientation {orientation}, to be shown {TURNS[orientation]}: anomalib "
            "reads its pixels as they are stored, viewers and annotation tools turn them, so that images and masks "
            "need not lie on each other. Turn the pixels of all such files, with PIL: "
            "ImageOps.exif_transpose(Image.open(path)).save(path), or with ImageMagick: mogrify -auto-orient."
        )
        raise ValueError(msg)


def cover_each_other(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether two images have the same aspect ratio, up to a pixel.

    Args:
        size: Width and height of the first image in pixels.
        other: Width and height of the second image in pixels.
    """
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)
