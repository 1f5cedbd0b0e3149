# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Ranges and choices in annotations: what is accepted, and what is said about the rest."""

import math
from typing import Annotated, Literal

import numpy as np
import pytest

from anomalib_transfusion.checks import Range, check_arguments, taken_by


def takes(
    number: Annotated[int, Range(2, 5, "Use 3.")] = 2,
    share: Annotated[float | None, Range(0, 1, problem="is no share; {least} to {most}.")] = None,
    weight: Annotated[float, Range(0)] = 0.0,
    choice: Literal["mean", "last"] = "mean",
):
    """Return the arguments as they were accepted."""
    return check_arguments(takes, locals())


@pytest.mark.parametrize("number", [2, 5, np.int64(3)])
@pytest.mark.parametrize("share", [None, 0, 1.0, np.float32(0.5)])
def test_ends_and_none_are_in_a_range(number, share):
    accepted = takes(number=number, share=share)
    assert accepted == {"number": number, "share": share, "weight": 0.0, "choice": "mean"}
    assert type(accepted["number"]) is int


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"number": 1}, "number=1 is impossible; expected 2 to 5. Use 3."),
        ({"number": np.int64(6)}, "number=6 is impossible; expected 2 to 5. Use 3."),
        ({"share": -0.1}, "share=-0.1 is no share; 0 to 1. Leave it out for the default."),
        ({"share": 1.5}, "share=1.5 is no share; 0 to 1. Leave it out for the default."),
        ({"weight": -1}, "weight=-1 is impossible; expected 0 to inf. Leave it out for the default."),
        ({"choice": "median"}, "choice='median' is unknown; choose one of mean, last."),
        ({"choice": 3}, "choice=3 is unknown; choose one of mean, last."),
        ({"choice": ["mean"]}, "choice=['mean'] is unknown; choose one of mean, last."),
        ({"weight": math.inf}, "weight=inf is impossible; expected a finite number. Leave it out for the default."),
    ],
)
def test_what_is_out_of_it_is_refused(given, said):
    with pytest.raises(ValueError, match=r"^") as refused:
        takes(**given)
    assert str(refused.value) == said


@pytest.mark.parametrize(("given", "expected"), [({"number": 2.5}, "a whole number"), ({"share": "half"}, "None")])
def test_types_come_first(given, expected):
    with pytest.raises(TypeError, match=expected):
        takes(**given)


def test_arguments_are_handed_on_by_name():
    class Part:
        def __init__(self, *, number, **rest):
            pass

    class Special(Part):
        def __init__(self, *, choice, **rest):
            pass

    given = {"number": 1, "choice": 2, "other": 3}
    assert taken_by(Special, given) == {"number": 1, "choice": 2}
    assert taken_by(takes, given) == {"number": 1, "choice": 2}
