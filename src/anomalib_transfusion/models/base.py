# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Common part of the Lightning models: training and evaluation steps, seeds, resuming, checkpoints and callbacks."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_transfusion.checks import check_arguments, check_image_size
from anomalib_transfusion.networks.acceleration import Precision, check_trainable
from anomalib_transfusion.networks.backbone import load_backbones
from anomalib_transfusion.training.averaging import AveragesLearned, averaging_of
from anomalib_transfusion.training.distributed import (
    drop_repeated_images,
    keep_repeated_images_in_company,
    share_statistics,
)
from anomalib_transfusion.training.evaluation import RemembersValidation, check_metrics
from anomalib_transfusion.training.hyper_parameters import PlainHyperparameters, check_readable
from anomalib_transfusion.training.image_files import ImageFiles
from anomalib_transfusion.training.learning_rate import renew_rate
from anomalib_transfusion.training.numerics import ImageGuard, LossGuard
from anomalib_transfusion.training.progress import RemainingTime
from anomalib_transfusion.training.seeds import SeededTraining
from anomalib_transfusion.training.transforms import check_pre_processor
from anomalib_transfusion.training.validation import rare_validation, typed_by_user
from anomalib_transfusion.training.without_validation import WithoutValidation
from anomalib_transfusion.visualization.training_grid import TrainingGrid

from .default_parts import DefaultParts
from .loading import LoadsCheckpoints
from .pictures import Pictures

# anomalib lists direct subclasses of its module as models: DetectorMixin, if it were one, would be listed instead.
if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as Module
else:
    Module = object

__all__ = ["DetectorMixin"]


