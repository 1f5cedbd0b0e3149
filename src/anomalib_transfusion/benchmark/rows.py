# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The rows of a benchmark: what a config asks for, checked before anything runs."""

import hashlib
import json
import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
from anomalib.utils.config import flatten_dict
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import Trainer

__all__ = ["Row", "accelerators", "build", "check_config", "check_rows", "expand", "parse"]

#: Arguments of the trainer that the benchmark sets itself.
RESERVED = ("accelerator", "barebones", "default_root_dir", "devices", "enable_checkpointing", "logger", "num_nodes")
CONFIG_KEYS = {"accelerator", "benchmark", "output_dir"}
BENCHMARK_KEYS = {"data", "model", "seed"}
ENTRY_KEYS = {"class_path", "init_args", "name", "trainer"}


@dataclass(frozen=True)
class Row:
    """One model on one data set: plain data, so that it can be sent to another process.

    Attributes:
        accelerator: ``cpu`` or ``cuda``.
        seed: Seed of everything.
        model: ``class_path`` and ``init_args`` of the model.
        data: ``class_path`` and ``init_args`` of the data module.
        trainer: Arguments of the trainer.
        name: What the model is called in tables.
    """

    accelerator: str
    seed: int
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def dataset(self) -> str:
        """Name of the data module's class."""
        return str(self.data["class_path"]).rsplit(".", 1)[-1]

    @property
    def category(self) -> str:
        """Category of the data set, or what comes closest."""
        arguments = self.data.get("init_args") or {}
        return str(arguments.get("category", arguments.get("name", self.dataset)))

    @property
    def label(self) -> str:
        """What a person calls this row."""
        return f"{self.name} on {self.category} ({self.dataset}, seed {self.seed}, {self.accelerator})"

    @property
    def key(self) -> str:
        """Name of the row's file without suffix; two rows share it only if all but the name is the same."""
        config = [self.accelerator, self.seed, self.model, self.data, self.trainer]
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]
        model = str(self.model["class_path"]).rsplit(".", 1)[-1]
        readable = f"{model}-{self.dataset}-{self.category}-seed{self.seed}-{self.accelerator}"
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', readable)}-{digest}"

    def columns(self) -> dict[str, Any]:
        """Give the columns that follow from the config, named as anomalib names them."""
        model = self.model | ({"trainer": self.trainer} if self.trainer else {})
        return {
            "name": self.name,
            "dataset": self.dataset,
            "category": self.category,
            "accelerator": self.accelerator,
            "seed": self.seed,
            **flatten_dict({"model": model, "data": self.data}),
        }


def check_config(config: dict[str, Any]) -> None:
    """Check what surrounds the rows of a benchmark's config.

    Raises:
        ValueError: If a part is unknown, absent or impossible; the message names it.
    """
    _check_keys("the config", config, CONFIG_KEYS, required={"accelerator", "benchmark", "output_dir"})
    if not isinstance(config["output_dir"], str) or not config["output_dir"]:
        msg = f"output_dir is {config['output_dir']!r}; expected the folder for the results, as runs/benchmark/demo."
        raise ValueError(msg)
    _check_keys("'benchmark'", config["benchmark"], BENCHMARK_KEYS, required=BENCHMARK_KEYS)
    for key, value in flatten_dict(config["benchmark"]).items():
        if key.split(".")[-1] == "grid":
            if not isinstance(value, list) or not value:
                msg = f"benchmark.{key} is {value!r}; expected a list of at least one value, as [brick, gravel]."
                raise ValueError(msg)
        elif "grid" in key:
            # anomalib takes any key with these four letters in it for a grid.
            msg = f"benchmark.{key} has 'grid' in its name; put the whole entry into a list under model.grid."
            raise ValueError(msg)


def accelerators(config: dict[str, Any]) -> list[str]:
    """Resolve the accelerators of a config: ``auto`` is ``cuda`` where there is a GPU, otherwise ``cpu``.

    Raises:
        ValueError: If an accelerator is unknown, or ``cuda`` is asked for where there is no GPU.
    """
    asked = config["accelerator"] if isinstance(config["accelerator"], list) else [config["accelerator"]]
    resolved = ["cuda" if torch.cuda.is_available() else "cpu"] if "auto" in asked else []
    for accelerator in asked:
        if accelerator not in {"auto", "cpu", "cuda"}:
            msg = (
                f"accelerator is {accelerator!r}; expected 'auto', 'cpu' or 'cuda'. Choose one, or some as [cpu, cuda]."
            )
            raise ValueError(msg)
        if accelerator == "cuda" and not torch.cuda.is_available():
            msg = "accelerator is 'cuda', but PyTorch finds no GPU. Choose 'auto' or 'cpu', or check nvidia-smi."
            raise ValueError(msg)
        if accelerator != "auto":
            resolved.append(accelerator)
    return list(dict.fromkeys(resolved))


def expand(benchmark: dict[str, Any], accelerator: str) -> list[Row]:
    """List the rows of a grid for one accelerator.

    Raises:
        ValueError: If an entry lacks something or has something unknown, or two rows are the same.
    """
    rows: dict[str, Row] = {}
    for combination in get_iterator_from_grid_dict(benchmark):
        parts: dict[str, Any] = deepcopy(combination)
        model, data = parts.get("model", {}), parts.get("data", {})
        seed = parts.get("seed")
        _check_keys("an entry of 'model'", model, ENTRY_KEYS, required={"class_path"})
        _check_keys("an entry of 'data'", data, {"class_path", "init_args"}, required={"class_path"})
        if not isinstance(seed, int):
            msg = f"seed is {seed!r}; expected a whole number, or several as seed: {{grid: [1, 2, 3]}}."
            raise ValueError(msg)  # noqa: TRY004
        trainer = model.pop("trainer", None) or {}
        name = model.pop("name", None) or model["class_path"].rsplit(".", 1)[-1]
        row = Row(accelerator, seed, model, data, trainer, str(name))
        if row.key in rows:
            msg = f"Two rows of the grid are the same: {rows[row.key].label} and {row.label}. Remove one of them."
            raise ValueError(msg)
        rows[row.key] = row
    return list(rows.values())


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


def _check_keys(what: str, value: Any, known: set[str], required: set[str]) -> None:  # noqa: ANN401
    """Raise ValueError if a part of the config is no mapping, has an unknown key or lacks a required one."""
    if not isinstance(value, dict):
        msg = (
            f"{what} is {value!r}; expected a mapping with {', '.join(sorted(known))}. Write it as in "
            "configs/benchmark/demo.yaml."
        )
        raise ValueError(msg)  # noqa: TRY004
    unknown = sorted(map(str, value.keys() - known))
    if unknown:
        msg = f"{what} has {', '.join(unknown)}; expected {', '.join(sorted(known))}. Check the spelling."
        raise ValueError(msg)
    absent = sorted(required - value.keys())
    if absent:
        msg = f"{what} has no {', '.join(absent)}, which it needs; add it (see configs/benchmark/demo.yaml)."
        raise ValueError(msg)
