# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Data that pictures are drawn from: images of the last evaluated batch, of a training step, and of an explanation."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from anomalib.data import InferenceBatch

from anomalib_transfusion.visualization.film_strip import Draw, Moment
from anomalib_transfusion.visualization.panels import RECONSTRUCTION, TrainingPanels

__all__ = ["Explanation", "Pictures"]


class Explanation(NamedTuple):
    """How a model explains its result in a film strip.

    Attributes:
        row_names: Label of each row of the film strip, by the name of the row.
        moments_of: Function of the PyTorch module, a single image in [0, 1] of shape ``(1, 3, H, W)``, the timesteps to
            show and a :data:`Draw`; it returns the timesteps in their order, and the result.
    """

    row_names: Mapping[str, str]
    moments_of: Callable[[Any, torch.Tensor, Container[int], Draw], list[Moment]]


class Pictures:
    """Mix-in that keeps the data for pictures of a model; it must come before :class:`AnomalibModule`."""

    model: Any
    evaluate: Callable[[torch.Tensor], tuple[InferenceBatch, dict[str, torch.Tensor]]]

    explanation: ClassVar[Explanation | None] = None
    """How :meth:`explain` shows timesteps; ``None`` shows the result alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.panels: dict[str, torch.Tensor] = {}
        """Images of the last evaluated batch in [0, 1], such as the reconstruction, by name, ``(B, C, H, W)`` each."""
        self.training_panels: TrainingPanels | None = None
        """Samples and predictions of the training step that :meth:`watch` asked for, ``None`` before that step."""
        self.watched = 0
        """Number of samples of the next training step to put into :attr:`training_panels`."""

    @property
    def reconstruction(self) -> torch.Tensor | None:
        """Reconstruction of the last evaluated batch in [0, 1], ``(B, 3, H, W)``; ``None`` if the model makes none."""
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
        """Show the timesteps behind a result by :attr:`explanation`, or without one only the result and its panels.

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
