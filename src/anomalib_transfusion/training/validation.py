# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Rare validation: after a few epochs only, and always after the last.

Validation runs the whole reverse process on every validation image. After each epoch, which is Lightning's default, it
would take several times as long as the training itself.
"""

import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import STEP_OUTPUT

from .monitors import Demand, checkpoint_of_the_engine, demands, keeps_the_newest, logged_in_training, rewrite

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["RareValidation", "is_milestone", "num_epochs", "rare_validation", "typed_by_user"]

# A training step costs about as much as three forward passes: one forward, and a backward of twice its cost.
PASSES_PER_TRAINING_IMAGE = 3
SHARE_OF_TRAINING_TIME = 0.1
# Values that the trainer accepts but no user would choose, to recognize arguments that were not given.
NEVER_TYPED: dict[str, int | str] = {
    "check_val_every_n_epoch": sys.maxsize,
    "val_check_interval": sys.maxsize,
    "precision": "transformer-engine-float16",
}


class RareValidation(Callback):
    """Chooses the epochs after which Lightning validates.

    Epochs after which the user's callbacks need a validation are among them: see :func:`~.monitors.demands`.

    Args:
        passes: Number of network passes to validate one image.
    """

    def __init__(self, passes: float) -> None:
        self.passes = passes
        self.interval: int | None = None
        self._cost = 0.0
        self._logged: set[str] = set()
        self._demands: list[Demand] | None = None
        self._validated_step: int | None = None
        self._of_engine: ModelCheckpoint | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the interval from the sizes of the data sets."""
        del pl_module
        if not trainer.enable_validation:
            return
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True
        validation_cost = _num_images(trainer.val_dataloaders) * self.passes
        training_cost = _num_images(trainer.train_dataloader) * PASSES_PER_TRAINING_IMAGE
        self._cost = validation_cost / training_cost
        self.interval = validation_interval(self._cost, num_epochs(trainer))
        self._logged, self._demands, self._validated_step = set(), None, None
        self._of_engine = checkpoint_of_the_engine(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Set the trainer's interval, before Lightning reads it, so that it validates after this epoch or not."""
        del pl_module, outputs, batch, batch_idx
        if self.interval is None:
            return
        if 0 < trainer.max_steps <= trainer.global_step:
            # Lightning would end such a run without a validation, but validates after a requested stop.
            trainer.should_stop = True
        if self._demands is None or trainer.is_last_batch:
            self._look_at_monitors(trainer)
        epoch, last = trainer.current_epoch + 1, num_epochs(trainer)
        # Counted back from the last epoch, so that the last epoch is validated.
        due = trainer.should_stop or (epoch if math.isinf(last) else last - epoch) % self.interval == 0
        due = due or any(epoch % demand.interval == 0 for demand in self._demands or [])
        # Lightning validates if this number divides the number of the epoch, counted from one.
        trainer.check_val_every_n_epoch = 1 if due else trainer.current_epoch + 2
        self._let_engine_save(after_each_epoch=due)

    def _look_at_monitors(self, trainer: Trainer) -> None:
        """Find the callbacks that need validations, and log once how often there will be one."""
        self._logged |= logged_in_training(trainer)
        if self._validated_step is None:
            # Some callbacks, such as LearningRateMonitor, write to the metrics themselves.
            self._logged |= set(trainer.callback_metrics)
        first, self._demands = self._demands is None, demands(trainer, self._logged)
        # A validation after every epoch is the trainer's default and needs no message.
        if not first or self.interval is None or self.interval == 1:
            return
        interval = min((demand.interval for demand in self._demands), default=self.interval)
        model = type(trainer.lightning_module).__name__
        costs = f"a validation costs as much as {self._cost:.1f} epochs"
        if interval >= self.interval:
            rank_zero_info(
                f"{model} validates every {self.interval} epochs and after the last one, because {costs}. Set the "
                "trainer's check_val_every_n_epoch to choose yourself.",
            )
            return
        names = " and ".join(sorted({demand.name for demand in self._demands if demand.interval == interval}))
        rank_zero_info(
            f"{model} validates {'after each epoch' if interval == 1 else f'every {interval} epochs'}, because "
            f"{names} needs it, though {costs}. Set the trainer's check_val_every_n_epoch, or every_n_epochs of a "
            "ModelCheckpoint, to validate more rarely.",
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the step that was validated."""
        del pl_module
        self._validated_step = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the interval of 1, so that monitoring callbacks, which run after this one, act after each epoch."""
        del pl_module
        if self.interval is not None:
            trainer.check_val_every_n_epoch = 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate if the last epoch was not validated, because checkpoints need its threshold."""
        del pl_module
        if self.interval is None or self._validated_step == trainer.global_step:
            return
        newest = [
            callback
            for callback in trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint)
            and keeps_the_newest(callback)
            and callback._last_global_step_saved == trainer.global_step  # noqa: SLF001
        ]
        self._let_engine_save(after_each_epoch=False)
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
        for callback in newest:
            rewrite(trainer, callback)

    def _let_engine_save(self, *, after_each_epoch: bool) -> None:
        """Make the engine's checkpoint callback save at the end of each epoch, or else after validations."""
        if self._of_engine is not None:
            self._of_engine._save_on_train_epoch_end = after_each_epoch  # noqa: SLF001

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the trainer as it was."""
        del pl_module
        if self.interval is None:
            return
        self.interval = None
        trainer.check_val_every_n_epoch = 1
        if self._of_engine is not None:
            self._of_engine._save_on_train_epoch_end = None  # noqa: SLF001

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the trainer as it was."""
        del exception
        self.on_fit_end(trainer, pl_module)


def rare_validation(trainer: Trainer, typed: set[str], passes: float) -> list[Callback]:
    """Return the callback for rare validation, unless the user said when to validate.

    Args:
        trainer: Trainer before a training.
        typed: Names of the trainer arguments that the user gave, as :func:`typed_by_user` returns them.
        passes: Number of network passes to validate one image.
    """
    touched = trainer.check_val_every_n_epoch != 1 or trainer.val_check_interval != 1
    if touched or not typed.isdisjoint(("check_val_every_n_epoch", "val_check_interval")):
        return []
    return [RareValidation(passes)]


def validation_interval(cost: float, epochs: float) -> int:
    """Return the smallest interval at which validation takes at most a tenth of the training time.

    Args:
        cost: Time of a validation as a multiple of that of a training epoch, above 0.
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
    all. So the callers on the stack are inspected: the engine keeps its arguments, and the command line parses its
    arguments a second time with the defaults of ``NEVER_TYPED``, unless none of them can say anything of the trainer's.

    Returns:
        Names of the arguments.
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
                # A pipeline makes its own engines, whose arguments are those that were given.
                break
            return _typed_on_command_line(owner, frame.f_locals["args"])
        if isinstance(owner, Engine):
            given |= set(owner._cache.args)  # noqa: SLF001
        frame = frame.f_back
    return given & NEVER_TYPED.keys()


def _typed_on_command_line(cli: Any, args: Any) -> set[str]:  # noqa: ANN401
    """Parse the command line with the defaults of ``NEVER_TYPED``, and return the arguments that differ from them."""
    parser = cli.subcommand_parsers[cli.subcommand]
    if not _can_be_typed(args, (cli.parser, parser)):
        return set()
    defaults = {f"trainer.{name}": parser.get_default(f"trainer.{name}") for name in NEVER_TYPED}
    parser.set_defaults({f"trainer.{name}": value for name, value in NEVER_TYPED.items()})
    try:
        parsed = cli.parser.parse_args(args=args)
    finally:
        parser.set_defaults(defaults)
    return {name for name, value in NEVER_TYPED.items() if parsed[f"{cli.subcommand}.trainer.{name}"] != value}


def _can_be_typed(args: Any, parsers: Iterable[Any]) -> bool:  # noqa: ANN401
    """Tell whether a command line could hold an argument of ``NEVER_TYPED``; a parse takes a second, this no time."""
    words = sys.argv[1:] if args is None else args
    if not isinstance(words, list | tuple) or any(
        parser.default_env or parser.default_config_files for parser in parsers
    ):
        return True
    # Each may be shortened, and be followed by its value: -cFILE, --trainer.precision=32, --trainer={...}.
    names = ["--config", "--trainer", *(f"--trainer.{name}" for name in NEVER_TYPED)]
    options = [str(word).partition("=")[0] for word in words]
    return any(
        option.startswith("-c") or (len(option) > 2 and any(name.startswith(option) for name in names))
        for option in options
    )
