# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Downloads that either arrive whole or leave nothing behind."""

import contextlib
import tempfile
from http.client import HTTPException
from lzma import LZMAError
from pathlib import Path
from tarfile import TarError

from anomalib.data.utils import DownloadInfo, download_and_extract
from anomalib.data.utils.download import extract

__all__ = ["download"]


def download(root: Path, info: DownloadInfo, what: str, remedy: str) -> None:
    """Download an archive and unpack it into a folder; if the archive is already there, it is only unpacked.

    Both happen in a temporary folder inside of the root, so that no partial archive or data set remains after a
    failure. Existing folders in the root stay as they are.

    Args:
        root: Folder to unpack into; made where it is missing.
        info: URL of the archive, and its checksum.
        what: Name of the missing data, for the beginning of the error message.
        remedy: What to do instead, for the end of the error message.

    Raises:
        RuntimeError: If the download fails or the archive cannot be unpacked.
    """
    archive = root / info.url.rsplit("/", maxsplit=1)[-1]
    found_archive = archive.is_file()
    created = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
            # download_and_extract takes any archive that it finds for a complete one: here it finds none.
            unpacked = Path(temporary) / "unpacked"
            unpacked.mkdir()
            if found_archive:
                extract(archive, unpacked)
            else:
                download_and_extract(unpacked, info)
            for path in sorted(unpacked.iterdir()):
                if not (root / path.name).exists():
                    path.rename(root / path.name)
    except (OSError, HTTPException, ValueError, EOFError, TarError, LZMAError) as error:
        if found_archive:
            action, remedy = f"unpacking {archive} failed", f"delete that archive to download it anew, or {remedy}"
        else:
            action = f"downloading it from {info.url} failed"
        msg = f"{what} was not found in {root.absolute()}, and {action}: {error!r}. What helps: {remedy}."
        raise RuntimeError(msg) from error
    finally:
        # A mistyped root should not stay behind as an empty folder.
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()
