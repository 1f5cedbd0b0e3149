# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The rows of a benchmark: the trainings that a config describes, checked before anything runs."""

import hashlib
import json
import re
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
from anomalib.utils.config import flatten_dict
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import Trainer

from .config import accelerators, check_config, check_keys
from .metrics import ALL, NOTE, joins_categories

__all__ = ["Row", "accelerators", "build", "check_config", "check_rows", "expand", "parse"]

#: Arguments of the trainer that the benchmark sets itself.
RESERVED = ("accelerator", "barebones", "default_root_dir", "devices", "enable_checkpointing", "logger", "num_nodes")
ENTRY_KEYS = {"class_path", "init_args", "minutes", "name", "notes", "trainer", "weights"}


@dataclass(frozen=True)
class Row:
    """One model on one data set: plain data, so that it can be sent to another process.

    Attributes:
        accelerator: ``cpu`` or ``cuda``.
        seed: Seed of everything.
        model: ``class_path`` and ``init_args`` of the model.
        data: ``class_path`` and ``init_args`` of the data module.
        trainer: Arguments of the trainer.
        name: Name of the model in tables.
        minutes: Time limit of the training in minutes; ``None`` leaves its length to the trainer's arguments.
        weights: Row whose trained weights this row uses instead of a training.
        notes: Notes on the row in tables, by the name of their column.
    """

    accelerator: str
    seed: int
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    minutes: float | None = None
    weights: "Row | None" = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """Name of the data module's class; for MultiCategory, the name of the data set whose categories it joins."""
        name = str(self.data["class_path"]).rsplit(".", 1)[-1]
        return name if self.categories is None else str(self._data_arguments.get("dataset", "MVTecAD"))

    @property
    def category(self) -> str:
        """Category of the data, or else its name or data set; for several categories, their number."""
        if self.categories is not None:
            return f"{len(self.categories)} categories" if len(self.categories) > 1 else "".join(self.categories) or ALL
        arguments = self._data_arguments
        return str(arguments.get("category", arguments.get("name", self.dataset)))

    @property
    def categories(self) -> tuple[str, ...] | None:
        """Categories that MultiCategory joins, empty if it joins all; ``None`` for other data modules."""
        if not joins_categories(self.data["class_path"]):
            return None
        asked = self._data_arguments.get("categories", ALL)
        if isinstance(asked, str):
            return () if asked == ALL else (asked,)
        return tuple(map(str, asked)) if isinstance(asked, list) else (str(asked),)

    @property
    def _data_arguments(self) -> dict[str, Any]:
        """Arguments of the data module."""
        return self.data.get("init_args") or {}

    @property
    def label(self) -> str:
        """Description of the row in messages."""
        return f"{self.name} on {self.category} ({self.dataset}, seed {self.seed}, {self.accelerator})"

    @property
    def key(self) -> str:
        """Name of the row's file without suffix; two rows share it only if all but name and notes are the same."""
        config = [self.accelerator, self.seed, self.model, self.data, self.trainer]
        # Options added after the first release are hashed only if set, so that existing files keep their names.
        config += [{"minutes": self.minutes}] if self.minutes is not None else []
        config += [{"weights": self.weights.key}] if self.weights is not None else []
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]
        model = str(self.model["class_path"]).rsplit(".", 1)[-1]
        readable = f"{model}-{self.dataset}-{self.category}-seed{self.seed}-{self.accelerator}"
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', readable)}-{digest}"

    def named(self) -> dict[str, str]:
        """Return the columns that may change without a new training."""
        return {"name": self.name, **self.notes}

    def columns(self) -> dict[str, Any]:
        """Return the columns that follow from the config, with anomalib's names."""
        model = self.model | ({"trainer": self.trainer} if self.trainer else {})
        model |= {"minutes": self.minutes} if self.minutes is not None else {}
        model |= {"weights": self.weights.name} if self.weights is not None else {}
        return {
            **self.named(),
            "dataset": self.dataset,
            "category": self.category,
            **({"categories": json.dumps(self.categories)} if self.categories else {}),
            "accelerator": self.accelerator,
            "seed": self.seed,
            **flatten_dict({"model": model, "data": self.data}),
        }


def expand(benchmark: dict[str, Any], accelerator: str, minutes: float | None = None) -> list[Row]:
    """List the rows of a grid for one accelerator.

    Args:
        benchmark: Section ``benchmark`` of the config.
        accelerator: ``cpu`` or ``cuda``.
        minutes: Time limit of the benchmark in minutes, of which trainings may have shares.

    Raises:
        ValueError: If an entry lacks something or has something unknown or impossible, or two rows are the same.
    """
    combinations = [deepcopy(combination) for combination in get_iterator_from_grid_dict(benchmark)]
    rows: dict[str, Row] = {}
    shares = _Shares(minutes, combinations)
    for parts in combinations:
        model, data = parts.get("model", {}), parts.get("data", {})
        seed = parts.get("seed")
        check_keys("an entry of 'model'", model, ENTRY_KEYS, required={"class_path"})
        check_keys("an entry of 'data'", data, {"class_path", "init_args"}, required={"class_path"})
        if not isinstance(seed, int):
            msg = f"seed is {seed!r}; expected a whole number, or several as seed: {{grid: [1, 2, 3]}}."
            raise ValueError(msg)  # noqa: TRY004
        name = str(model.pop("name", None) or model["class_path"].rsplit(".", 1)[-1])
        trainer, given = model.pop("trainer", None) or {}, model.pop("minutes", None)
        weights, notes = model.pop("weights", None), model.pop("notes", None) or {}
        check_keys("'notes'", notes, set(notes), required=set())
        row = Row(accelerator, seed, model, data, trainer, name)
        row = replace(
            row,
            minutes=shares.minutes(given, row),
            weights=None if weights is None else _base(weights, row, rows.values()),
            notes={f"{NOTE}{what}": str(text) for what, text in notes.items()},
        )
        if row.key in rows:
            msg = f"Two rows of the grid are the same: {rows[row.key].label} and {row.label}. Remove one of them."
            raise ValueError(msg)
        rows[row.key] = row
    return list(rows.values())


