# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""When the maps of normal images are measured, by which scores of all categories compare, and on which images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from anomalib_transfusion.training.averaging import averaged_weights, share_unlearned
from anomalib_transfusion.training.normal_images import prepared_images, spread, training_dataset
from anomalib_transfusion.training.numerics import seeded

from .category import CategoryNames, names_of_data
from .torch_model import DrdcModel

__all__ = ["MeasuresNormalMaps"]

MEASURED_KEY = "drdc_measured_for"
# What the statistics of the base model's maps depend on beside the weights.
BASE_PARAMETERS = ("statistics_images", "statistics_grid")
# What those of all maps depend on.
MAP_PARAMETERS = (
    "timesteps",
    "cell_sizes",
    "num_sets",
    "test_conditioning",
    "guidance_weight",
    "filter_size",
    "difference",
    *BASE_PARAMETERS,
)


class MeasuresNormalMaps(LightningModule):
    """Mix-in of the model: measures maps before a validation and at the end of a training.

    A test with other parameters than the training's measures anew, from the data's training images.
    """

    model: DrdcModel
    names: CategoryNames
    pre_processor: Any
    statistics_images: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.measured_for: dict[str, Any] | None = None
        """Parameters of the maps that were measured; ``None`` where none were."""

        self._trained_since = False
        self._measured: tuple[Tensor, ...] | None = None

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Note that the weights have changed."""
        super().on_train_batch_end(*args, **kwargs)
        self._trained_since = True

    def on_validation_epoch_start(self) -> None:
        """Measure the maps of the weights that are validated."""
        super().on_validation_epoch_start()
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.measure_normal_maps()
            self._measured = _copied(self.model)
        else:
            self._measure_for_test()

    def on_validation_epoch_end(self) -> None:
        """Keep what was measured: averaged weights, which are validated, take their tables away with them."""
        super().on_validation_epoch_end()
        if self._measured is not None:
            self._keep(self._measured)
            self._measured = None

    def on_test_epoch_start(self) -> None:
        """Measure anew where the maps are others than those of the training."""
        super().on_test_epoch_start()
        self._measure_for_test()

    def on_predict_epoch_start(self) -> None:
        """Measure anew where the maps are others than those of the training."""
        super().on_predict_epoch_start()
        self._measure_for_test()

    def on_train_epoch_end(self) -> None:
        """Measure before the last checkpoint is written, where no validation has done it."""
        super().on_train_epoch_end()
        trainer = self.trainer
        last = trainer.should_stop or trainer.fit_loop.epoch_loop.done or self.current_epoch + 1 == trainer.max_epochs
        if self._trained_since and last and not trainer.enable_validation:
            with averaged_weights(self):
                self.measure_normal_maps()
                measured = _copied(self.model)
            self._keep(measured)

    def on_train_end(self) -> None:
        """Measure the maps of the final weights, unless that was done."""
        super().on_train_end()
        if self._trained_since:
            self.measure_normal_maps()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save for which maps the statistics are."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[MEASURED_KEY] = self.measured_for

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load for which maps the statistics are."""
        super().on_load_checkpoint(checkpoint)
        self.measured_for = checkpoint.get(MEASURED_KEY)

    def measure_normal_maps(self) -> bool:
        """Measure the maps of up to ``statistics_images`` training images of each category.

        Returns:
            Whether there were any.
        """
        found = self._training_images()
        if found is None:
            return False
        dataset, positions = found
        # The random numbers of augmentations, if there are any, leave no trace.
        with seeded(0, self.device):
            self.model.measure(self._batches(dataset, positions))
        self.measured_for = self._map_parameters()
        self._trained_since = False
        return True

    def _keep(self, measured: tuple[Tensor, ...]) -> None:
        """Have the tables that were measured in the model in training, and in the averaged one."""
        for table, value in zip(_tables(self.model), measured, strict=True):
            table.copy_(value)
        share_unlearned(self)

    def _map_parameters(self) -> dict[str, Any]:
        """Return what the maps depend on, as plain values that a checkpoint returns as they are."""
        values = {name: self.hparams[name] for name in MAP_PARAMETERS}
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {**lists, "refined": self.model.gamma > 0}

    def _measure_for_test(self) -> None:
        """Measure anew if a checkpoint's statistics are of other maps; what was never trained is left as it is."""
        wanted = self._map_parameters()
        if not self.model.gamma:
            # Without the refinement, its statistics are not looked at.
            wanted = {name: wanted[name] for name in BASE_PARAMETERS}
        measured = self.measured_for
        if measured is None:
            return
        differing = ", ".join(f"{name}={value}" for name, value in wanted.items() if value != measured.get(name))
        if not differing or self.measure_normal_maps():
            return
        rank_zero_warn(
            f"The maps of normal images were measured with other parameters than {differing}, and the data has no "
            "training images to measure them anew; scores are off by a constant, and the weight gamma by a factor. "
            "Give the test the data of the training (--data), or the parameters of the training.",
        )

    def _training_images(self) -> tuple[Any, dict[int, list[int]]] | None:
        """Return the training images, and the positions of those that are measured by the index of their category."""
        dataset = training_dataset(self.trainer)
        if dataset is None:
            return None
        of_all: Sequence[str] | None = getattr(dataset, "categories", None)
        names = of_all or list(names_of_data(getattr(self.trainer, "datamodule", None))) * len(dataset)
        single = len(self.names) == 1
        positions: dict[int, list[int]] = {}
        for position, name in enumerate(names[: len(dataset)]):
            if single or name in self.names.names:
                positions.setdefault(0 if single else self.names.names.index(name), []).append(position)
        return (dataset, positions) if positions else None

    def _batches(self, dataset: Any, positions: Mapping[int, list[int]]) -> Iterator[tuple[Tensor, Tensor]]:  # noqa: ANN401
        """Yield images as the model gets them, and their categories; those of a category are spread evenly."""
        for category, where in positions.items():
            for images in prepared_images(self, dataset, spread(where, self.statistics_images)):
                yield images, torch.full((len(images),), category, device=self.device)


def _tables(model: DrdcModel) -> tuple[Tensor, Tensor]:
    """Return what is measured of a model, the tables themselves."""
    return model.statistics, model.base_scores


def _copied(model: DrdcModel) -> tuple[Tensor, ...]:
    """Return copies of what is measured of a model."""
    return tuple(table.clone() for table in _tables(model))
