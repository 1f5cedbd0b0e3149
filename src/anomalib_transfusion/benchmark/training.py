# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Trainings that are saved every two minutes, can be resumed, and keep their weights for other rows."""

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from anomalib.models.components import MemoryBankMixin
from lightning.pytorch.callbacks import Timer

from anomalib_transfusion.categories.fix import CHECKPOINT_KEY
from anomalib_transfusion.categories.post_processing import statistics_of
from anomalib_transfusion.files import check_parts, checkpoint_readable, written_whole

from .rows import Row

__all__ = ["Training"]

SAVE_EVERY = timedelta(minutes=2)
# How the names begin under which anomalib saves the parts of a model that are no network.
COMPONENTS = "anomalib_"


@dataclass(frozen=True)
class Training:
    """The training of a row.

    Attributes:
        row: The row.
        folder: Folder of its checkpoints.
        kept: Whether the checkpoints are kept, so that the training can be resumed.
    """

    row: Row
    folder: Path
    kept: bool

    @classmethod
    def of(cls, row: Row, output_dir: str | Path, kept: bool, temporary: str | Path) -> "Training":
        """Return the training of a row in the folder of its benchmark, or in a temporary one."""
        return cls(row, Path(output_dir) / "checkpoints" / row.key if kept else Path(temporary), kept)

    @property
    def weights(self) -> Path:
        """Checkpoint of the trained model, as anomalib's commands and ``load_from_checkpoint`` take it."""
        return self.folder / "model.ckpt"

    def saver(self, model: AnomalibModule) -> ModelCheckpoint:
        """Make the callback that saves the training regularly, in place of anomalib's checkpoint callback."""
        # A memory bank is built in one pass over the images and cannot be resumed.
        if not self.kept or isinstance(model, MemoryBankMixin):
            return ModelCheckpoint(self.folder, save_top_k=0)
        return ModelCheckpoint(self.folder, save_last=True, save_top_k=0, train_time_interval=SAVE_EVERY)

    def timer(self) -> Timer:
        """Make the callback that ends the training at its time limit; its elapsed time is saved in checkpoints."""
        return Timer(None if self.row.minutes is None else timedelta(minutes=self.row.minutes), verbose=False)

    def run(self, engine: Engine, model: AnomalibModule, data: AnomalibDataModule, timer: Timer) -> dict[str, Any]:
        """Train a model, or load or resume its earlier training.

        Args:
            engine: Engine with the callbacks of this training.
            model: The model.
            data: The data module.
            timer: The timer among the callbacks.

        Returns:
            ``fit_duration`` in seconds, including the time before an interruption, ``epochs`` and ``steps``.
        """
        numbers, last = self.folder / "training.json", self.folder / "last.ckpt"
        if self.kept and numbers.is_file() and self.weights.is_file():
            self.load_weights(model)
            return json.loads(numbers.read_text(encoding="utf-8"))
        start = perf_counter()
        engine.fit(model, datamodule=data, ckpt_path=last if self.kept and last.is_file() else None)
        before = timer.time_elapsed() - ((timer.end_time() or 0) - (timer.start_time() or 0))
        trainer = engine.trainer
        columns = {
            "fit_duration": perf_counter() - start + before,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
        }
        if self.kept:
            with written_whole(self.weights) as partial:
                trainer.save_checkpoint(partial)
            with written_whole(numbers) as partial:
                partial.write_text(json.dumps(columns) + "\n", encoding="utf-8")
            last.unlink(missing_ok=True)
        return columns

    def load_weights(self, model: AnomalibModule) -> None:
        """Load the trained weights into a model, and the thresholds of each category if the checkpoint has them.

        Raises:
            FileNotFoundError: If there are no trained weights.
            ValueError: If they cannot be read.
        """
        if not self.weights.is_file():
            msg = (
                f"There are no trained weights of {self.row.label}: {self.weights} is not there. Run the benchmark "
                "until that row is done."
            )
            raise FileNotFoundError(msg)
        with checkpoint_readable(self.weights):
            checkpoint = torch.load(self.weights, map_location="cpu", weights_only=True)
            check_parts(checkpoint)
        # What a model keeps beside its weights, as on every other way to load them; pre- and post-processor are the
        # row's own.
        kept = {name: value for name, value in checkpoint.items() if not name.startswith(COMPONENTS)}
        model.on_load_checkpoint(kept)
        model.load_state_dict(checkpoint["state_dict"])
        statistics_of(model).update(checkpoint.get(CHECKPOINT_KEY, {}).get("statistics", {}))
