# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""TransFusion for anomalib's engine: training, validation, testing and prediction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torchvision.transforms.v2 import Compose, Resize

from anomalib_transfusion.synthesis.sources import TextureResize
from anomalib_transfusion.visualization import ResultSheet, TrainingGrid

from .acceleration import Precision
from .checkpoint import import_official, infer_architecture, read_official
from .compatibility import check_compatible
from .distributed import drop_repeated_images, keep_repeated_images_in_company, share_statistics
from .evaluation import SeenLabels, check_metrics, default_evaluator
from .export import LoopExport
from .hyper_parameters import PlainHyperparameters, check_readable
from .image_files import ImageFiles, training_images
from .learning_rate import drop_rate, renew_rate
from .loss import LossTerms, TransFusionLoss
from .numerics import ImageGuard, LossGuard, seed_from, seeded
from .parameters import check_arguments, taken_by
from .remaining_time import RemainingTime
from .tensors import check_image_size
from .torch_model import MaskAggregation, TransFusionModel
from .training_sample import TextureSource, TrainingSampler
from .transforms import normalizations
from .transparency import Schedule
from .validation import RareValidation, WithoutValidation, typed_by_user

__all__ = ["TransFusion"]

DEFAULT_IMAGE_SIZE = (256, 256)
SEED_KEY = "transfusion_seed"
VALIDATED_KEY = "transfusion_validated_on"


