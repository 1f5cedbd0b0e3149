# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Hyper-parameters in a form that checkpoints can be loaded with, whatever the classes of the user's values."""

import copy
import inspect
import reprlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import torch
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch.core.mixins import HyperparametersMixin

from anomalib_transfusion.checks import plain

__all__ = ["PlainHyperparameters", "check_readable"]


class PlainHyperparameters(HyperparametersMixin):
    """Records hyper-parameters as plain values, those of subclasses included."""

    def save_hyperparameters(self, *args: Any, frame: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Record the arguments of the constructors like Lightning, but converted by :func:`plain`.

        Args:
            args: Passed to Lightning.
            frame: Stack frame of the constructor; by default the caller's.
            kwargs: Passed to Lightning.
        """
        if frame is None:
            current = inspect.currentframe()
            frame = None if current is None else current.f_back
        super().save_hyperparameters(*args, frame=frame, **kwargs)
        recorded = self.hparams
        if isinstance(recorded, dict):
            recorded.update({name: plain(value) for name, value in recorded.items()})
            # Lightning's copy, which loggers get.
            self._hparams_initial = copy.deepcopy(recorded)


def check_readable(parameters: Mapping[str, Any], safe_globals: Sequence[Any]) -> None:
    """Raise TypeError if a hyper-parameter could not be loaded from a checkpoint; the message names it.

    Args:
        parameters: The hyper-parameters.
        safe_globals: Classes that the model allows in its checkpoints.
    """
    for name, value in parameters.items():
        content = BytesIO()
        try:
            with anomalib_safe_globals(safe_globals):
                torch.save(value, content)
                content.seek(0)
                torch.load(content, weights_only=True)
        # Pickling runs whatever code the class has for it.
        except Exception as error:
            msg = (
                f"The hyper-parameter {name}={reprlib.repr(value)} is of {type(value).__module__}."
                f"{type(value).__qualname__}, with which no checkpoint could be read back; expected numbers, texts, "
                f'flags and sequences of them. Pass such a value, or call save_hyperparameters(ignore=["{name}"]).'
            )
            raise TypeError(msg) from error
