# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Atomic writing of files, file names within the limits of file systems, and errors of checkpoints that say why."""

import errno
import hashlib
import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["check_parts", "checkpoint_readable", "fitting_name", "marked_name", "reason_of", "written_whole"]

# Limit of a file name in bytes on the file systems of Linux and macOS. Windows takes 255 UTF-16 units; a name of 255
# bytes in UTF-8 never has more.
LONGEST_NAME = 255

# The parts of a checkpoint whose types are checked; of these, only the first two have to be there.
PARTS = {
    "pytorch-lightning_version": str,
    "state_dict": Mapping,
    "hyper_parameters": Mapping,
    "loops": Mapping,
    "callbacks": Mapping,
    "optimizer_states": list,
    "lr_schedulers": list,
    "anomalib_components_enabled": Mapping,
    "anomalib_pre_processor_config": Mapping,
    "anomalib_post_processor_config": Mapping,
    "MultiCategory": Mapping,
}


def fitting_name(name: str) -> str:
    """Return the name of a file, shortened where it has more bytes than a file system takes.

    Args:
        name: The name, without folders. In UTF-8, a Chinese character has three bytes.

    Returns:
        The name if it fits, otherwise ``STEM~MARK.SUFFIX`` as :func:`marked_name` makes it.
    """
    return name if len(os.fsencode(name)) <= LONGEST_NAME else marked_name(name, name)


def marked_name(name: str, source: str) -> str:
    """Insert a mark, eight hexadecimal digits of a hash, before the suffix of a file name.

    Args:
        name: The name, without folders; shortened at the end of a character where it would not fit.
        source: The text that is hashed.

    Returns:
        ``STEM~MARK.SUFFIX``; different sources give different marks.
    """
    mark = hashlib.sha256(os.fsencode(source)).hexdigest()[:8]
    suffix = Path(name).suffix
    # A long suffix is no suffix, but the rest of a name with a dot.
    if len(os.fsencode(suffix)) > LONGEST_NAME // 2:
        suffix = ""
    stem = name.removesuffix(suffix)
    end = f"~{mark}{suffix}"
    while len(os.fsencode(stem + end)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + end


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path beside it, which replaces the file at the end of the context.

    The previous file stays until then, and also if writing fails. A killed process may leave the temporary file
    ``.NAME.partial`` behind (its name shortened if too long), which the next write replaces.

    Args:
        path: The file to write.

    Yields:
        The temporary path to write to; its folder exists.

    Raises:
        OSError: If the file cannot be written; the message names it.
    """
    partial = path.with_name(fitting_name(f".{path.name}.partial"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        # Flushed to the disk before the rename: after a power failure the name must not stand for an empty file.
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        # Not Path.exists, which raises for a path that is too long.
        kept = "The file that was there before is kept. " if os.path.exists(path) else ""  # noqa: PTH110
        remedy = (
            "Choose a folder with a shorter path, or a shorter name."
            if error.errno == errno.ENAMETOOLONG
            else "Check that the disk has space and that the folder is writable."
        )
        msg = f"{path} could not be written ({error.strerror or error}). {kept}{remedy}"
        raise OSError(error.errno, msg) from error
    finally:
        # Where there is no folder there is nothing to remove, and the error above is the one to read.
        with suppress(OSError):
            partial.unlink()


@contextmanager
def checkpoint_readable(path: str | Path) -> Iterator[None]:
    """Context that turns any error of reading a checkpoint, but FileNotFoundError, into one that says why.

    Args:
        path: The checkpoint, for the message.

    Raises:
        ValueError: If the file cannot be read; names it and the reason.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    # A damaged pickle raises whatever its bytes happen to stand for.
    except Exception as error:
        msg = (
            f"The checkpoint {path} cannot be read ({reason_of(error)}). It is damaged, or it holds more than weights "
            "and settings, which is not loaded because it could run code. Use another checkpoint, or write it anew."
        )
        raise ValueError(msg) from error


def check_parts(checkpoint: Any) -> None:  # noqa: ANN401
    """Check that a checkpoint has the parts that every training writes, within :func:`checkpoint_readable`.

    Args:
        checkpoint: What its file holds.

    Raises:
        TypeError: If a part is missing, or not of the type that Lightning and anomalib expect.
    """
    if not isinstance(checkpoint, Mapping):
        msg = f"it holds {type(checkpoint).__name__}, not a dictionary"
        raise TypeError(msg)
    found = {"pytorch-lightning_version": None, "state_dict": None, **checkpoint}
    wrong = [name for name, kind in PARTS.items() if name in found and not isinstance(found[name], kind)]
    if wrong:
        msg = f"damaged parts: {', '.join(f'{name}={reprlib.repr(found[name])}' for name in wrong)}"
        raise TypeError(msg)


def reason_of(error: Exception) -> str:
    """Return why a file could not be loaded, without torch's advice to load it in the way that runs code."""
    if refused := re.search(r"GLOBAL (\S+)|but got <class '([^']+)'>", str(error)):
        return f"it holds {refused[1] or refused[2]}, which is neither a tensor nor a plain value"
    lines = [
        line.strip() for line in str(error).splitlines() if "weights_only" not in line and "torch.load" not in line
    ]
    return next(filter(None, lines), type(error).__name__)
