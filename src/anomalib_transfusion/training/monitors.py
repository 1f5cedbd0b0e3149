# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The user's callbacks and schedulers that need validations, and after how many epochs they need one."""

import os
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

__all__ = ["Demand", "checkpoint_of_the_engine", "demands", "keeps_the_newest", "logged_in_training", "rewrite"]

# Values that ModelCheckpoint can monitor although nothing logs them.
ALWAYS_KNOWN = {"epoch", "step"}


class Demand(NamedTuple):
    """A callback or scheduler, ``name``, that needs a validation every ``interval`` epochs."""

    name: str
    interval: int


def demands(trainer: Trainer, logged: set[str]) -> list[Demand]:
    """Return the callbacks and schedulers that need validations, so that they work as if each epoch were validated.

    These monitor a metric that training does not log, or save checkpoints of certain or of the best epochs, which need
    the threshold that validation finds.

    Args:
        trainer: The trainer.
        logged: Names of the values that training logs.

    Returns:
        The callbacks and schedulers, with their intervals in epochs.
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
    """Return the interval in epochs at which a callback needs validations; ``None`` if it needs none."""
    monitor = getattr(callback, "monitor", None)
    validated = isinstance(monitor, str) and monitor not in logged
    if isinstance(callback, ModelCheckpoint):
        interval = callback._every_n_epochs  # noqa: SLF001
        if callback.save_top_k == 0 or keeps_the_newest(callback):
            return None
        # Callbacks that count steps or seconds save in the middle of epochs.
        return interval or (1 if validated else None)
    after_validation = isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is False  # noqa: SLF001
    return 1 if validated or after_validation else None


def keeps_the_newest(callback: Callback) -> bool:
    """Tell whether a callback saves a checkpoint after each epoch and keeps only that of the last."""
    return (
        isinstance(callback, ModelCheckpoint)
        and callback.monitor is None
        and callback.save_top_k == 1
        and callback._every_n_epochs == 1  # noqa: SLF001
    )


def checkpoint_of_the_engine(trainer: Trainer) -> ModelCheckpoint | None:
    """Return the checkpoint callback that anomalib's engine added because the user has none; ``None`` if there is none.

    It is recognized by the folder of the run, which only the first process knows, so the first process decides.
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
    """Return the names of the values that training has logged, with the suffixes that Lightning adds."""
    names = set()
    for result in trainer.fit_loop.epoch_loop._results.values():  # noqa: SLF001
        meta = result.meta
        names |= {meta.name, meta.forked_name(on_step=True), meta.forked_name(on_step=False)}
    return names
