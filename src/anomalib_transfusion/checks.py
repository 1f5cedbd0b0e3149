# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks of arguments against signatures and of tensors against expected shapes, and helpers for their messages."""

import inspect
import math
import os
import reprlib
import sys
from collections import UserString
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import numpy as np
import torch
from torch._subclasses import FakeTensor

__all__ = [
    "OVERSHOOT",
    "Range",
    "check_arguments",
    "check_image_size",
    "check_images",
    "check_odd",
    "check_range",
    "check_shape",
    "defaults_of",
    "listed",
    "plain",
    "refuse_range",
    "taken_by",
]

# Largest accepted excess of image values over [0, 1]. Bicubic enlargement overshoots at an edge by 1/9 of its height
# and in a corner by (10/9)^2 - 1 = 0.235; images whose mean was subtracted go much further.
OVERSHOOT = 0.25

_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "None",
}


class Range(NamedTuple):
    """Smallest and largest value of a parameter, for its annotation: ``Annotated[int, Range(1, 10, "Use 2.")]``.

    Attributes:
        least: Smallest value.
        most: Largest value.
        remedy: Last sentence of the error message: what the user should do.
        problem: Text of the message between ``name=value`` and ``remedy``; ``{least}`` and ``{most}`` are filled in.
    """

    least: float
    most: float = math.inf
    remedy: str = "Leave it out for the default."
    problem: str = "is impossible; expected {least} to {most}."


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as plain values, or raise an error that names an argument that contradicts its annotation.

    Numbers, flags, texts, paths and sequences of them, choices (``Literal``) and the :class:`Range` of a number are
    checked. Relations between two arguments, and objects of other classes, are left to the function itself.

    Args:
        function: The function, with annotations.
        arguments: Its arguments by name, as ``locals()`` returns them; names that are no parameters are ignored.

    Returns:
        The arguments by name, each as :func:`plain` gives it.

    Raises:
        TypeError: If a value has another type than the signature says.
        ValueError: If a number is infinite, not a number or out of its range, a text is empty, or a choice unknown.
    """
    accepted = {}
    parameters = inspect.signature(function).parameters.values()
    named = [parameter.name for parameter in parameters if not parameter.kind.name.startswith("VAR_")]
    for name, annotation in function.__annotations__.items():
        if name not in arguments or name not in named:
            continue
        given = arguments[name]
        value = accepted[name] = plain(given)
        if not _fits(value, annotation):
            msg = (
                f"{name}={reprlib.repr(given)} is of type {type(given).__name__}; expected {_described(annotation)}. "
                "Pass such a value, or leave it out for the default."
            )
            raise TypeError(msg)
        if isinstance(value, int | float) and float in _alternatives(annotation) and not _finite(value):
            msg = f"{name}={value} is impossible; expected a finite number. Leave it out for the default."
            raise ValueError(msg)
        if isinstance(value, str) and (not value or "\0" in value):
            msg = f"{name}={value!r} is impossible; expected a text that is not empty. Leave it out for the default."
            raise ValueError(msg)
        _check_choice(name, value, annotation)
        _check_limits(name, value, annotation)
    return accepted


def _check_choice(name: str, value: Any, annotation: Any) -> None:  # noqa: ANN401
    """Raise ValueError if an annotation is a ``Literal`` of other values."""
    if get_origin(annotation) is Literal and value not in get_args(annotation):
        msg = f"{name}={value!r} is unknown; choose one of {', '.join(get_args(annotation))}."
        raise ValueError(msg)


def _check_limits(name: str, value: Any, annotation: Any) -> None:  # noqa: ANN401
    """Raise ValueError if an annotation has a :class:`Range`, and a value that is not ``None`` is out of it."""
    for limits in getattr(annotation, "__metadata__", ()):
        if isinstance(limits, Range) and value is not None and not limits.least <= value <= limits.most:
            msg = f"{name}={value} {limits.problem.format(**limits._asdict())} {limits.remedy}"
            raise ValueError(msg)


def taken_by(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments whose names are parameters of a function or class.

    Args:
        function: A function, or a class. Where its constructor has ``**kwargs``, parameters of its bases count as well.
        arguments: Arguments by name.
    """
    accepted: set[str] = set()
    bases = function.__mro__ if isinstance(function, type) else ()
    for taker in [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [function]:
        taken = inspect.signature(taker).parameters
        accepted |= taken.keys()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
            break
    return {name: value for name, value in arguments.items() if name in accepted}


def defaults_of(model: type) -> dict[str, Any]:
    """Return the defaults of the parameters of a class and of all its bases."""
    constructors = [vars(base)["__init__"] for base in reversed(model.__mro__) if "__init__" in vars(base)]
    parameters = [one for constructor in constructors for one in inspect.signature(constructor).parameters.values()]
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def plain(value: Any) -> Any:  # noqa: ANN401
    """Convert a value to one of Python's built-in types, so that ``torch.load(weights_only=True)`` can read it.

    Args:
        value: A number, flag, text, path, sequence or dictionary of any class, such as those of NumPy, PyTorch and
            OmegaConf, members of enumerations of texts or numbers, and ranges.

    Returns:
        The value as ``int``, ``float``, ``bool``, ``str`` (also for a path), ``list``, ``tuple`` or ``dict``. Any other
        value is returned unchanged.
    """
    if isinstance(value, np.generic | np.ndarray) or (isinstance(value, torch.Tensor) and value.ndim < 2):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, UserString):
        value = value.data
    # The methods of the built-in classes: a subclass may override them, as enumerations do.
    if isinstance(value, str):
        return str.__str__(value)  # noqa: PLC2801
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)  # noqa: PLC2801
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        items = map(plain, value)
        return list(items) if isinstance(value, list) else tuple(items)
    return value


