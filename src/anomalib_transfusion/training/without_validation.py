# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Training with data modules that have no validation images."""

from typing import Any

from anomalib.data.datamodules.base.image import AnomalibDataModule
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["WithoutValidation"]


class WithoutValidation(Callback):
    """Lets a training go on without validation where a data module has no validation images.

    With ``val_split_mode=none`` anomalib's data modules have none, and ``val_dataloader`` raises AttributeError.
    """

    def __init__(self) -> None:
        self._limit: int | float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Switch validation off in a training without validation images.

        Raises:
            ValueError: If the stage is validation, or ``val_split_mode`` is not ``none`` and yet there are no images.
        """
        del pl_module
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage not in {"fit", "validate"} or not _lacks_validation(datamodule):
            return
        mode = getattr(datamodule.val_split_mode, "value", datamodule.val_split_mode)
        if stage == "validate" or mode != "none":
            msg = (
                f"{type(datamodule).__name__} has no validation images with val_split_mode={mode}, but they were asked "
                "for. Choose same_as_test, from_test or from_train (--data.val_split_mode), or none to train without."
            )
            raise ValueError(msg)
        rank_zero_warn(
            "There is no validation with val_split_mode=none, and so no threshold and no normalization of scores: "
            "labels are those of scores above 0.5. Choose same_as_test or from_test (--data.val_split_mode) for them.",
        )
        self._limit = trainer.limit_val_batches
        trainer.limit_val_batches = 0

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the trainer as it was."""
        del pl_module, stage
        if self._limit is not None:
            trainer.limit_val_batches, self._limit = self._limit, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the trainer as it was."""
        del exception
        self.teardown(trainer, pl_module, "")


def _lacks_validation(datamodule: Any) -> bool:  # noqa: ANN401
    """Tell whether a data module's ``val_dataloader`` needs validation images that do not exist."""
    # Imported here: it would be partially imported if the models are imported first.
    from anomalib_transfusion.data.multi_category import MultiCategory

    loader = getattr(type(datamodule), "val_dataloader", None)
    ours = {AnomalibDataModule.val_dataloader, MultiCategory.val_dataloader}
    return loader in ours and not hasattr(datamodule, "val_data")
