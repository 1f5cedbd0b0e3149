# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""AdamW for base model and denoiser, which share no weight: rates, weight decay and clipping of their own."""

from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from anomalib_transfusion.checks import check_arguments
from anomalib_transfusion.models.base import DetectorMixin
from anomalib_transfusion.networks.backbone import trained_parameters
from anomalib_transfusion.training.learning_rate import RateSchedule, check_rates, scheduled_rate

from .torch_model import DrdcModel

__all__ = ["TwoRatesMixin"]

RATES = ("learning_rate", "weight_decay", "denoiser_learning_rate", "full_rate_share", "rate_decay", "warmup_share")
CLIPS = ("gradient_clip", "denoiser_gradient_clip")


class TwoRatesMixin(DetectorMixin):
    """Optimizes base model with head, and denoiser: a mix-in, before :class:`AnomalibModule` among the bases.

    Args:
        learning_rate: Learning rate of AdamW for the base model and the category head.
        weight_decay: Weight decay of AdamW for these.
        gradient_clip: Largest norm of their gradient; 0 for any. A clip of the trainer comes on top.
        denoiser_learning_rate: Learning rate of AdamW for the denoiser, which has no weight decay.
        denoiser_gradient_clip: Largest norm of its gradient; 0 for any.
        full_rate_share: Share of the training at the full rates, in [0, 1]; after it they are multiplied by
            ``rate_decay``.
        rate_decay: Factor of the rates in the rest of the training.
        rate_schedule: Course of the rates: the ``drop`` above, or in its place a ``cosine`` down to 0.
        warmup_share: Share of the training in which the rates rise from 0, in [0, 1].
        shared: As of :class:`DetectorMixin`.
    """

    model: DrdcModel

    def __init__(
        self,
        learning_rate: float = 1e-4,
        weight_decay: float = 1e-4,
        gradient_clip: float = 0.1,
        denoiser_learning_rate: float = 1e-4,
        denoiser_gradient_clip: float = 1.0,
        full_rate_share: float = 0.8,
        rate_decay: float = 0.1,
        rate_schedule: RateSchedule = "drop",
        warmup_share: float = 0.0,
        **shared: Any,  # noqa: ANN401
    ) -> None:
        given = check_arguments(TwoRatesMixin.__init__, locals())
        super().__init__(**shared)
        self.shared |= given
        self.rates: dict[str, float] = {name: given[name] for name in RATES}
        self.clips: tuple[float, ...] = tuple(given[name] for name in CLIPS)
        self.rate_schedule: RateSchedule = given["rate_schedule"]
        check_rates(**self.rates, **dict(zip(CLIPS, self.clips, strict=True)))

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        """Configure AdamW with two groups of parameters, and the course of their rates."""
        model, rates = self.model, self.rates
        base = [*trained_parameters(model.base), *model.head.parameters()]
        groups = [
            {"params": base, "lr": rates["learning_rate"], "weight_decay": rates["weight_decay"], "name": ""},
            {
                "params": list(model.refinement.parameters()),
                "lr": rates["denoiser_learning_rate"],
                "weight_decay": 0.0,
                "name": "denoiser_",
            },
        ]
        optimizer = AdamW(groups)
        shares = (rates["full_rate_share"], rates["rate_decay"], rates["warmup_share"])
        scheduler = scheduled_rate(optimizer, self.trainer, self.rate_schedule, *shares)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient of each group by itself: together, the larger would throttle the smaller."""
        for group, largest in zip(optimizer.param_groups, self.clips, strict=True):
            if largest:
                torch.nn.utils.clip_grad_norm_(group["params"], largest)