def _alternatives(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Return the members of a union, or the annotation alone; metadata of ``Annotated`` is dropped."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _finite(value: float) -> bool:
    """Tell whether a float can hold a number; an ``int`` may be too large."""
    return abs(value) <= sys.float_info.max


def _fits(value: Any, annotation: Any) -> bool:  # noqa: ANN401
    """Tell whether a value is what an annotation says; a bool is no number, a text is no sequence."""
    return any(_fits_one(value, expected) for expected in _alternatives(annotation))


def _fits_one(value: Any, expected: Any) -> bool:  # noqa: ANN401
    """Tell whether a value is of one type."""
    if get_origin(expected) is Sequence:
        [item] = get_args(expected)
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str | bytes | bytearray | memoryview)
            and all(_fits(element, item) for element in value)
        )
    if expected not in _NAMES:
        return True
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, int | float) if expected is float else isinstance(value, expected)


def _described(annotation: Any) -> str:  # noqa: ANN401
    """Say in words what an annotation allows."""
    words = []
    for expected in _alternatives(annotation):
        if get_origin(expected) is Sequence:
            words.append(f"a sequence, each of it {_described(get_args(expected)[0])}")
        else:
            words.append(_NAMES[expected])
    return " or ".join(words)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Join the first names with commas, and say how many more there are.

    Args:
        names: The names.
        most: Largest number of names to list.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_images(images: torch.Tensor, stride: int) -> None:
    """Raise an error if a tensor is no batch of images that the network can process.

    Only shape and type are checked: to look at values, the host would have to wait for a GPU.

    Args:
        images: Expected to be of floating point type and of shape ``(B, 3, H, W)``.
        stride: Number that H and W must be multiples of.

    Raises:
        TypeError: If ``images`` is no tensor, or not of floating point type.
        ValueError: If the shape differs from ``(B, 3, H, W)``, B is 0, or H or W is no multiple of the stride.
    """
    if not isinstance(images, torch.Tensor):
        msg = (
            f"The images are of type {type(images).__name__}; expected a tensor of shape (B, 3, H, W) in [0, 1]. "
            "Convert an array with torch.from_numpy, stack a list with torch.stack."
        )
        raise TypeError(msg)
    if not images.is_floating_point():
        msg = (
            f"The images are of {images.dtype}; expected floating point numbers in [0, 1]. Convert bytes with "
            "images.float() / 255."
        )
        raise TypeError(msg)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0:
        msg = (
            f"The images have shape {tuple(images.shape)}; expected (B, 3, H, W): at least one image, three channels. "
            "A single image becomes a batch with images[None], a gray one has three channels after "
            "images.expand(-1, 3, -1, -1)."
        )
        raise ValueError(msg)
    check_image_size((images.shape[-2], images.shape[-1]), stride)


