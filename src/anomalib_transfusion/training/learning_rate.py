# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Learning rate schedules over the length of a training in steps, epochs or time: a drop or a cosine, and a warm-up."""

import math
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = [
    "RateSchedule",
    "check_rates",
    "cosine",
    "drop_rate",
    "elapsed_share",
    "renew_rate",
    "scheduled_rate",
]

RateSchedule = Literal["drop", "cosine"]


def check_rates(**rates: float) -> None:
    """Raise ValueError if a learning rate, a weight decay, a share or a factor is impossible; the message names it.

    Args:
        rates: Values by name; a share is in [0, 1], all others are at least 0.
    """
    for name, value in rates.items():
        largest = 1 if name.endswith("_share") else float("inf")
        if not 0 <= value <= largest:
            msg = f"{name}={value} is impossible; expected a number from 0 to {largest}. Leave it out for the default."
            raise ValueError(msg)


def elapsed_share(trainer: Trainer, step: int) -> float:
    """Return the share of a training that has passed.

    Args:
        trainer: Its ``max_steps`` are the length of the training, else its ``max_epochs``, else its ``max_time``.
        step: Number of steps that have passed.

    Returns:
        The share, in [0, 1]; 0 if the training has no limit.
    """
    if trainer.max_steps > 0:
        return min(1.0, step / trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        return min(1.0, step / trainer.estimated_stepping_batches)
    timer = _timer(trainer)
    return 0.0 if timer is None else _elapsed(timer)


def drop_rate(optimizer: Optimizer, trainer: Trainer, share: float, decay: float) -> dict[str, Any]:
    """Return a schedule that lowers the learning rate once, as a scheduler configuration of Lightning.

    Args:
        optimizer: The optimizer.
        trainer: Its ``max_steps`` are the length of the training, else its ``max_epochs``, else its ``max_time``. If
            the training has no limit, the rate stays constant.
        share: Share of the training at the full rate, in [0, 1].
        decay: Factor of the rate in the rest of the training.
    """
    if trainer.max_steps > 0:
        length, interval = trainer.max_steps, "step"
    elif trainer.max_epochs is not None and trainer.max_epochs > 0:
        length, interval = trainer.max_epochs, "epoch"
    else:
        timer = _timer(trainer)
        scheduler = LambdaLR(optimizer, lambda _: 1.0 if timer is None or _elapsed(timer) < share else decay)
        return {"scheduler": scheduler, "interval": "step"}
    # The published drop at epoch 800 of 1500 stays exact: 800 is rounded back from 800 / 1500 * 1500.
    drop = round(share * length)
    return {"scheduler": LambdaLR(optimizer, lambda time: 1.0 if time < drop else decay), "interval": interval}


def cosine(share: float) -> float:
    """Return the factor of a rate that falls from 1 to 0 as half a cosine (Loshchilov and Hutter 2017, Eq. 5)."""
    return 0.5 + 0.5 * math.cos(math.pi * share)


def scheduled_rate(
    optimizer: Optimizer,
    trainer: Trainer,
    schedule: RateSchedule,
    full_rate_share: float,
    rate_decay: float,
    warmup_share: float,
) -> dict[str, Any]:
    """Return a learning rate schedule as a scheduler configuration of Lightning.

    Args:
        optimizer: The optimizer.
        trainer: The trainer, whose limits are the length of the training as for :func:`drop_rate`.
        schedule: ``drop`` for :func:`drop_rate`, ``cosine`` for :func:`cosine` from the end of the warm-up on.
        full_rate_share: For ``drop``: share of the training at the full rate, in [0, 1].
        rate_decay: For ``drop``: factor of the rate in the rest of the training.
        warmup_share: Share of the training in which the rate rises linearly, in [0, 1]; a drop during the warm-up
            multiplies the rising rate.
    """
    if schedule == "drop" and not warmup_share:
        return drop_rate(optimizer, trainer, full_rate_share, rate_decay)

    def factor(step: int) -> float:
        share = elapsed_share(trainer, step)
        # The first step is not lost at a rate of 0.
        if warmup_share and (rising := elapsed_share(trainer, step + 1) / warmup_share) < 1:
            return rising * (1.0 if schedule == "cosine" or share < full_rate_share else rate_decay)
        if schedule == "drop":
            return 1.0 if share < full_rate_share else rate_decay
        return cosine(max(0.0, share - warmup_share) / (1 - warmup_share)) if warmup_share < 1 else 1.0

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


def renew_rate(trainer: Trainer, configured: Any) -> None:  # noqa: ANN401
    """Set the learning rates and weight decay of a resumed training to the model's, and log where they differ.

    The checkpoint restored those of the training that wrote it, and the rate that its length gave the next epoch.

    Args:
        trainer: Trainer with the optimizer and the schedule of :func:`drop_rate`, restored from a checkpoint.
        configured: Result of the model's ``configure_optimizers``, a dictionary with the ``optimizer``. The ``name`` of
            a parameter group is the prefix of its ``learning_rate`` in messages.
    """
    fresh = configured.get("optimizer") if isinstance(configured, dict) else None
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if not isinstance(scheduler, LambdaLR) or not isinstance(fresh, Optimizer):
            continue
        # The schedule in the checkpoint may have counted epochs where this one counts steps, or vice versa.
        count = trainer.global_step if config.interval == "step" else trainer.current_epoch
        if abs(scheduler.last_epoch - count) > 1:
            scheduler.last_epoch = count
        scheduler.base_lrs = [group["initial_lr"] for group in fresh.param_groups]
        groups = zip(scheduler.optimizer.param_groups, fresh.param_groups, scheduler.lr_lambdas, strict=True)
        for group, wanted, factor in groups:
            names = {"initial_lr": f"{wanted.get('name', '')}learning_rate", "weight_decay": "weight_decay"}
            for key, name in names.items():
                found, group[key] = group[key], wanted[key]
                if found != wanted[key]:
                    rank_zero_info(
                        f"The training goes on with {name}={wanted[key]}; the checkpoint was written with {found}.",
                    )
            group["lr"] = wanted["initial_lr"] * factor(scheduler.last_epoch)


def _timer(trainer: Trainer) -> Timer | None:
    """Return the trainer's Timer callback, which limits the time of a training; None without a limit."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # type: ignore[attr-defined]


def _elapsed(timer: Timer) -> float:
    """Return the share of the time that has passed in training."""
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
    return 0.0 if remaining is None else elapsed / max(elapsed + remaining, 1e-9)
