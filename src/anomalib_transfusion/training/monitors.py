# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What looks at validations: callbacks and schedulers of the user's, and how many epochs apart."""

import os
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

__all__ = ["Demand", "checkpoint_of_the_engine", "demands", "keeps_the_newest", "logged_in_training", "rewrite"]

# ModelCheckpoint knows them without a log.
ALWAYS_KNOWN = {"epoch", "step"}


class Demand(NamedTuple):
    """Something that needs a validation after every so many epochs."""

    name: str
    interval: int


def demands(trainer: Trainer, logged: set[str]) -> list[Demand]:
    """Return what needs validations at a number of epochs, as it would get them where each epoch is validated.

    That is: what monitors a metric that the training does not log; and checkpoints of certain epochs or of the best,
    each of which holds a threshold that validation finds.

    Args:
        trainer: The trainer.
        logged: Names that the training logs.

    Returns:
        The callbacks and schedulers, with the numbers of epochs.
    """
    logged = logged | ALWAYS_KNOWN
    found = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        interval = _interval(callback, logged)
        if interval is not None:
            monitor = getattr(callback, "monitor", None)
            found.append(Demand(f"{type(callback).__name__}(monitor={monitor!r})", interval))
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.monitor not in logged:
            interval = config.frequency if config.interval == "epoch" else 1
            found.append(Demand(f"{type(config.scheduler).__name__}(monitor={config.monitor!r})", interval))
    return found


def _interval(callback: Callback, logged: set[str]) -> int | None:
    """Return how many epochs apart a callback needs validations, or ``None``."""
    monitor = getattr(callback, "monitor", None)
    validated = isinstance(monitor, str) and monitor not in logged
    if isinstance(callback, ModelCheckpoint):
        interval = callback._every_n_epochs  # noqa: SLF001
        if callback.save_top_k == 0 or keeps_the_newest(callback):
            return None
        # Those that count steps or seconds save in the middle of epochs.
        return interval or (1 if validated else None)
    after_validation = isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is False  # noqa: SLF001
    return 1 if validated or after_validation else None


def keeps_the_newest(callback: Callback) -> bool:
    """Tell whether a callback replaces one checkpoint after each epoch: in the end it is that of the last epoch."""
    return (
        isinstance(callback, ModelCheckpoint)
        and callback.monitor is None
        and callback.save_top_k == 1
        and callback._every_n_epochs == 1  # noqa: SLF001
    )


def checkpoint_of_the_engine(trainer: Trainer) -> ModelCheckpoint | None:
    """Return the checkpoint callback that anomalib's engine adds where the user has none, if it did.

    The first process decides for all: the folder of a run, by which it is known, is its alone.
    """
    folder = os.path.realpath(Path(trainer.default_root_dir) / "weights" / "lightning")
    present = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    places = [os.path.realpath(callback.dirpath) if callback.dirpath is not None else "" for callback in present]
    own = [number for number, place in enumerate(places) if place == folder and keeps_the_newest(present[number])]
    chosen = trainer.strategy.broadcast(own[0] if own else None)
    return None if chosen is None else present[chosen]


def rewrite(trainer: Trainer, callback: ModelCheckpoint) -> None:
    """Write the newest checkpoint of a callback again, after a validation that came later."""
    paths = {os.path.realpath(path) for path in (callback.best_model_path, callback.last_model_path) if path}
    for path in sorted(paths):
        trainer.save_checkpoint(path, callback.save_weights_only)


def logged_in_training(trainer: Trainer) -> set[str]:
    """Return the names that the training has logged, under which callbacks may ask for them."""
    names = set()
    for result in trainer.fit_loop.epoch_loop._results.values():  # noqa: SLF001
        meta = result.meta
        names |= {meta.name, meta.forked_name(on_step=True), meta.forked_name(on_step=False)}
    return names
