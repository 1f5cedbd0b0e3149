# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The memory of normal features in a training, which fills it, and in exports. Not in the paper."""

import logging
import math
from collections.abc import Iterator

import torch
from anomalib.data.utils.tiler import Tiler
from anomalib.deploy import CompressionType
from lightning.pytorch import LightningModule

from anomalib_transfusion.networks.memory import FeatureMemory, largest_size
from anomalib_transfusion.training.normal_images import prepared_images, spread, training_dataset
from anomalib_transfusion.training.numerics import seeded

from .features import BackboneFeatures
from .torch_model import TransFusionModel

__all__ = ["FillsMemory", "covering"]

logger = logging.getLogger(__name__)

# Beyond these, no more images are looked at.
MOST_IMAGES = 1000
# For each vector that is kept, so many random ones and so many of the rarest of each image are there to choose from.
# anomalib's PatchCore chooses from all, and the greedy choice takes rare ones first, which random ones hardly include
# (results/quality/fast-recipe.md).
RANDOM_FOR_EACH = 2
RAREST_FOR_EACH = 8
# One of eleven vectors is not chosen from; the distances of these are what is normal.
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
        """Choose the vectors of a memory so that no normal one is far from all of them.

        Random vectors say what is typical. The rarest of each image are the farthest from a small memory of these.
        """
        dataset = training_dataset(self.trainer)
        if dataset is None:
            msg = (
                f"memory_size={memory.size} needs the training images one by one, but the training data is no data set "
                "with a length; expected one of anomalib's. Use one, or train with memory_size=0."
            )
            raise ValueError(msg)
        positions = spread(range(len(dataset)), MOST_IMAGES)
        each = math.ceil(memory.size / len(positions))

        def vectors_of_images() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            return self._vectors(features, prepared_images(self, dataset, positions), self.model.tiler)

        found = [
            (vectors[candidates[: RANDOM_FOR_EACH * each]], vectors[held_out[:each]])
            for vectors, candidates, held_out in vectors_of_images()
        ]
        random, others = (torch.cat(parts) for parts in zip(*found, strict=True))
        # As of one feature map, because only the distance in all channels is asked for.
        typical = FeatureMemory(largest_size(len(random)), random.shape[1:]).to(random)
        typical.fill(random, others, covering)
        rarest = []
        for vectors, candidates, _ in vectors_of_images():
            rest = vectors[candidates[RANDOM_FOR_EACH * each :]]
            number = min(RAREST_FOR_EACH * each, len(rest))
            rarest.append(rest[typical.distances(rest)[0].topk(number).indices])
        number = memory.fill(random, others, covering, torch.cat(rarest))
        logger.info("The memory has %d feature vectors of %d training images.", number, len(positions))

    @staticmethod
    def _vectors(
        features: BackboneFeatures,
        batches: Iterator[torch.Tensor],
        tiler: Tiler | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield the vectors of every image, ``(N, C)``, and indices: those to choose from and those held out.

        Both are in random order, which is the same each time. With a tiler, the vectors of an image are those of its
        tiles: at their borders features are others than in the whole image.
        """
        generator = torch.Generator().manual_seed(0)
        dtype = features.memory_projection.weight.dtype
        for images in batches:
            if tiler is None:
                parts = features.embed(2 * images.to(dtype) - 1).split(1)
            else:
                parts = [features.embed(2 * tiler.tile(image).to(dtype) - 1) for image in images.split(1)]
            for embedded in parts:
                vectors = embedded.permute(0, 2, 3, 1).flatten(0, 2)
                order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
                number = math.ceil(len(vectors) / HELD_OUT)
                yield vectors, order[number:], order[:number]


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
