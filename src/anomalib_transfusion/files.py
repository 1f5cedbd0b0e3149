# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that are either written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["written_whole"]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a file beside another to write into, which takes the other's place when it is whole.

    What was there before stays until then, and for good where writing fails. Of a killed process, a file
    ``.NAME.partial`` may stay behind, which the next one writes over.

    Args:
        path: The file to write.

    Yields:
        The file to write into; its folder exists.

    Raises:
        OSError: If it cannot be written, with the name of the file.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        # On the disk before the name changes: after a power failure the name must not stand for an empty file.
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        kept = "The file that was there before is kept. " if path.exists() else ""
        msg = (
            f"{path} could not be written ({error.strerror or error}). {kept}Check that the disk has space and that "
            "the folder is writable."
        )
        raise OSError(error.errno, msg) from error
    finally:
        # Where there is no folder there is nothing to remove, and the error above is the one to read.
        with suppress(OSError):
            partial.unlink()
