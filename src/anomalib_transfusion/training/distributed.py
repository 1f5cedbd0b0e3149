# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Evaluation on several processes with the same metrics as on one.

Lightning gives every process the same number of images, and repeats some if the number of images is not divisible by
the number of processes. Repeated images would count twice in the metrics.
"""

from dataclasses import fields
from typing import Any

from anomalib.data import AnomalibDataModule, ImageBatch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import distributed, nn
from torch.utils.data import DistributedSampler

__all__ = ["drop_repeated_images", "keep_repeated_images_in_company", "share_statistics"]


def keep_repeated_images_in_company(trainer: Trainer) -> None:
    """Enlarge the evaluation batches if the last batch of a process would consist of repeated images alone.

    Without the repeated images such a batch is empty, which metrics and post-processing cannot handle.

    Args:
        trainer: Trainer before it makes its data loaders.

    Raises:
        ValueError: If images would be repeated and a process gets only one.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if trainer.world_size == 1 or not isinstance(datamodule, AnomalibDataModule):
        return
    loaded = (getattr(datamodule, name, None) for name in ("val_data", "test_data"))
    sizes = [len(dataset) for dataset in loaded if dataset is not None and len(dataset) % trainer.world_size]
    shares = [-(-size // trainer.world_size) for size in sizes]
    if 1 in shares:
        msg = (
            f"{min(sizes)} images cannot be evaluated on {trainer.world_size} processes; use fewer devices, so that "
            "each has two images or more."
        )
        raise ValueError(msg)
    chosen = datamodule.eval_batch_size
    while any(share % datamodule.eval_batch_size == 1 % datamodule.eval_batch_size for share in shares):
        datamodule.eval_batch_size += 1
    if datamodule.eval_batch_size != chosen:
        rank_zero_info(
            f"eval_batch_size is {datamodule.eval_batch_size} instead of {chosen}, so that the images divide among "
            f"{trainer.world_size} processes.",
        )


def drop_repeated_images(trainer: Trainer, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
    """Remove the images from an evaluation batch that another process evaluates as well.

    Args:
        trainer: Trainer that evaluates.
        batch: Batch of images, changed in place.
        batch_idx: Number of the batch.
        dataloader_idx: Number of the data loader that it is from.
    """
    loaders: Any = trainer.val_dataloaders if trainer.validating else trainer.test_dataloaders
    loader = loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders
    sampler = getattr(loader, "sampler", None)
    if trainer.predicting or not isinstance(sampler, DistributedSampler) or sampler.shuffle or sampler.drop_last:
        return
    # The sampler deals the images out in turn, and begins anew where they are used up.
    first = batch_idx * loader.batch_size
    own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
    if own - first >= len(batch):
        return
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    batch.update(**{name: value[: own - first] for name, value in values.items() if value is not None})


def share_statistics(module: nn.Module) -> None:
    """Copy all buffers, such as statistics of batch normalization, from the first process to all others.

    Args:
        module: Module whose buffers are changed in place.
    """
    if distributed.is_initialized():
        for statistics in module.buffers():
            distributed.broadcast(statistics, src=0)
