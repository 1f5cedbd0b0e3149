# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The one drop of the learning rate, after a share of the training, however its length is given."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["drop_rate", "renew_rate"]


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
        timer = next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # type: ignore[attr-defined]
        scheduler = LambdaLR(optimizer, lambda _: 1.0 if timer is None or _elapsed_share(timer) < share else decay)
        return {"scheduler": scheduler, "interval": "step"}
    # The published drop at epoch 800 of 1500 stays exact: 800 is rounded back from 800 / 1500 * 1500.
    drop = round(share * length)
    return {"scheduler": LambdaLR(optimizer, lambda time: 1.0 if time < drop else decay), "interval": interval}


def renew_rate(trainer: Trainer, learning_rate: float, weight_decay: float) -> None:
    """Give a resumed training the learning rate and weight decay that it was asked for, and say so where they differ.

    A checkpoint brings those of the training that wrote it, and the rate that its length gave the next epoch.

    Args:
        trainer: Trainer with the optimiser and the schedule of :func:`drop_rate`, restored from a checkpoint.
        learning_rate: The full rate.
        weight_decay: The weight decay.
    """
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if not isinstance(scheduler, LambdaLR):
            continue
        restored = scheduler.optimizer.param_groups[0]
        found = {"learning_rate": restored["initial_lr"], "weight_decay": restored["weight_decay"]}
        wanted = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        for name in wanted:
            if wanted[name] != found[name]:
                rank_zero_info(
                    f"The training goes on with {name}={wanted[name]}; the checkpoint was written with {found[name]}.",
                )
        scheduler.base_lrs = [learning_rate] * len(scheduler.base_lrs)
        for group, factor in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
            group["initial_lr"] = learning_rate
            group["weight_decay"] = weight_decay
            group["lr"] = learning_rate * factor(scheduler.last_epoch)


def _elapsed_share(timer: Timer) -> float:
    """Return the share of the time that has passed in training."""
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
    return 0.0 if remaining is None else elapsed / max(elapsed + remaining, 1e-9)
