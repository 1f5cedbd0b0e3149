# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Validation that costs little: rarely, and always after the last epoch.

Validating runs the whole reverse process on every validation image. After each epoch, as Lightning's default is, that
would cost several times the training.
"""

import math
import sys
from typing import TYPE_CHECKING, Any

from anomalib.data.datamodules.base.image import AnomalibDataModule
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["RareValidation", "WithoutValidation", "is_milestone", "num_epochs", "typed_by_user"]

# A training step costs about as much as three forward passes: one forward, and a backward of twice its cost.
PASSES_PER_TRAINING_IMAGE = 3
SHARE_OF_TRAINING_TIME = 0.1
# Values that are allowed and that nobody types.
NEVER_TYPED: dict[str, int | str] = {
    "check_val_every_n_epoch": sys.maxsize,
    "val_check_interval": sys.maxsize,
    "precision": "transformer-engine-float16",
}


class RareValidation(Callback):
    """Chooses the epochs after which Lightning validates.

    Args:
        passes: Network passes that validating one image takes.
    """

    def __init__(self, passes: int) -> None:
        self.passes = passes
        self.interval: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Work out the interval from the sizes of the data sets."""
        del pl_module
        if not trainer.enable_validation:
            trainer.check_val_every_n_epoch = 1
            return
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True
        validation_cost = _num_images(trainer.val_dataloaders) * self.passes
        training_cost = _num_images(trainer.train_dataloader) * PASSES_PER_TRAINING_IMAGE
        self.interval = validation_interval(validation_cost / training_cost, num_epochs(trainer))
        # After every epoch is what the trainer said anyway.
        if self.interval > 1:
            rank_zero_info(
                f"TransFusion validates every {self.interval} epochs and after the last one, because a validation "
                f"costs as much as {validation_cost / training_cost:.1f} epochs. Set the trainer's "
                "check_val_every_n_epoch to choose yourself.",
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Tell Lightning, before it decides, whether this epoch is one to validate after."""
        del pl_module, outputs, batch, batch_idx
        if self.interval is None:
            return
        if 0 < trainer.max_steps <= trainer.global_step:
            # Lightning ends such a run without validating; a stop on request is validated.
            trainer.should_stop = True
        epoch, last = trainer.current_epoch + 1, num_epochs(trainer)
        # Counted back from the last epoch, so that it is one of them.
        due = trainer.should_stop or (epoch if math.isinf(last) else last - epoch) % self.interval == 0
        # Lightning validates where this number divides the epoch's, counted from one.
        trainer.check_val_every_n_epoch = 1 if due else trainer.current_epoch + 2

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the trainer as it was."""
        del pl_module
        self.interval = None
        trainer.check_val_every_n_epoch = 1


class WithoutValidation(Callback):
    """Lets a training go on without validation where a data module has no validation images.

    anomalib's data modules have none with ``val_split_mode`` none, and their loaders end with an AttributeError.
    """

    def __init__(self) -> None:
        self._limit: int | float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave validation out of a training.

        Raises:
            ValueError: If validation is all that was asked for, or the user asked for images that there are not.
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
            "There is no validation with val_split_mode=none, and so no threshold and no normalisation of scores: "
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
    """Tell whether a data module's loader asks for validation images that there are not."""
    # Not above: it would be half imported where the models are imported first.
    from anomalib_transfusion.data.multi_category import MultiCategory

    loader = getattr(type(datamodule), "val_dataloader", None)
    ours = {AnomalibDataModule.val_dataloader, MultiCategory.val_dataloader}
    return loader in ours and not hasattr(datamodule, "val_data")


def validation_interval(cost: float, epochs: float) -> int:
    """Return the smallest interval at which validation stays within its share of the training time.

    Args:
        cost: Cost of a validation in epochs of training.
        epochs: Length of the training in epochs; infinite where it is unknown.

    Returns:
        The interval in epochs, counted back from the last one. The last validation is always done, so the interval is
        at most the whole training, which may then cost more than its share.
    """
    if math.isinf(epochs):
        return max(1, math.ceil(cost / SHARE_OF_TRAINING_TIME))
    validations = max(1, math.floor(SHARE_OF_TRAINING_TIME * epochs / cost))
    return max(1, math.ceil(epochs / validations))


def is_milestone(epoch: int, epochs: float, interval: int | None = None) -> bool:
    """Tell whether an epoch is one of a few at which to tell the user how the training goes.

    Args:
        epoch: Number of the epoch, counted from one.
        epochs: Length of the training in epochs; infinite where it is unknown.
        interval: Distance of the milestones. By default there are about ten of them; where the length is unknown,
            they are the powers of two.

    Returns:
        True for the first and the last epoch, and for those that the interval divides.
    """
    if interval is None:
        interval = 2 ** (epoch.bit_length() - 1) if math.isinf(epochs) else math.ceil(epochs / 10)
    return epoch in {1, epochs} or epoch % interval == 0


def num_epochs(trainer: Trainer) -> float:
    """Return the number of epochs of a run, infinite where only time limits it.

    Args:
        trainer: The trainer, whose training has begun.

    Returns:
        The number of epochs.
    """
    limits: list[float] = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        limits.append(trainer.max_epochs)
    if trainer.max_steps > 0:
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        limits.append(math.ceil(trainer.max_steps / batches))
    return min(limits, default=math.inf)


def _num_images(dataloaders: Any) -> int:  # noqa: ANN401
    """Return the number of images behind one or several data loaders, at least 1."""
    loaders = dataloaders if isinstance(dataloaders, list | tuple) else [dataloaders]
    return max(1, sum(len(loader.dataset) for loader in loaders))


def typed_by_user() -> set[str]:
    """Tell which of the trainer arguments in ``NEVER_TYPED`` the user gave, in code or on anomalib's command line.

    Lightning's trainer does not remember which of its arguments were given, and anomalib's command line passes them
    all. So the callers are asked: the engine has what it was called with, and the command line parses what was typed
    a second time, with defaults that nobody types.

    Returns:
        Their names.
    """
    from anomalib.cli.cli import AnomalibCLI
    from anomalib.cli.pipelines import pipeline_subcommands
    from anomalib.engine import Engine

    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    given: set[str] = set()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, AnomalibCLI) and frame.f_code is AnomalibCLI.__init__.__code__:
            if owner.subcommand in pipeline_subcommands():
                # A pipeline makes engines of its own: what they got is what was given.
                break
            return _typed_on_command_line(owner, frame.f_locals["args"])
        if isinstance(owner, Engine):
            given |= set(owner._cache.args)  # noqa: SLF001
        frame = frame.f_back
    return given & NEVER_TYPED.keys()


def _typed_on_command_line(cli: Any, args: Any) -> set[str]:  # noqa: ANN401
    """Parse the command line with other defaults, and tell which arguments did not keep them."""
    parser = cli.subcommand_parsers[cli.subcommand]
    defaults = {f"trainer.{name}": parser.get_default(f"trainer.{name}") for name in NEVER_TYPED}
    parser.set_defaults({f"trainer.{name}": value for name, value in NEVER_TYPED.items()})
    try:
        parsed = cli.parser.parse_args(args=args)
    finally:
        parser.set_defaults(defaults)
    return {name for name, value in NEVER_TYPED.items() if parsed[f"{cli.subcommand}.trainer.{name}"] != value}