def check_range(images: torch.Tensor) -> None:
    """Raise ValueError if images are outside of [0, 1] by more than an overshoot of 0.25.

    The host waits for a GPU here. Nothing is checked while a model is exported, compiled or captured as a CUDA graph,
    because tensors have no values then.

    Args:
        images: Images, ``(B, 3, H, W)``.
    """
    # In a statement of its own, and first: the compiler then drops all that follows.
    if torch.compiler.is_compiling():
        return
    recorded = torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or isinstance(images, FakeTensor)
    if recorded or images.is_meta or (images.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    refuse_range(*torch.stack(images.detach().aminmax()).tolist())


def refuse_range(lowest: float, highest: float, when: str = "") -> None:
    """Raise ValueError if the values of images are outside of [0, 1] by more than an overshoot of 0.25.

    Args:
        lowest: Smallest value; NaN if any value is NaN.
        highest: Largest value; NaN if any value is NaN.
        when: Where in a run the images were seen, for the message.
    """
    if -OVERSHOOT <= lowest <= highest <= 1 + OVERSHOOT:
        return
    msg = (
        f"The images{when} have values from {lowest:.4g} to {highest:.4g}; expected [0, 1]: the model "
        "does the rest itself. Remove Normalize from the transforms (augmentations, pre-processor), divide values up "
        "to 255 by 255, and replace what is not a number."
    )
    raise ValueError(msg)


def check_shape(name: str, tensor: torch.Tensor, *expected: int) -> None:
    """Raise ValueError if a tensor does not have a shape; many a wrong shape would silently be broadcast.

    Args:
        name: Name of the tensor, for the message.
        tensor: The tensor.
        expected: The expected size of each dimension.
    """
    if tensor.shape != expected:
        msg = (
            f"{name} has shape {tuple(tensor.shape)}; expected {expected}, to go with the images. Bring it into that "
            "shape."
        )
        raise ValueError(msg)


def check_odd(name: str, side: int, reason: str) -> None:
    """Raise ValueError if the side of a square is even.

    Args:
        name: Name of the parameter.
        side: Its value, at least 1.
        reason: Why it must be odd, such as ``a pixel is in the middle of its filter``.
    """
    if side % 2 == 0:
        msg = f"{name}={side} is impossible; expected an odd number, for {reason}. Use {side - 1} or {side + 1}."
        raise ValueError(msg)


def check_image_size(size: tuple[int, int], stride: int, parameters: Mapping[str, Any] | None = None) -> None:
    """Raise ValueError, naming the nearest valid sizes, if height or width is no multiple of the stride.

    Args:
        size: Height and width in pixels.
        stride: Number that both must be multiples of.
        parameters: Parameters of the model that the stride follows from, for the message.
    """
    if all(side > 0 and side % stride == 0 for side in size):
        return
    smaller = tuple(max(side // stride * stride, stride) for side in size)
    larger = tuple(-(-side // stride) * stride for side in size)
    nearest = " or ".join(dict.fromkeys(f"{height}x{width}" for height, width in (smaller, larger)))
    values = ", ".join(f"{name}={value}" for name, value in (parameters or {}).items())
    origin = f", which follows from {values}" if values else ""
    msg = (
        f"An image of {size[0]}x{size[1]} pixels (height x width) does not fit the network: both sides must be "
        f"multiples of {stride}{origin}. The nearest sizes are {nearest}; "
        "set one with the Resize of the pre-processor."
    )
    raise ValueError(msg)
