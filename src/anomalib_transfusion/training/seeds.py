# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Reproducible training: random numbers that follow from one seed, also after a restart."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule

from .numerics import seed_from, seeded

__all__ = ["SeededTraining"]

SEED_KEY = "transfusion_seed"


class SeededTraining(LightningModule):
    """Model mix-in that derives the random numbers of each epoch and step from one seed, which checkpoints keep.

    The numbers thus do not depend on restarts or on validations in between. They differ between processes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.resumed = False
        """Whether the current training was resumed from a checkpoint."""

        self._seed = 0
        self._first_epoch = 0
        self._resumed_epoch: int | None = None

    def on_fit_start(self) -> None:
        """Seed the first epoch."""
        self.resumed = self._resumed_epoch is not None
        if self._resumed_epoch is None:
            # One seed for all processes, which derive their own from it: any of them may write the checkpoint.
            self._seed = self.trainer.strategy.broadcast(int(torch.randint(2**62, ())))
            self._first_epoch = self.current_epoch
        else:
            self._first_epoch, self._resumed_epoch = self._resumed_epoch, None
        self._seed_epoch(self._first_epoch)
        if self.resumed and self.trainer.train_dataloader is not None:
            # A learning rate schedule that needs the number of steps has already made the iterator of the data loader,
            # which draws one number, the seed of its workers.
            torch.empty((), dtype=torch.int64).random_()

    def on_train_epoch_start(self) -> None:
        """Seed an epoch. The first was seeded before, because Lightning makes its data iterator earlier."""
        if self.current_epoch != self._first_epoch:
            self._seed_epoch(self.current_epoch)

    def _seed_epoch(self, epoch: int) -> None:
        """Seed the order of the images and their augmentation."""
        torch.manual_seed(seed_from(self._seed, self.global_rank, epoch))

    @contextmanager
    def drawing(self, device: torch.device) -> Iterator[None]:
        """Context in which random numbers follow from seed, process, epoch and step, whatever the trainer's precision.

        Args:
            device: Device on which numbers are drawn, besides the CPU.
        """
        step = self.trainer.fit_loop.total_batch_idx
        seed = seed_from(self._seed, self.global_rank, self.current_epoch, step)
        with seeded(seed, device), torch.autocast(device.type, enabled=False):
            yield

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the seed, so that a resumed training continues as if it had never stopped."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[SEED_KEY] = self._seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the seed of a training that is resumed."""
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.training and {SEED_KEY, "loops"} <= checkpoint.keys():
            self._seed = checkpoint[SEED_KEY]
            self._resumed_epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            # Also before on_fit_start: a learning rate schedule that needs the number of steps makes the data iterator,
            # which draws the order of the images at once.
            self._seed_epoch(self._resumed_epoch)