class DetectorMixin(  # type: ignore[misc]
    DefaultParts,
    LoadsCheckpoints,
    Pictures,
    PlainHyperparameters,
    SeededTraining,
    RemembersValidation,
    Module,
):
    """Mix-in for steps, seeds, resuming and callbacks of a model; it must come before :class:`AnomalibModule`.

    A model assigns ``self.model``, a PyTorch module with ``stride`` and ``precision``, and implements the abstract
    methods.

    Args:
        precision: Precision of the network's matrix products: ``bfloat16``, ``single``, or ``auto`` for bfloat16 if the
            device is faster with it and the trainer was given no precision.
        channels_last: Whether the network computes in channels-last memory. ``None`` for where it is faster: in
            bfloat16 on a GPU or with AMX, and in inference on any CPU except for a single small image. Training in
            single precision on a CPU is less exact with it.
        compile: Whether the network is compiled by ``torch.compile`` at its first call.
        pre_processor: Pre-processor, or whether to use the default (256x256, no crop). It must not normalize: the model
            expects images in [0, 1].
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default.
        visualizer: Visualizer, or whether to use the default.
    """

    model: Any
    # Names of the parameters that the stride follows from, for messages.
    stride_parameters: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        precision: Precision = "auto",
        channels_last: bool | None = None,
        compile: bool = False,  # noqa: A002
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        given = check_arguments(DetectorMixin.__init__, locals())
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.shared: dict[str, Any] = {name: given[name] for name in ("precision", "channels_last", "compile")}
        """Parameters that several models have, as plain values by name."""
        self._image_guard, self._loss_guard = ImageGuard(), LossGuard()

    @abstractmethod
    def training_terms(self, batch: ImageBatch) -> tuple[torch.Tensor, ...]:
        """Compute the loss of a batch; random numbers must be drawn in the context :meth:`drawing`.

        If :attr:`watched` is not 0, the method sets :attr:`training_panels` to that many samples of the step.

        Args:
            batch: Normal images in [0, 1], ``(B, 3, H, W)``, and their paths.

        Returns:
            A named tuple of scalars: the loss ``total``, and its terms.
        """

    @abstractmethod
    def evaluate(self, images: torch.Tensor) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """Predict scores and anomaly maps of a batch, and return them with images for :attr:`panels`.

        Args:
            images: Images in [0, 1], ``(B, 3, H, W)``.

        Returns:
            The predictions, and images in [0, 1] by name, ``(B, C, H, W)`` each.
        """

    def evaluate_batch(self, batch: ImageBatch) -> tuple[InferenceBatch, dict[str, torch.Tensor]]:
        """Evaluate the images of a batch; a model that needs more of it than these overrides this.

        Args:
            batch: Images in [0, 1], ``(B, 3, H, W)``, and what is known of them.
        """
        return self.evaluate(batch.image)  # type: ignore[arg-type]

    @property
    @abstractmethod
    def evaluation_passes(self) -> float:
        """Number of network passes to evaluate an image. A training step costs about three passes an image."""

    def check_sizes(self) -> None:
        """Raise ValueError if the pre-processor normalizes, or its size is no multiple of the network's stride."""
        check_pre_processor(self.pre_processor, type(self).__name__)
        if self.input_size is not None:
            origin = {name: self.hparams[name] for name in self.stride_parameters}
            check_image_size(self.input_size, self.model.stride, origin)

    def configure_callbacks(self) -> Sequence[Callback]:
        """Return callbacks for checks of image files, rare validation, pictures of training and the remaining time.

        Validation is rare only if the user did not set the trainer's validation interval. The method also makes the
        trainer write checkpoints atomically.
        """
        # Imported here: it needs anomalib's engine, partially imported while anomalib loads its plugins.
        from anomalib_transfusion.training.checkpoints import use_whole_checkpoints

        # If the user set the trainer's precision, autocast is left to the trainer.
        typed = typed_by_user()
        self.model.precision = "single" if "precision" in typed else self.shared["precision"]
        configured = super().configure_callbacks()
        callbacks = list(configured) if isinstance(configured, Sequence) else [configured]
        # WithoutValidation first: if ImageFiles.on_exception raises, callbacks behind it are not called.
        callbacks += [WithoutValidation(), ImageFiles()]
        trainer = self.trainer
        use_whole_checkpoints(trainer)
        if trainer.training:
            callbacks.append(RemainingTime())
            present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            # Lightning replaces a callback of the user by one of the same class from here.
            if self.visualizer is not None and not any(isinstance(callback, TrainingGrid) for callback in present):
                callbacks.append(TrainingGrid())
            callbacks += rare_validation(trainer, typed, self.evaluation_passes)
            if (averaging := averaging_of(trainer)) is not None:
                callbacks.append(AveragesLearned(averaging))
        return callbacks

    def setup(self, stage: str) -> None:
        """Check that training is possible and metrics have their fields, and prepare distributed evaluation.

        Raises:
            TypeError: If a hyper-parameter of a subclass could not be loaded from a checkpoint.
            ValueError: If there are too few images, a metric lacks fields, or weights would be trained in 16 bits.
        """
        super().setup(stage)
        if stage == "fit":
            check_trainable(self.model, self.trainer.precision)
        if stage != "predict":
            check_metrics(self)
        if stage == "fit" and self.trainer.checkpoint_callbacks:
            check_readable(self.hparams, self.checkpoint_safe_globals())
        keep_repeated_images_in_company(self.trainer)
        if stage == "fit" and not self.model.training:
            # After .eval() or a prediction; Lightning leaves the mode as it finds it.
            self.model.train()

    def on_fit_start(self) -> None:
        """Load pretrained weights of a backbone, unless a checkpoint had them, and seed the first epoch.

        Raises:
            OSError: If the weights are not installed and cannot be downloaded.
        """
        load_backbones(self.model)
        super().on_fit_start()

    def on_train_start(self) -> None:
        """Set the learning rate and weight decay of a resumed training to those of this model."""
        if self.resumed:
            renew_rate(self.trainer, self.configure_optimizers())

    def training_step(self, batch: ImageBatch, *args, **kwargs) -> STEP_OUTPUT:
        """Compute the loss of a batch of normal images, and log it.

        Args:
            batch: Normal images and their paths.
            args: Unused.
            kwargs: Unused.

        Returns:
            Dictionary with the loss.

        Raises:
            FloatingPointError: If the loss of the step before was not finite; names the step and the terms.
            ValueError: If the images' sides are no multiples of the stride, or images are not in [0, 1].
        """
        del args, kwargs
        images: torch.Tensor = batch.image  # type: ignore[assignment]
        self._image_guard.watch(images, self.trainer.global_step)
        losses: Any = self.training_terms(batch)
        self.watched = 0
        self._loss_guard.watch(losses, self.trainer.global_step)
        self.log("train_loss", losses.total.detach(), on_epoch=True, prog_bar=True, batch_size=len(images))
        terms = {name: term.detach() for name, term in losses._asdict().items() if name != "total"}
        self.log_dict({f"train_loss_{name}": term for name, term in terms.items()}, batch_size=len(images))
        # The progress bar has no room for names as long as these.
        self.log_dict(terms, prog_bar=True, logger=False, batch_size=len(images))
        return {"loss": losses.total}

    def validation_step(  # type: ignore[override]
        self,
        batch: ImageBatch,
        batch_idx: int = 0,
        dataloader_idx: int = 0,
    ) -> STEP_OUTPUT:
        """Evaluate a batch.

        Args:
            batch: Images in [0, 1], ``(B, 3, H, W)``.
            batch_idx: Number of the batch.
            dataloader_idx: Number of the data loader.

        Returns:
            The batch with anomaly maps and scores; further images of it are in :attr:`panels`.
        """
        if self._trainer is not None:
            drop_repeated_images(self.trainer, batch, batch_idx, dataloader_idx)
        predictions, self.panels = self.evaluate_batch(batch)
        return batch.update(**predictions._asdict())

    def test_step(self, *args, **kwargs) -> STEP_OUTPUT:
        """Evaluate a batch, as in :meth:`validation_step`."""
        return self.validation_step(*args, **kwargs)

    def predict_step(self, *args, **kwargs) -> STEP_OUTPUT:
        """Evaluate a batch, as in :meth:`validation_step`."""
        return self.validation_step(*args, **kwargs)

    def on_train_epoch_end(self) -> None:
        """Check images and loss of the last step before a checkpoint is written."""
        self._image_guard.check()
        self._loss_guard.check()

    def on_train_end(self) -> None:
        """Give all processes of a distributed training the same buffers; their weights are the same already."""
        share_statistics(self.model)