class TransFusion(PlainHyperparameters, LoopExport, AnomalibModule):  # type: ignore[misc]  # noqa: PLR0904
    """TransFusion: a transparency-based diffusion model for anomaly detection (Fučka et al., ECCV 2024).

    The model learns from normal images with synthetic anomalies. At test time it makes anomalies transparent step by
    step while it localises them. Image sides must be multiples of ``2 ** (len(channel_multipliers) - 1)``.

    Args:
        timesteps (int): Number of timesteps T of the diffusion process.
            Defaults to ``20``.
        schedule (str): Transparency schedule: ``linear``, ``quadratic`` or ``root`` (paper Table 4).
            Defaults to ``"linear"``.
        base_channels (int): Channels of the network at the highest resolution, a multiple of 8.
            Defaults to ``64``.
        channel_multipliers (Sequence[int]): Channels of each level as multiples of ``base_channels``, highest
            resolution first.
            Defaults to ``(1, 2, 4, 8)``.
        num_blocks (int): Residual blocks a level.
            Defaults to ``2``.
        attention_levels (Sequence[int]): Levels with attention; negative ones count from the lowest resolution.
            Defaults to ``(-2, -1)``.
        positional_encoding (bool): Whether the network sees the row of each pixel.
            Defaults to ``True``.
        previous_mask (bool): Whether the network sees the mask of the step before.
            Defaults to ``True``.
        num_inference_steps (int | None): Network passes at test time, over timesteps spread evenly; ``None`` runs all
            of them. No retraining is needed.
            Defaults to ``None``.
        start_timestep (int | None): First timestep of the reverse process. ``None`` starts where the anomaly is opaque
            (the paper's); the published code starts one step lower, at 18 of 20.
            Defaults to ``None``.
        mask_divisor (int | None): What the sum of the masks is divided by. ``None`` gives their mean (the paper's); the
            published code divides by one more, 19.
            Defaults to ``None``.
        mask_aggregation (str): ``mean`` of the masks of all steps or the ``last`` mask only.
            Defaults to ``"mean"``.
        discriminative_weight (float): Weight lambda of the masks against the reconstruction error in the anomaly map
            (Eq. 10), in [0, 1]; 1 uses the masks alone, 0 the reconstruction error alone.
            Defaults to ``0.95``.
        filter_size (int): Side in pixels of the mean filter over the anomaly map (Eq. 10), odd.
            Defaults to ``7``.
        normal_weight (float): Weight of the normal appearance loss (Eq. 5); 0 switches it off, as for the next three.
            Defaults to ``1.0``.
        mask_weight (float): Weight of the mask loss (Eq. 6).
            Defaults to ``1.0``.
        anomaly_weight (float): Weight of the anomaly appearance loss (Eq. 7).
            Defaults to ``1.0``.
        consistency_weight (float): Weight of the consistency loss (Eq. 8).
            Defaults to ``1.0``.
        focal_weight (float): Weight alpha of the focal loss inside of the mask loss (Eq. 6).
            Defaults to ``5.0``.
        dtd_dir (Path | str): Folder of texture photographs in the layout of the Describable Textures Dataset, which is
            downloaded there when training starts if the folder is absent.
            Defaults to ``"./datasets/dtd"``.
        texture_source (str): Where texture anomalies come from: the ``folder`` above (the paper's), the
            ``photographs`` that scikit-image ships, or ``none``: structure anomalies alone.
            Defaults to ``"folder"``.
        foreground (Path | str): Where synthetic anomalies may lie: ``none`` for anywhere, ``estimate`` for the object
            as estimated from each image, or a folder with one mask for each training image.
            Defaults to ``"none"``.
        rotation_probability (float): Share of the training samples that are rotated by up to 20 degrees.
            Defaults to ``0.3``.
        structure_share (float): Share of the synthetic anomalies that are the image itself in disorder, in [0, 1]; the
            others take a texture.
            Defaults to ``0.5``.
        min_perlin_scale (int): Synthetic anomalies are cut out of noise with ``2 ** min_perlin_scale`` to 32 cells an
            axis, in [0, 5]; a larger value leaves out large anomalies.
            Defaults to ``0``.
        grayscale_anomalies (bool): Whether synthetic anomalies on gray images are gray, too. Otherwise colour alone
            gives each of them away.
            Defaults to ``False``.
        texture_resize (str): How the photographs of the folder are made smaller: ``area`` averages, ``bilinear``
            aliases, as in the published code.
            Defaults to ``"area"``.
        precision (str): Precision of the network's matrix products: ``bfloat16``, ``single``, or ``auto`` for bfloat16
            where the device is faster with it and the trainer was given no precision.
            Defaults to ``"auto"``.
        channels_last (bool | None): Whether the network computes in channels-last memory; ``None``: where it is faster
            so, in bfloat16 on a GPU or with AMX, and in inference on any CPU except for a single small image. A
            training in single precision on a CPU is less exact in it.
            Defaults to ``None``.
        compile (bool): Whether the network is compiled by ``torch.compile`` at its first call.
            Defaults to ``False``.
        learning_rate (float): Learning rate of AdamW.
            Defaults to ``1e-5``.
        weight_decay (float): Weight decay of AdamW.
            Defaults to ``0.01``.
        full_rate_share (float): Share of the training at the full learning rate, in [0, 1]; after it the rate is
            multiplied by ``rate_decay``.
            Defaults to ``800 / 1500``.
        rate_decay (float): Factor of the learning rate in the rest of the training.
            Defaults to ``0.1``.
        pre_processor (PreProcessor | bool, optional): Pre-processor instance or flag to use default (256x256, no crop).
            It must not normalise: the model scales images to [-1, 1] itself.
            Defaults to ``True``.
        post_processor (PostProcessor | bool, optional): Post-processor instance or flag to use default.
            Defaults to ``True``.
        evaluator (Evaluator | bool, optional): Evaluator instance or flag to use default.
            Defaults to ``True``.
        visualizer (Visualizer | bool, optional): Visualizer instance or flag to use default.
            Defaults to ``True``.

    Raises:
        TypeError: If a parameter has the wrong type; the message names it.
        ValueError: If a parameter is impossible; the message names it.

    Example:
        >>> from anomalib.data import MVTecAD
        >>> from anomalib.engine import Engine
        >>> from anomalib.models import TransFusion
        >>> model = TransFusion()
        >>> engine = Engine(max_epochs=1500)
        >>> engine.train(model=model, datamodule=MVTecAD(category="bottle", train_batch_size=8))
    """

    model: TransFusionModel
    loss: TransFusionLoss

    def __init__(
        self,
        timesteps: int = 20,
        schedule: Schedule = "linear",
        base_channels: int = 64,
        channel_multipliers: Sequence[int] = (1, 2, 4, 8),
        num_blocks: int = 2,
        attention_levels: Sequence[int] = (-2, -1),
        positional_encoding: bool = True,
        previous_mask: bool = True,
        num_inference_steps: int | None = None,
        start_timestep: int | None = None,
        mask_divisor: int | None = None,
        mask_aggregation: MaskAggregation = "mean",
        discriminative_weight: float = 0.95,
        filter_size: int = 7,
        normal_weight: float = 1.0,
        mask_weight: float = 1.0,
        anomaly_weight: float = 1.0,
        consistency_weight: float = 1.0,
        focal_weight: float = 5.0,
        dtd_dir: Path | str = "./datasets/dtd",
        texture_source: TextureSource = "folder",
        foreground: Path | str = "none",
        rotation_probability: float = 0.3,
        structure_share: float = 0.5,
        min_perlin_scale: int = 0,
        grayscale_anomalies: bool = False,
        texture_resize: TextureResize = "area",
        precision: Precision = "auto",
        channels_last: bool | None = None,
        compile: bool = False,  # noqa: A002
        learning_rate: float = 1e-5,
        weight_decay: float = 0.01,
        full_rate_share: float = 800 / 1500,
        rate_decay: float = 0.1,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        given = check_arguments(TransFusion.__init__, locals())
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        for name, largest in (
            ("learning_rate", float("inf")),
            ("weight_decay", float("inf")),
            ("full_rate_share", 1),
            ("rate_decay", float("inf")),
        ):
            if not 0 <= given[name] <= largest:
                msg = (
                    f"{name}={given[name]} is impossible; expected a number from 0 to {largest}. Leave it out for the "
                    "default."
                )
                raise ValueError(msg)
        self.learning_rate: float = given["learning_rate"]
        self.weight_decay: float = given["weight_decay"]
        self.full_rate_share: float = given["full_rate_share"]
        self.rate_decay: float = given["rate_decay"]

        self.model = TransFusionModel(**taken_by(TransFusionModel, given))
        self.loss = TransFusionLoss(**taken_by(TransFusionLoss, given))
        self.sampler = TrainingSampler(**taken_by(TrainingSampler, given))
        self.reconstruction: torch.Tensor | None = None
        """x_0 of the batch that was evaluated last, in [0, 1], ``(B, 3, H, W)``."""

        self.validated_on: list[int] | None = None
        """Numbers of good and defective images that the threshold is from; ``None`` where unknown."""

        self._precision: Precision = given["precision"]
        self._validation_labels = SeenLabels()
        self._image_guard = ImageGuard()
        self._loss_guard = LossGuard()
        self._seed = 0
        self._first_epoch = 0
        self._resumed_epoch: int | None = None
        self._resumed = False
        self._check_pre_processor()

    @classmethod
    def from_official_checkpoint(cls, path: str | Path, **parameters: Any) -> "TransFusion":  # noqa: ANN401
        """Build a model with the weights of a checkpoint that the authors' code saved; its network is inferred.

        Args:
            path: Pickled state dict (tensors only; nothing in the file is run) or safetensors.
            parameters: Further parameters of the model. ``start_timestep=18, mask_divisor=19`` evaluates as the
                published code does; the default follows the paper.

        Returns:
            TransFusion: The model, to train on, predict, save and export.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read, or belongs to another model; names the keys.
        """
        state = read_official(path)
        model = cls(**{**infer_architecture(state), **parameters})
        import_official(state, model.model.network)
        return model

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "TransFusion":  # noqa: ANN401
        """Load a model from a checkpoint; parameters that are not passed are read from it.

        Args:
            checkpoint_path: The checkpoint.
            args: As in anomalib's :meth:`AnomalibModule.load_from_checkpoint`.
            kwargs: As there, and parameters of the model.

        Returns:
            TransFusion: The model.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or holds code, which is not run, or belongs to another model.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)  # type: ignore[return-value]
        except Exception:
            # Where the file itself is the problem, this says so, with its name.
            if isinstance(checkpoint_path, str | Path):
                from .checkpoint_io import WholeCheckpointIO

                WholeCheckpointIO().load_checkpoint(checkpoint_path, "cpu", kwargs.get("weights_only"))
            raise

    def _check_pre_processor(self) -> None:
        """Raise ValueError if the pre-processor normalises or gives images that the network cannot divide."""
        transform = self.pre_processor.transform if isinstance(self.pre_processor, PreProcessor) else None
        if transform is None:
            return
        if any(normalizations(transform)):
            msg = (
                f"The pre-processor {transform} normalises, but TransFusion expects images in [0, 1] and scales "
                "them to [-1, 1] itself. Remove Normalize from the transforms."
            )
            raise ValueError(msg)
        if self.input_size is not None:
            check_image_size(self.input_size, self.model.network.stride)

    def prepare_data(self) -> None:
        """Download the texture photographs where they are needed and absent: for training only.

        Raises:
            RuntimeError: If the download fails; the message says what to pass instead.
        """
        if self.trainer.training:
            self.sampler.prepare()

    def configure_callbacks(self) -> Sequence[Callback]:
        """Add better errors, rare validation where the user left the trainer's validation interval alone, and pictures.

        Here too, the trainer is told to write checkpoints that neither a full disk nor a killed process destroys.
        """
        # Here and not above: it needs all of anomalib.data, which is half imported while anomalib loads its plugins.
        from .checkpoint_io import use_whole_checkpoints

        # A precision that the user chose for the trainer is the whole answer.
        typed = typed_by_user()
        self.model.precision = "single" if "precision" in typed else self._precision
        configured = super().configure_callbacks()
        callbacks = list(configured) if isinstance(configured, Sequence) else [configured]
        callbacks += [ImageFiles(), WithoutValidation()]
        trainer = self.trainer
        use_whole_checkpoints(trainer)
        if trainer.training:
            callbacks.append(RemainingTime())
            present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            # Lightning would replace the user's own by this one.
            if self.visualizer is not None and not any(isinstance(callback, TrainingGrid) for callback in present):
                callbacks.append(TrainingGrid())
        untouched = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1
        if trainer.training and untouched and typed.isdisjoint(("check_val_every_n_epoch", "val_check_interval")):
            callbacks.append(RareValidation(len(self.model.inference_timesteps)))
            # Callbacks look at this to know whether validation follows each epoch, before the interval is known.
            trainer.check_val_every_n_epoch = 2
        return callbacks

    def setup(self, stage: str) -> None:
        """Get ready: each image counts once on several processes, metrics have what they need, a training can start.

        Raises:
            TypeError: If a hyper-parameter of a subclass cannot be read back from a checkpoint.
            ValueError: If there are too few images for the processes, or a metric asks for what there will not be.
        """
        super().setup(stage)
        if stage != "predict":
            check_metrics(self)
        if stage == "fit" and self.trainer.checkpoint_callbacks:
            check_readable(self.hparams, self.checkpoint_safe_globals())
        keep_repeated_images_in_company(self.trainer)
        if stage == "fit" and not self.model.training:
            # After .eval() or a prediction; Lightning leaves the mode as it finds it.
            self.model.train()

    def on_fit_start(self) -> None:
        """Read the texture photographs before the first batch, and seed the first epoch.

        The random numbers of each epoch and step follow from one seed, which checkpoints keep. So they depend neither
        on a restart nor on validations in between, and differ between processes.
        """
        if self.input_size is not None:
            self.sampler.build(self.input_size)
        self._resumed = self._resumed_epoch is not None
        if self._resumed_epoch is None:
            # Every process adds its own number to the one seed, and any of them may write the checkpoint.
            self._seed = self.trainer.strategy.broadcast(int(torch.randint(2**62, ())))
            self._first_epoch = self.current_epoch
        else:
            self._first_epoch, self._resumed_epoch = self._resumed_epoch, None
        self._seed_epoch(self._first_epoch)

    def on_train_start(self) -> None:
        """Look at the foreground masks, and let a resumed training have this model's learning rate and weight decay."""
        self.sampler.check_foreground(training_images(self.trainer))
        if self._resumed:
            renew_rate(self.trainer, self.learning_rate, self.weight_decay)

    def on_train_epoch_start(self) -> None:
        """Seed an epoch. Lightning makes the first data iterator earlier: that epoch is seeded already."""
        if self.current_epoch != self._first_epoch:
            self._seed_epoch(self.current_epoch)

    def _seed_epoch(self, epoch: int) -> None:
        """Seed the order of the images and their augmentation."""
        torch.manual_seed(seed_from(self._seed, self.global_rank, epoch))

    def training_step(self, batch: ImageBatch, *args, **kwargs) -> STEP_OUTPUT:
        """Make anomalies at random timesteps in a batch of normal images, and compute the loss.

        Args:
            batch (ImageBatch): Normal images and their paths.
            args: Additional positional arguments (unused).
            kwargs: Additional keyword arguments (unused).

        Returns:
            STEP_OUTPUT: Dictionary with the loss.

        Raises:
            FloatingPointError: If the loss of the step before was not finite; names the step and the terms.
            ValueError: If the network cannot divide the images' sides, or images are not in [0, 1].
        """
        del args, kwargs
        images: torch.Tensor = batch.image  # type: ignore[assignment]
        self._image_guard.watch(images, self.trainer.global_step)
        step = self.trainer.fit_loop.total_batch_idx
        seed = seed_from(self._seed, self.global_rank, self.current_epoch, step)
        # What is drawn must not depend on the precision of the training.
        with seeded(seed, images.device), torch.autocast(images.device.type, enabled=False):
            sample = self.sampler(images, self.model.beta, batch.image_path)
        prediction = self.model(sample.x_t, sample.previous_mask, sample.timestep)
        losses: LossTerms = self.loss(
            prediction,
            sample.target,
            sample.x_t,
            self.model.beta[sample.timestep].view(-1, 1, 1, 1),
            self.model.beta[sample.timestep - 1].view(-1, 1, 1, 1),
        )
        self._loss_guard.watch(losses, self.trainer.global_step)
        self.log("train_loss", losses.total.detach(), on_epoch=True, prog_bar=True, batch_size=len(images))
        terms = {name: getattr(losses, name).detach() for name in ("normal", "mask", "anomaly", "consistency")}
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
        """Run the reverse process on a batch.

        Args:
            batch (ImageBatch): Images.
            batch_idx (int): Number of the batch.
            dataloader_idx (int): Number of the data loader.

        Returns:
            STEP_OUTPUT: The batch with anomaly maps and scores; ``self.reconstruction`` has the reconstructions.
        """
        if self._trainer is not None:
            drop_repeated_images(self.trainer, batch, batch_idx, dataloader_idx)
        images: torch.Tensor = batch.image  # type: ignore[assignment]
        predictions, process = self.model.predict(images)
        self.reconstruction = ((process.reconstruction + 1) / 2).clamp(0, 1)
        return batch.update(**predictions._asdict())

    def on_validation_batch_end(self, outputs: STEP_OUTPUT, batch: ImageBatch, *args, **kwargs) -> None:
        """Count good and defective images."""
        del outputs, args, kwargs
        self._validation_labels.add(batch.gt_label)  # type: ignore[arg-type]

    def on_validation_epoch_end(self) -> None:
        """Remember what images the threshold is from."""
        self.validated_on = self._validation_labels.total(self)

    def test_step(self, *args, **kwargs) -> STEP_OUTPUT:
        """Run the reverse process on a batch, as in :meth:`validation_step`."""
        return self.validation_step(*args, **kwargs)

    def predict_step(self, *args, **kwargs) -> STEP_OUTPUT:
        """Run the reverse process on a batch, as in :meth:`validation_step`."""
        return self.validation_step(*args, **kwargs)

    def on_train_epoch_end(self) -> None:
        """Check images and loss of the last step before a checkpoint is written."""
        self._image_guard.check()
        self._loss_guard.check()

    def on_train_end(self) -> None:
        """Make the processes of a distributed training equal; their weights are, by the gradients they share."""
        share_statistics(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the seed, so that a resumed training continues as if it had never stopped."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[SEED_KEY] = self._seed
        checkpoint[VALIDATED_KEY] = self.validated_on

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained for something else, and take over the seed of a training that is resumed.

        Raises:
            ValueError: If the checkpoint belongs to another model or to other parameters.
        """
        check_compatible(checkpoint, self.hparams)
        super().on_load_checkpoint(checkpoint)
        self.validated_on = checkpoint.get(VALIDATED_KEY)
        if self._trainer is not None and self.trainer.training and {SEED_KEY, "loops"} <= checkpoint.keys():
            self._seed = checkpoint[SEED_KEY]
            self._resumed_epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Configure AdamW, and the drop of its rate after 800 of 1500 epochs, scaled to the trainer's length."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        scheduler = drop_rate(optimizer, self.trainer, self.full_rate_share, self.rate_decay)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}  # type: ignore[return-value]

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Get the trainer arguments that the model sets: none that the user would miss.

        Returns:
            dict[str, Any]: ``num_sanity_val_steps`` is 0, since a reverse process before training tells nothing.
        """
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """Get the learning type of the model.

        Returns:
            LearningType: The learning type (``LearningType.ONE_CLASS``).
        """
        return LearningType.ONE_CLASS

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure the default pre-processor: a resize without a crop, which would cut off defects at the border.

        Args:
            image_size (tuple[int, int] | None, optional): Height and width in pixels.
                Defaults to ``(256, 256)``.

        Returns:
            PreProcessor: Configured pre-processor.
        """
        return PreProcessor(transform=Compose([Resize(image_size or DEFAULT_IMAGE_SIZE, antialias=True)]))

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure the default evaluator: AUROC and F1 of images and pixels, and the paper's metrics.

        Returns:
            Evaluator: Image AUROC in validation; image AUROC and F1, pixel AUROC and F1, and AUPRO in testing.
        """
        return default_evaluator()

    @classmethod
    def configure_visualizer(cls) -> ResultSheet:
        """Configure the default visualizer: a result sheet for each image.

        Returns:
            ResultSheet: Result sheet visualizer.
        """
        return ResultSheet()
