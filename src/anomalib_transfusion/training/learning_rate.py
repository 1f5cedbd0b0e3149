# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The one drop of the learning rate, after a share of the training, however its length is given."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["check_rates", "drop_rate", "elapsed_share", "renew_rate"]


def check_rates(**rates: float) -> None:
    """Raise ValueError, naming it, if a learning rate, a weight decay, a share or a factor of them is impossible.

    Args:
        rates: Values by name; a share is in [0, 1], all others are at least 0.
    """
    for name, value in rates.items():
        largest = 1 if name.endswith("_share") else float("inf")
        if not 0 <= value <= largest:
            msg = f"{name}={value} is impossible; expected a number from 0 to {largest}. Leave it out for the default."
            raise ValueError(msg)


def elapsed_share(trainer: Trainer, step: int) -> float:
    """Return how much of a training has passed, however its length is given.

    Args:
        trainer: Its ``max_steps`` are the length of the training, else its ``max_epochs``, else its ``max_time``.
        step: Number of steps that have passed.

    Returns:
        The share, in [0, 1]; 0 in a training without end.
    """
    if trainer.max_steps > 0:
        return min(1.0, step / trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        return min(1.0, step / trainer.estimated_stepping_batches)
    timer = _timer(trainer)
    return 0.0 if timer is None else _elapsed(timer)


def drop_rate(optimizer: Optimizer, trainer: Trainer, share: float, decay: float) -> dict[str, Any]:
    """Return a schedule in the form that Lightning takes.

    Args:
        optimizer: The optimiser.
        trainer: Its ``max_steps`` are the length of the training, else its ``max_epochs``, else its ``max_time``. Of a
            training without end the rate stays as it is.
        share: Share of the training at the full rate, in [0, 1].
        decay: Factor of the rate in the rest.
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


def renew_rate(trainer: Trainer, configured: Any) -> None:  # noqa: ANN401
    """Give a resumed training the learning rates and weight decay that it was asked for, and say where they differ.

    A checkpoint brings those of the training that wrote it, and the rate that its length gave the next epoch.

    Args:
        trainer: Trainer with the optimiser and the schedule of :func:`drop_rate`, restored from a checkpoint.
        configured: What the model configures for a new training: a dictionary with the ``optimizer``, a schedule over
            it. Where it has several groups of parameters, ``name`` of a group is in front of its rate's name.
    """
    fresh = configured.get("optimizer") if isinstance(configured, dict) else None
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if not isinstance(scheduler, LambdaLR) or not isinstance(fresh, Optimizer):
            continue
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
    """Return what limits the time of a training."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # type: ignore[attr-defined]


def _elapsed(timer: Timer) -> float:
    """Return the share of the time that has passed in training."""
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
    return 0.0 if remaining is None else elapsed / max(elapsed + remaining, 1e-9)
