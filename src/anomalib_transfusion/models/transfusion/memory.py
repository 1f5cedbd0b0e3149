# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The memory of normal features in a training, which fills it, and in exports. Not in the paper."""

import logging
import math
from collections.abc import Iterator

import torch
from anomalib.deploy import CompressionType
from lightning.pytorch import LightningModule

from anomalib_transfusion.networks.memory import FeatureMemory
from anomalib_transfusion.training.normal_images import prepared_images, spread, training_dataset
from anomalib_transfusion.training.numerics import seeded

from .features import BackboneFeatures
from .torch_model import TransFusionModel

__all__ = ["FillsMemory", "covering"]

logger = logging.getLogger(__name__)

# Beyond these, no more images are looked at.
MOST_IMAGES = 1000
# Random vectors for each that is kept, of which the greedy choice covers the pool best: anomalib's PatchCore takes all.
# With 30 the distances alone detect better, most of all in large images; the trained network in small ones does not
# (results/quality/README.md).
VECTORS_FOR_EACH = 10
# Every eleventh vector is not chosen from; the distances of these are what is normal.
HELD_OUT = 11


class FillsMemory(LightningModule):
    """Mix-in of the model: fills an empty memory before the first step, and refuses exports that lose it."""

    model: TransFusionModel

    def on_train_start(self) -> None:
        """Fill the memory, unless a checkpoint had it.

        Raises:
            ValueError: If the training data has no images that can be taken one by one.
        """
        super().on_train_start()
        features = self._remembering()
        if features is not None and not features.memory.filled:
            # The random numbers of the choice, and of augmentations, leave no trace.
            with seeded(0, self.device), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._fill(features, features.memory)

    def check_compression(self, compression_type: CompressionType | None) -> None:
        """Refuse calibrated INT8 without a control of the accuracy, which it costs (docs/speed.md, In production).

        Raises:
            ValueError: If the compression is ``INT8_PTQ`` and there is a memory.
        """
        features = self._remembering()
        if compression_type == CompressionType.INT8_PTQ and features is not None:
            msg = (
                f"compression_type=INT8_PTQ is no good for memory_size={features.memory.size}: activations of 8 bits "
                "cost 17 to 49 points of image AUROC where it was measured (docs/speed.md). Use INT8, which compresses "
                "the weights alone, or none."
            )
            raise ValueError(msg)

    def _remembering(self) -> BackboneFeatures | None:
        """Return the part of the network that has a memory; None without one."""
        features = getattr(self.model.network, "features", None)
        return features if features is not None and features.has_memory else None

    def _fill(self, features: BackboneFeatures, memory: FeatureMemory) -> None:
        """Choose the vectors of a memory so that none of a random pool is far from all of them."""
        dataset = training_dataset(self.trainer)
        if dataset is None:
            msg = (
                f"memory_size={memory.size} needs the training images one by one, but the training data is no data set "
                "with a length; expected one of anomalib's. Use one, or train with memory_size=0."
            )
            raise ValueError(msg)
        positions = spread(range(len(dataset)), MOST_IMAGES)
        each = math.ceil(memory.size * VECTORS_FOR_EACH * HELD_OUT / (HELD_OUT - 1) / len(positions))
        vectors = torch.cat(list(self._vectors(features, prepared_images(self, dataset, positions), each)))
        held_out = torch.arange(len(vectors), device=vectors.device) % HELD_OUT == HELD_OUT - 1
        number = memory.fill(vectors[~held_out], vectors[held_out], covering)
        logger.info("The memory has %d feature vectors of %d training images.", number, len(positions))

    @staticmethod
    def _vectors(features: BackboneFeatures, batches: Iterator[torch.Tensor], each: int) -> Iterator[torch.Tensor]:
        """Yield up to ``each`` random feature vectors of every image, ``(N, C)``."""
        for images in batches:
            for embedded in features.embed(2 * images.to(features.memory_projection.weight.dtype) - 1):
                vectors = embedded.flatten(1).T
                yield vectors[torch.randperm(len(vectors), device=vectors.device)[:each]]


def covering(vectors: torch.Tensor, number: int) -> list[int]:
    """Return the indices of so many vectors, ``(N, C)``, that no other is far from all of them.

    The greedy choice of k centers, as in PatchCore: each is the vector that is farthest from those before. anomalib's
    projects the vectors first, to more channels than these have, which takes several times as long.

    Args:
        vectors: Vectors to choose from.
        number: Number of indices, at most N.
    """
    squares = vectors.square().sum(dim=1)
    nearest = torch.full_like(squares, torch.inf)
    index = int(torch.randint(len(vectors), ()))
    chosen = []
    for _ in range(number):
        chosen.append(index)
        nearest = torch.minimum(nearest, squares + squares[index] - 2 * (vectors @ vectors[index]))
        index = int(nearest.argmax())
    return chosen
