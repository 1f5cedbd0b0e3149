# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks before a run that no transform takes images out of [0, 1]."""

from collections.abc import Iterator
from typing import Any

import torch
from anomalib.pre_processing import PreProcessor
from torch import nn

from anomalib_transfusion.checks import OVERSHOOT

__all__ = ["check_augmentations", "check_pre_processor", "normalizations"]


def normalizations(transform: Any) -> Iterator[Any]:  # noqa: ANN401
    """Find the transforms that normalize, also in nested compositions.

    Args:
        transform: A transform of torchvision (of either version) or of another library in its style, or several.

    Yields:
        Each transform of a class that is named ``Normalize``, or that derives from one.
    """
    if any(base.__name__ == "Normalize" for base in type(transform).__mro__):
        yield transform
        return
    inner: list[Any] = list(transform) if isinstance(transform, list | tuple | nn.ModuleList) else []
    if isinstance(transform, nn.Module):
        inner += transform.children()
    for name in ("transforms", "transform"):
        if (parts := getattr(transform, name, None)) is not None:
            inner.append(parts)
    # A transform may be an attribute and a child of the same module.
    for part in {id(part): part for part in inner}.values():
        yield from normalizations(part)


def check_pre_processor(pre_processor: Any, model: str) -> None:  # noqa: ANN401
    """Raise ValueError if a pre-processor normalizes.

    Args:
        pre_processor: anomalib's pre-processor; objects of other classes are not checked.
        model: Name of the model that it is for.
    """
    transform = pre_processor.transform if isinstance(pre_processor, PreProcessor) else None
    if any(normalizations(transform)):
        msg = (
            f"The pre-processor {transform} normalizes, but {model} expects images in [0, 1] and does the rest "
            "itself. Remove Normalize from the transforms."
        )
        raise ValueError(msg)


def check_augmentations(dataset: Any) -> None:  # noqa: ANN401
    """Raise ValueError if the augmentations of a data set take images out of [0, 1]; names the range.

    Args:
        dataset: Data set of a run, which may have ``augmentations`` or a ``transform``.
    """
    for name in ("augmentations", "transform"):
        for transform in normalizations(getattr(dataset, name, None)):
            lowest, highest = _range_after(transform)
            if -OVERSHOOT <= lowest <= highest <= 1 + OVERSHOOT:
                continue
            msg = (
                f"The {name} of {type(dataset).__name__} normalize images to values from {lowest:.4g} to "
                f"{highest:.4g}; expected [0, 1]: the model does the rest itself. Remove {transform} from "
                "them (--data.augmentations, --data.train_augmentations, ...)."
            )
            raise ValueError(msg)


def _range_after(transform: Any) -> tuple[float, float]:  # noqa: ANN401
    """Return the smallest and the largest value that a normalization gives for images in [0, 1]; NaN where unknown."""
    try:
        mean, std = (torch.as_tensor(getattr(transform, name), dtype=torch.float64) for name in ("mean", "std"))
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return float("nan"), float("nan")
    ends = torch.stack([(0 - mean) / std, (1 - mean) / std])
    return ends.min().item(), ends.max().item()
