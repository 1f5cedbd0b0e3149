# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Adam with a learning rate for each of DiffusionAD's two networks."""

from typing import TYPE_CHECKING, Any, Literal

from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from anomalib_transfusion.training.learning_rate import cosine, elapsed_share

if TYPE_CHECKING:
    from .lightning_model import DiffusionAD

__all__ = ["SegmentationSchedule", "configure_adam"]

SegmentationSchedule = Literal["constant", "cosine", "swing"]

# The published code steps a cosine schedule of 10 epochs once per step: down in ten steps, and up again in ten.
SWING_STEPS = 10


def configure_adam(model: "DiffusionAD") -> dict[str, Any]:
    """Return optimizer and learning rate schedule as Lightning's ``configure_optimizers`` does.

    Args:
        model: The model with its trainer, which determines the length of the cosine.
    """
    groups = [
        {"params": model.model.unet.parameters(), "lr": model.learning_rate, "name": ""},
        {
            "params": model.model.segmentation.parameters(),
            "lr": model.segmentation_learning_rate,
            "name": "segmentation_",
        },
    ]
    trainer, schedule = model.trainer, model.segmentation_schedule

    def factor(step: int) -> float:
        """Return the factor of the segmentation network's rate after a number of steps."""
        if schedule == "constant":
            return 1.0
        share = step / SWING_STEPS if schedule == "swing" else elapsed_share(trainer, step)
        return cosine(share)

    optimizer = Adam(groups)
    scheduler = LambdaLR(optimizer, [lambda _: 1.0, factor])
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
