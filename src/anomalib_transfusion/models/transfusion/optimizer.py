# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""AdamW and its learning rate schedule."""

from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from anomalib_transfusion.checks import check_arguments
from anomalib_transfusion.models.base import DetectorMixin
from anomalib_transfusion.networks.backbone import trained_parameters
from anomalib_transfusion.training.learning_rate import RateSchedule, check_rates, scheduled_rate

from .torch_model import TransFusionModel

__all__ = ["ScheduledAdamWMixin"]

RATES = ("learning_rate", "weight_decay", "full_rate_share", "rate_decay", "warmup_share")


class ScheduledAdamWMixin(DetectorMixin):
    """Mix-in that optimizes the trained weights of ``self.model``; it must come before :class:`AnomalibModule`.

    Args:
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        full_rate_share: Share of the training at the full learning rate, in [0, 1]; after it the rate is
            multiplied by ``rate_decay``.
        rate_decay: Factor of the learning rate in the rest of the training.
        rate_schedule: Schedule of the learning rate: ``drop``, by ``rate_decay`` after ``full_rate_share`` (the
            paper's), or ``cosine``, down to 0 over the training.
        warmup_share: Share of the training in which the learning rate rises from 0, in [0, 1]; 0 is the paper's.
        shared: Parameters of :class:`DetectorMixin`.
    """

    model: TransFusionModel

    def __init__(
        self,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.01,
        full_rate_share: float = 800 / 1500,
        rate_decay: float = 0.1,
        rate_schedule: RateSchedule = "drop",
        warmup_share: float = 0.0,
        **shared: Any,  # noqa: ANN401
    ) -> None:
        given = check_arguments(ScheduledAdamWMixin.__init__, locals())
        super().__init__(**shared)
        self.shared |= given
        rates = {name: given[name] for name in RATES}
        check_rates(**rates)
        self.learning_rate, self.weight_decay, self.full_rate_share, self.rate_decay, self.warmup_share = rates.values()
        self.rate_schedule: RateSchedule = given["rate_schedule"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Configure AdamW and its learning rate schedule over the length of the training."""
        trained = trained_parameters(self.model)
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay)
        shares = (self.full_rate_share, self.rate_decay, self.warmup_share)
        scheduler = scheduled_rate(optimizer, self.trainer, self.rate_schedule, *shares)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}  # type: ignore[return-value]
