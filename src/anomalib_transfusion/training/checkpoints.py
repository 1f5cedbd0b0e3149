# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints that are written atomically, and read without running code in them."""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from anomalib_transfusion.files import check_parts, checkpoint_readable, written_whole

__all__ = ["WholeCheckpointIO", "use_whole_checkpoints"]


class WholeCheckpointIO(AnomalibCheckpointIO):
    """anomalib's reader and writer of checkpoints, with atomic writes and clear errors for damaged files.

    Lightning writes to the folder for temporary files and moves the result. If that folder is on another disk, the move
    overwrites the previous checkpoint, which is lost if the disk is full or the process is killed.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint; the file that was there before is replaced when the new one is whole.

        Args:
            checkpoint: The checkpoint.
            path: Where to write it; remote paths (``s3://...``) are left to Lightning.
            storage_options: Passed to Lightning, which does not support them.

        Raises:
            OSError: If the file cannot be written; the message names it.
            TypeError: If ``storage_options`` are given.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # In memory first, as Lightning does: on a full disk, torch.save would raise an error about its archive.
        content = BytesIO()
        torch.save(checkpoint, content)
        with written_whole(Path(path)) as partial:
            partial.write_bytes(content.getbuffer())

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:  # noqa: ANN401
        """Read a checkpoint.

        Args:
            path: The file.
            map_location: As in ``torch.load``.
            weights_only: ``False`` allows the file to run code. ``None`` means ``True``, also with an old torch.

        Returns:
            The checkpoint.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or holds code; names it.
        """
        with checkpoint_readable(path):
            checkpoint = super().load_checkpoint(path, map_location, weights_only=weights_only is not False)
            check_parts(checkpoint)
        return checkpoint


def use_whole_checkpoints(trainer: Trainer) -> None:
    """Make a trainer write checkpoints atomically, unless the user gave it a checkpoint plugin.

    Args:
        trainer: The trainer.
    """
    present = trainer.strategy.checkpoint_io
    if type(present) in {TorchCheckpointIO, AnomalibCheckpointIO}:
        trainer.strategy.checkpoint_io = WholeCheckpointIO(getattr(present, "extra_safe_globals", None))
