# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Default pre-processor, evaluator and visualizer of the models."""

from collections.abc import Callable
from typing import Any

import torch
from anomalib import LearningType
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Resize

from anomalib_transfusion.networks.acceleration import buffers_kept
from anomalib_transfusion.training.evaluation import default_evaluator
from anomalib_transfusion.visualization.result_sheet import ResultSheet

__all__ = ["DefaultParts"]

DEFAULT_IMAGE_SIZE = (256, 256)


class DefaultParts:
    """Mix-in for default pre-processor, evaluator and visualizer; it must come before :class:`AnomalibModule`."""

    post_processor: Any

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:  # noqa: ANN401
        """Convert or move weights and buffers; the post-processor's threshold keeps its precision."""
        kept = self.post_processor.modules() if isinstance(self.post_processor, PostProcessor) else ()
        with buffers_kept(*kept):
            return super()._apply(fn, recurse)  # type: ignore[misc]

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments that the model sets: no sanity check, which would run a slow evaluation."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """Learning type of the model: it learns from normal images."""
        return LearningType.ONE_CLASS

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure the default pre-processor: a resize. A center crop would cut off defects at the border.

        Args:
            image_size: Height and width in pixels; 256 and 256 by default.

        Returns:
            The pre-processor.
        """
        return PreProcessor(transform=Compose([Resize(image_size or DEFAULT_IMAGE_SIZE, antialias=True)]))

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure the default evaluator.

        Returns:
            Image AUROC in validation; image AUROC and F1, pixel AUROC and F1, and AUPRO in testing.
        """
        return default_evaluator()

    @classmethod
    def configure_visualizer(cls) -> ResultSheet:
        """Configure the default visualizer: a result sheet for each image."""
        return ResultSheet()
