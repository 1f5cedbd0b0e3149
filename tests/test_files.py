# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that are written whole, under names of any length."""

import errno
import os

import pytest

from anomalib_transfusion.files import fitting_name, marked_name, written_whole

# 85 characters of three bytes: as long as a name can be.
LONGEST = "漆" * 85


def write(path, text="text"):
    with written_whole(path) as partial:
        partial.write_text(text)


@pytest.mark.parametrize("name", [LONGEST, "a" * 255, "漆" * 83 + "a.png", "x" * 249 + ".jpeg", "." + "y" * 254])
def test_names_of_255_bytes_are_written(tmp_path, name):
    """The file that is written first has a name of its own that fits, too."""
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_killed_while_writing_the_next_one_writes_over(tmp_path):
    with written_whole(tmp_path / LONGEST) as partial:
        first = partial
        partial.write_text("text")
    with written_whole(tmp_path / LONGEST) as partial:
        assert partial == first
        partial.write_text("text")
    with written_whole(tmp_path / (LONGEST[:-1] + "他")) as partial:
        assert partial != first
        partial.write_text("text")


def test_short_names_stay():
    assert fitting_name("漆" * 83 + "a.png") == "漆" * 83 + "a.png"


@pytest.mark.parametrize("suffix", [".png", "", "." + "漆" * 60])
def test_long_names_are_cut_between_characters(suffix):
    long = [f"{'é漆' * 51}{letter}{'漆' * 30}{suffix}" for letter in "ab"]
    short = [fitting_name(name) for name in long]
    assert short[0] != short[1]
    for name, whole in zip(short, long, strict=True):
        # Whole characters only: a cut one cannot be decoded. What is left out is less than a character.
        assert 252 < len(name.encode()) <= 255
        assert whole.startswith(name.split("~")[0])
        assert name.endswith(suffix if len(suffix) < 10 else name[-8:])


def test_bytes_that_are_no_text():
    name = os.fsdecode(b"\xff" * 300 + b".png")
    assert len(os.fsencode(fitting_name(name))) == 255


def test_marks_differ_with_what_they_stand_for():
    assert marked_name("a.png", "a.bmp") != marked_name("a.png", "a.tif")
    assert marked_name("a.png", "a.bmp").startswith("a~")
    assert marked_name("a.png", "a.bmp").endswith(".png")


@pytest.mark.parametrize("name", ["a" * 256, "/".join(["a" * 200] * 30)])
def test_what_does_not_fit_says_so(tmp_path, name):
    with pytest.raises(OSError, match=r"could not be written .* Choose a folder with a shorter path") as raised:
        write(tmp_path / name)
    assert raised.value.errno == errno.ENAMETOOLONG