class _Shares:
    """Division of the benchmark's time limit into equal parts for each category of each data set with each seed.

    A training gets a share of the parts of its categories, so that one model for many categories is trained for as long
    as the models for each of them together.

    Args:
        whole: Time limit of the benchmark in minutes.
        combinations: All combinations of the grid.
    """

    def __init__(self, whole: float | None, combinations: Iterable[dict[str, Any]]) -> None:
        self.whole = whole
        self.parts: dict[str, Any] = {
            json.dumps([part.get("seed"), part.get("data")], sort_keys=True, default=str): part.get("data")
            for part in combinations
        }

    def minutes(self, given: Any, row: Row) -> float | None:  # noqa: ANN401
        """Return the time of a training: a number, or a share of the parts of its categories."""
        if given is None:
            return None
        share = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", given) if isinstance(given, str) else None
        if share and self.whole is None:
            msg = f"{row.label}: minutes is {given!r} of nothing; expected 'minutes' for everything as well. Add it."
            raise ValueError(msg)
        found = float(share[1]) / 100 * self._part(given, row) if share else given
        if isinstance(found, bool) or not isinstance(found, int | float) or found <= 0:
            msg = f"{row.label}: minutes is {given!r}; expected a number above 0, or a share as 36%. Write one of them."
            raise ValueError(msg)
        return float(found)

    def _part(self, given: str, row: Row) -> float:
        """Return the time of a row's categories."""
        numbers = [self._num_categories(data, given, row) for data in self.parts.values()]
        return (self.whole or 0) * self._num_categories(row.data, given, row) / sum(numbers)

    @staticmethod
    def _num_categories(data: dict[str, Any], given: str, row: Row) -> int:
        """Return the number of categories of a data set."""
        categories = Row("", 0, {}, data).categories
        if categories == ():
            msg = (
                f"{row.label}: minutes is {given!r}, of which each category has a part, but categories is 'all'; "
                "expected their names. Name them in a list, or give the minutes as a number."
            )
            raise ValueError(msg)
        return 1 if categories is None else len(categories)


def _base(name: Any, row: Row, rows: Iterable[Row]) -> Row:  # noqa: ANN401
    """Return the row with a name and the same seed and data, whose weights another row uses."""
    for other in rows:
        if (other.name, other.seed, other.data) == (name, row.seed, row.data) and other.weights is None:
            return other
    msg = (
        f"{row.label}: weights is {name!r}; expected the name of a model that is trained, and that stands above it. "
        "Check the spelling and the order."
    )
    raise ValueError(msg)


def check_rows(rows: list[Row]) -> None:
    """Check the parameters of every row without building anything.

    Raises:
        ValueError: If a class or a parameter is unknown, or a value of the wrong type; the message names it.
    """
    checked = set()
    for row in rows:
        # Each model meets many categories: checking it once is enough.
        for part in (Row("", 0, row.model, rows[0].data, row.trainer), Row("", 0, rows[0].model, row.data)):
            if part.key not in checked:
                checked.add(part.key)
                try:
                    parse(part)
                except ValueError as error:
                    msg = f"{row.label}: {error}"
                    raise ValueError(msg) from None


def parse(row: Row) -> tuple[ArgumentParser, Namespace]:
    """Parse the model, the data module and the arguments of the trainer as anomalib's command line does.

    Returns:
        The parser, to instantiate with, and what it parsed.

    Raises:
        ValueError: If a class or a parameter is unknown, or a value of the wrong type; the message names it.
    """
    reserved = sorted(row.trainer.keys() & set(RESERVED))
    if reserved:
        msg = (
            f"the trainer's {', '.join(reserved)} cannot be set here; the benchmark sets it. Remove it from 'trainer'."
        )
        raise ValueError(msg)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalibModule, "model", fail_untyped=False, required=True)
    parser.add_subclass_arguments(AnomalibDataModule, "data", fail_untyped=False, required=True)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
    try:
        # A copy, because jsonargparse writes into what it parses.
        parsed = parser.parse_object(deepcopy({"model": row.model, "data": row.data, "trainer": row.trainer}))
    except ArgumentError as error:
        msg = f"{_readable(str(error))}. Check the name and the value in the config."
        raise ValueError(msg) from None
    return parser, parsed


def build(parser: ArgumentParser, parsed: Namespace) -> Namespace:
    """Build the model, the data module and the nested arguments of the trainer from what was parsed.

    Raises:
        ValueError: If a value is impossible, as the class itself says.
    """
    try:
        return parser.instantiate_classes(parsed)
    except ValueError as error:
        # jsonargparse takes the class' own complaint for one of several types that did not fit.
        msg = _readable(str(error))
        raise ValueError(msg) from error


def _readable(message: str) -> str:
    """Shorten jsonargparse's message to one line: without the types that it tried and the repeated value."""
    kept = [
        line.strip().removeprefix("- ")
        for line in re.split(r"\n\s*Given value type:", message, maxsplit=1)[0].splitlines()
        if not re.search(r"Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>$", line)
    ]
    return " ".join(kept)
