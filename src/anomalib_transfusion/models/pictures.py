# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What pictures are drawn from: panels of the batch that was evaluated last, of a training step, and of an image."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from anomalib.data import InferenceBatch

from anomalib_transfusion.visualization.film_strip import Draw, Moment
from anomalib_transfusion.visualization.panels import RECONSTRUCTION, TrainingPanels

__all__ = ["Explanation", "Pictures"]


class Explanation(NamedTuple):
    """How a model comes to its result.

    Attributes:
        row_names: What stands beside the rows.
        moments_of: Runs the PyTorch module on a single image in [0, 1], ``(1, 3, H, W)``, and shows some timesteps, in
            their order, and the result.
    """

    row_names: Mapping[str, str]
    moments_of: Callable[[Any, torch.Tensor, Container[int], Draw], list[Moment]]


class Pictures:
    """What pictures of a model are drawn from: a mix-in, before :class:`AnomalibModule` among the bases."""

    model: Any
    evaluate: Callable[[torch.Tensor], tuple[InferenceBatch, dict[str, torch.Tensor]]]

    explanation: ClassVar[Explanation | None] = None
    """What :meth:`explain` shows beside the result; ``None`` for nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.panels: dict[str, torch.Tensor] = {}
        """What the batch that was evaluated last became, by name, in [0, 1], ``(B, C, H, W)`` each."""
        self.training_panels: TrainingPanels | None = None
        """What a training step that :meth:`watch` asked for saw and made."""
        self.watched = 0
        """Number of samples that the next training step is to show."""

    @property
    def reconstruction(self) -> torch.Tensor | None:
        """The last batch without its anomalies, in [0, 1], ``(B, 3, H, W)``; ``None`` where no panel shows it."""
        return self.panels.get(RECONSTRUCTION)

    def watch(self, num_samples: int) -> None:
        """Ask for the :attr:`training_panels` of the next training step.

        Args:
            num_samples: Number of samples to show; 0 for none.
        """
        self.watched = num_samples
        self.training_panels = None

    @property
    def explained_timesteps(self) -> Sequence[int]:
        """Timesteps that :meth:`explain` can show, in their order; the result is always shown."""
        return ()

    def explain(self, images: torch.Tensor, timesteps: Container[int], draw: Draw) -> list[Moment]:
        """Show how a map comes about: by :attr:`explanation`, or else by what the model evaluates an image to.

        Args:
            images: A single image in [0, 1], ``(1, 3, H, W)``.
            timesteps: Which of :attr:`explained_timesteps` to show.
            draw: Makes a picture of an image in [0, 1], ``(1, C, H, W)``.

        Returns:
            The moments in their order, the result last.
        """
        if self.explanation is not None:
            return self.explanation.moments_of(self.model, images, timesteps, draw)
        predictions, panels = self.evaluate(images)
        shown = {"image": images, **{name.lower(): panel for name, panel in panels.items()}}
        if predictions.anomaly_map is not None:
            shown["map"] = predictions.anomaly_map
        return [Moment(None, "result", "result", {row: draw(panel) for row, panel in shown.items()})]
