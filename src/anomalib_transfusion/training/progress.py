# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Callback that estimates the remaining time of a training."""

import datetime
import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import STEP_OUTPUT

from .validation import is_milestone, num_epochs

__all__ = ["RemainingTime"]


class RemainingTime(Callback):
    """Shows the remaining minutes in the progress bar, and logs the remaining time about ten times in a training.

    The estimate is based on the batches since this run began, including validations between them. The time before a
    training was resumed does not count, since it may have run on another machine. Early stopping is not foreseen, but
    a time limit is.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the estimate."""
        del trainer, pl_module
        self._batches = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Show the estimate in the progress bar."""
        del outputs, batch, batch_idx
        # The first batch takes longer than any other and is left out.
        if self._batches == 0:
            self._start = time.monotonic()
        self._batches += 1
        left = self.seconds_left(trainer)
        if left is not None:
            # A tensor on the CPU: a number would be sent to the accelerator and back.
            pl_module.log("minutes_left", torch.tensor(left / 60), prog_bar=True, logger=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the estimate at milestones."""
        del pl_module
        left = self.seconds_left(trainer)
        epoch, epochs = trainer.current_epoch + 1, num_epochs(trainer)
        if left and is_milestone(epoch, epochs):
            of = "" if math.isinf(epochs) else f" of {epochs}"
            time_left = datetime.timedelta(seconds=math.ceil(left))
            rank_zero_info(f"Epoch {epoch}{of} is done; the training takes about {time_left} more.")

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Estimate the remaining time.

        Args:
            trainer: The trainer, while it trains.

        Returns:
            Seconds; ``None`` before the second batch without a time limit, or if nothing limits the training.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        limits = [timer.time_remaining() for timer in callbacks if isinstance(timer, Timer)]
        if self._batches > 1:
            limits.append(_batches_left(trainer) * (time.monotonic() - self._start) / (self._batches - 1))
        left = min((limit for limit in limits if limit is not None), default=math.inf)
        return max(0.0, left) if math.isfinite(left) else None


def _batches_left(trainer: Trainer) -> float:
    """Return the number of batches that are left in a training; infinite if unknown."""
    left, in_epoch, done = math.inf, trainer.num_training_batches, trainer.fit_loop.batch_idx + 1
    if trainer.max_epochs is not None and trainer.max_epochs > 0 and math.isfinite(in_epoch):
        left = (trainer.max_epochs - trainer.current_epoch) * in_epoch - done
    if trainer.max_steps > 0:
        accumulated = 0 if done == in_epoch else done % trainer.accumulate_grad_batches
        left = min(left, (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches - accumulated)
    return max(0, left)
