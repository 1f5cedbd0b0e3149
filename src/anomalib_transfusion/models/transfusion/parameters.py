# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Arguments of a constructor held against its signature. The command line does that; a call in Python does not."""

import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

__all__ = ["check_arguments"]

_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "None",
}


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise an error that names an argument whose value cannot be what the signature says.

    Numbers, flags, texts, paths and sequences of them are checked. What only the function itself can judge (ranges,
    the alternatives of a ``Literal``, objects of other classes) is left to it.

    Args:
        function: The function, with annotations.
        arguments: Its arguments, as ``locals()`` has them; other names are ignored.

    Raises:
        TypeError: If a value has another type than the signature says.
        ValueError: If a number is infinite or not a number, or a text is empty.
    """
    for name, annotation in function.__annotations__.items():
        if name not in arguments:
            continue
        value = arguments[name]
        if not _fits(value, annotation):
            msg = (
                f"{name}={reprlib.repr(value)} is of type {type(value).__name__}; expected {_described(annotation)}. "
                "Pass such a value, or leave it out for the default."
            )
            raise TypeError(msg)
        if isinstance(value, int | float) and float in _alternatives(annotation) and not _finite(value):
            msg = f"{name}={value} is impossible; expected a finite number. Leave it out for the default."
            raise ValueError(msg)
        if isinstance(value, str) and (not value or "\0" in value):
            msg = f"{name}={value!r} is impossible; expected a text that is not empty. Leave it out for the default."
            raise ValueError(msg)


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
            and not isinstance(value, str | bytes)
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
