# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of the network's predictions for the synthetic anomalies that it is trained on."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from anomalib.loggers.base import ImageLoggerBase
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from PIL import Image

from anomalib_transfusion.files import written_whole
from anomalib_transfusion.training.validation import is_milestone, num_epochs

from .panels import TrainingPanels, draw_table, to_panel

__all__ = ["TrainingGrid"]

PANEL_SIZE = 128


class TrainingGrid(Callback):
    """Callback that draws a few samples of a training step, from the model's ``training_panels``.

    The models of this plugin add it to every training by themselves, unless ``visualizer=False``. The samples are those
    of the last full batch of an epoch, with the prediction that the step makes anyway: nothing is computed or drawn at
    random for it. The pictures go to the folder ``images/training`` of the run, and to the loggers that take images:
    anomalib's (comet, MLflow, TensorBoard, W&B) and Lightning's for TensorBoard. Other loggers, such as that for CSV
    files, get none. Of several processes only the first one draws.

    Args:
        every_n_epochs: Interval of the pictures in epochs, besides those of the first and last epoch. ``None`` gives
            about ten pictures, or pictures after 1, 2, 4, 8, ... epochs if only time limits the training.
        num_samples: Number of samples to draw, those with an anomaly first.
        output_dir: Folder to write into instead of that of the run.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        num_samples: int = 4,
        output_dir: str | Path | None = None,
    ) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("num_samples", num_samples)):
            if value is not None and value < 1:
                msg = f"{name}={value} is impossible; expected 1 or more. To draw nothing, pass visualizer=False."
                raise ValueError(msg)
        self.every_n_epochs = every_n_epochs
        self.num_samples = num_samples
        self.output_dir = output_dir

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Ask for panels of this step, if it is one to draw."""
        del batch
        drawn = trainer.is_global_zero and batch_idx == _last_full_batch(trainer) and self._due(trainer)
        if drawn and callable(watch := getattr(pl_module, "watch", None)):
            watch(self.num_samples)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Draw the panels that were asked for."""
        del outputs, batch, batch_idx
        panels: TrainingPanels | None = getattr(pl_module, "training_panels", None)
        if panels is None:
            return
        pl_module.training_panels = None  # type: ignore[assignment]
        grid = _draw(panels)
        name = f"epoch_{trainer.current_epoch + 1:04d}.png"
        try:
            with written_whole(self._folder(trainer) / name) as partial:
                grid.save(partial, format="PNG")
        except OSError as error:
            # Not worth ending a training of days; and the other processes would wait for this one.
            rank_zero_warn(f"The training goes on without a picture: {error}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # One name for all: TensorBoard has a slider for the steps.
                logger.experiment.add_image("training", np.array(grid), trainer.global_step, dataformats="HWC")
            elif isinstance(logger, ImageLoggerBase):
                logger.add_image(np.array(grid), name=f"training/{name}", global_step=trainer.global_step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: PLR6301
        """Leave the model as it was."""
        del trainer, exception
        if callable(watch := getattr(pl_module, "watch", None)):
            watch(0)

    def _due(self, trainer: Trainer) -> bool:
        """Tell whether this epoch has a picture."""
        return is_milestone(trainer.current_epoch + 1, num_epochs(trainer), self.every_n_epochs)

    def _folder(self, trainer: Trainer) -> Path:
        """Return the folder of this run's pictures."""
        return Path(self.output_dir or Path(trainer.default_root_dir) / "images" / "training")


def _last_full_batch(trainer: Trainer) -> int:
    """Return the index of the last batch but one, since the last may be small; 0 if their number is unknown."""
    batches = trainer.num_training_batches
    return max(0, int(batches) - 2) if math.isfinite(batches) else 0


def _draw(panels: TrainingPanels) -> Image.Image:
    """Draw a row for each sample."""
    height, width = next(iter(panels.columns.values())).shape[-2:]
    scale = PANEL_SIZE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    rows = [[to_panel(image, size) for image in row] for row in zip(*panels.columns.values(), strict=True)]
    return draw_table(rows, list(panels.columns), names=panels.names)
