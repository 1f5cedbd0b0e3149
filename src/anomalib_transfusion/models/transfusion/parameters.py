# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Arguments of a constructor held against its signature. The command line does that; a call in Python does not."""

import inspect
import os
import reprlib
import sys
from collections import UserString
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import torch

__all__ = ["check_arguments", "plain", "taken_by"]

_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "None",
}


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as plain values, or raise an error that names one that cannot be what the signature says.

    Numbers, flags, texts, paths and sequences of them are checked. What only the function itself can judge (ranges,
    the alternatives of a ``Literal``, objects of other classes) is left to it.

    Args:
        function: The function, with annotations.
        arguments: Its arguments, as ``locals()`` has them; other names are ignored.

    Returns:
        The arguments by name, each as :func:`plain` gives it.

    Raises:
        TypeError: If a value has another type than the signature says.
        ValueError: If a number is infinite or not a number, or a text is empty.
    """
    accepted = {}
    for name, annotation in function.__annotations__.items():
        if name not in arguments:
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
    return accepted


def taken_by(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments, of many, whose names are parameters of a function or class."""
    return {name: arguments[name] for name in inspect.signature(function).parameters if name in arguments}


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return a value as one of Python's own types, which a checkpoint can be read back with.

    Args:
        value: A number, flag, text, path, sequence or dictionary of any class: of NumPy, PyTorch or OmegaConf, a
            member of an enumeration of texts or numbers, a range.

    Returns:
        The same as ``int``, ``float``, ``bool``, ``str``, ``list``, ``tuple`` or ``dict``; a path as its text. What is
        none of them is returned as it is.
    """
    if isinstance(value, np.generic | np.ndarray) or (isinstance(value, torch.Tensor) and value.ndim < 2):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, UserString):
        value = value.data
    # The methods of the classes themselves: a subclass may say something else of itself, as enumerations do.
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
    """Return the members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _finite(value: float) -> bool:
    """Tell whether a number, a whole one of any length included, is one that a float can hold."""
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
