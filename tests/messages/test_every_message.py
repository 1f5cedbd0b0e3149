# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Each message of the package, provoked: it names the value, what would be right and what to do."""

import inspect
import logging
import pkgutil
import re
import warnings
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from benchmark_messages import BENCHMARK
from category_messages import CATEGORIES
from checkpoint_messages import CHECKPOINTS
from data_messages import DATA
from diffusion_ad_messages import DIFFUSION_AD
from drdc_messages import DRDC
from message_table import PRINTED, Message, problems, templates
from parameter_messages import PARAMETERS
from picture_messages import PICTURES
from plugin_messages import PLUGIN
from synthesis_messages import SYNTHESIS
from training_messages import TRAINING

import anomalib_transfusion

if TYPE_CHECKING:
    from anomalib_transfusion.checks import Range

MESSAGES = [
    *PARAMETERS,
    *TRAINING,
    *CHECKPOINTS,
    *DATA,
    *CATEGORIES,
    *SYNTHESIS,
    *PICTURES,
    *BENCHMARK,
    *PLUGIN,
    *DIFFUSION_AD,
    *DRDC,
]


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


def logged(message, provoke):
    """Return what is logged at the level of a message by its module."""
    heard = Heard()
    logger = logging.getLogger("anomalib_transfusion." + message.module.removesuffix(".py").replace("/", "."))
    logger.addHandler(heard)
    try:
        provoke()
    finally:
        logger.removeHandler(heard)
    [record] = [record for record in heard.records if record.levelno == message.kind]
    return record.getMessage()


def warned(kind, pattern, provoke):
    """Return what is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        provoke()
    [said] = {str(one.message) for one in caught if one.category is kind and re.search(pattern, str(one.message))}
    return said


def said(message, pattern, provoke):
    """Return what a message says when it is provoked."""
    if message.kind == PRINTED:
        return provoke()
    if isinstance(message.kind, int):
        return logged(message, provoke)
    if issubclass(message.kind, Warning):
        return warned(message.kind, pattern, provoke)
    with pytest.raises(message.kind) as raised:
        provoke()
    assert raised.type is message.kind
    return str(raised.value)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.id)
def test_message_names_value_expectation_and_remedy(message, request):
    [template] = [template for template in templates() if message.is_of(template)]
    fixtures = {name: request.getfixturevalue(name) for name in inspect.signature(message.provoke).parameters}
    text = said(message, template.pattern, lambda: message.provoke(**fixtures))
    assert re.search(template.pattern, text, re.DOTALL), text
    places = []
    for part in (message.value, message.expectation, message.remedy):
        assert part in text, f"{part!r} is not in {text!r}"
        places.append((text.index(part), text.index(part) + len(part)))
    # Three texts, not one under three names.
    places.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(places)), text


def test_every_message_has_a_row_and_every_row_a_message():
    assert problems(templates(), MESSAGES) == []


def test_every_range_of_a_parameter_has_a_row():
    """Their messages stand in annotations, where the sources are not looked through for them."""
    package = anomalib_transfusion.__name__
    ranges: dict[Range, set[str]] = {}
    for found in pkgutil.walk_packages(anomalib_transfusion.__path__, f"{package}."):
        for function in vars(import_module(found.name)).values():
            called = function.__init__ if isinstance(function, type) else function
            for name, annotation in getattr(called, "__annotations__", {}).items():
                for limits in getattr(annotation, "__metadata__", ()):
                    ranges.setdefault(limits, set()).add(name)
    assert {"num_blocks", "noise_seed", "focal_gamma", "mask_divisor"} <= set.union(*ranges.values())
    named = {row.value.partition("=")[0] for row in MESSAGES}
    assert [names for names in ranges.values() if not names & named] == []


def test_what_is_missing_would_be_found(tmp_path):
    """Each way to tell the user something that the package has, in a source that no row is about."""
    (tmp_path / "new.py").write_text(
        """
import logging, warnings

logger = logging.getLogger(__name__)

def check(value):
    if value == 1:
        msg = f"value={value} is one; expected two."
        raise ValueError(msg)
    if value == 3:
        msg = "three"
        raise OSError(3, msg) from None
    logger.warning("The value %s is odd.", value)
    logger.info("Progress.")

    def inner():
        warnings.warn(f"{value!r} is {value:.2f}", UserWarning)
        raise StopIteration

    try:
        inner()
    except ValueError:
        raise
""",
        encoding="utf-8",
    )
    found = templates(tmp_path)
    texts = ["value={} is one; expected two.", "three", "The value {} is odd.", "{} is {}", "raise StopIteration"]
    assert [template.text for template in found] == texts
    assert re.fullmatch(found[0].pattern, "value=1 is one; expected two.")
    assert not re.fullmatch(found[0].pattern, "value=1 is one, expected two.")
    row = Message("value={} is", print, ValueError, "value=1", "expected", "two", module="new.py")
    assert [line.split(": ")[0] for line in problems(found, [row])] == ["no row for new.py check"] * 2 + [
        "no row for new.py inner",
    ] * 2
    stale = row._replace(start="value={} was")
    assert problems(found[:1], [row, stale]) == ["0 templates for the row new.py: value={} was"]
