# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Each picture has a file of its own."""

from pathlib import Path, PurePath

import pytest

from anomalib_transfusion.visualization.output_names import plain_path, tell_apart


def with_folder(image):
    """Keep the last folder, as anomalib does for images outside of its data set."""
    return PurePath(image.parent.name, image.name)


def as_png(image):
    """Name a picture of another format."""
    return PurePath(image.parent.name, f"{image.stem}.png")


def places(*images, place=with_folder):
    return [found.as_posix() for found in tell_apart(map(Path, images), place).values()]


def test_what_does_not_collide_stays():
    assert places("/a/good/0.png", "/a/bad/0.png", "/b/good/1.png") == ["good/0.png", "bad/0.png", "good/1.png"]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (["/in/mon/cam/0.png", "/in/tue/cam/0.png"], ["mon/cam/0.png", "tue/cam/0.png"]),
        # As many as it takes, of those alone that need them.
        (
            ["/r/a/x/cam/0.png", "/r/b/x/cam/0.png", "/r/b/x/cam/1.png", "/r/c/y/cam/0.png"],
            ["a/x/cam/0.png", "b/x/cam/0.png", "cam/1.png", "y/cam/0.png"],
        ),
        # One runs out of folders.
        (["/cam/0.png", "/a/cam/0.png"], ["cam/0.png", "a/cam/0.png"]),
        # The one that goes up meets a third one.
        (["/a/b/0.png", "/x/b/0.png", "/q/a/b/0.png"], None),
        # For some file systems, these are one.
        (["/a/Good/0.png", "/b/good/0.PNG"], ["a/Good/0.png", "b/good/0.PNG"]),
        (["/a/e\u0301/0.png", "/b/\u00e9/0.png"], ["a/e\u0301/0.png", "b/\u00e9/0.png"]),
    ],
)
def test_as_many_folders_as_it_takes(images, expected):
    found = places(*images)
    assert expected is None or found == expected
    assert len({name.casefold() for name in found}) == len(images)
    # None depends on the order.
    assert places(*reversed(images)) == found[::-1]


@pytest.mark.parametrize("images", [["/a/x/0.bmp", "/a/x/0.tif", "/a/x/0.png"], ["/a/x/A.png", "/a/x/a.png"]])
def test_images_of_one_folder(images):
    """More folders would not help: a mark in the name, of all but one."""
    found = places(*images, place=as_png)
    assert len({name.casefold() for name in found}) == len(images)
    assert sum("~" in name for name in found) == len(images) - 1
    assert all(name.startswith("x/") and name.endswith(".png") for name in found)
    assert places(*reversed(images), place=as_png) == found[::-1]


def test_one_image_twice_is_one():
    assert places("/a/x/0.png", "/a/x/0.png") == ["x/0.png"]


def test_long_names_that_begin_alike():
    images = [f"/a/x/{'漆' * 83}{letter}.tif" for letter in "ab"]
    found = places(*images, place=lambda image: PurePath("x", f"{image.name}.png"))
    assert len(set(found)) == 2
    assert all(len(Path(name).name.encode()) <= 255 and name.endswith(".png") for name in found)


def test_folder_above(tmp_path):
    """As the file system follows it: behind a link, another folder than the path seems to say."""
    for folder in ("here/a", "there/b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "here/link").symlink_to(tmp_path / "there/b")
    assert plain_path(tmp_path / "here/a/../x/0.png") == tmp_path.resolve() / "here/x/0.png"
    assert plain_path(tmp_path / "here/link/../x/0.png") == tmp_path.resolve() / "there/x/0.png"
    assert plain_path(tmp_path / "here/link/0.png") == tmp_path / "here/link/0.png"
    assert plain_path("0.png") == Path("0.png")
