# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The config of a benchmark: its variables, its options, and checks before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from anomalib.utils.config import flatten_dict
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = ["Options", "accelerators", "check_config", "check_keys", "check_names", "resolve", "with_settings"]

NEEDED_KEYS = {"accelerator", "benchmark", "output_dir"}
FLAGS = {"checkpoints", "kinds", "pictures"}
CONFIG_KEYS = NEEDED_KEYS | FLAGS | {"baseline", "minutes", "only", "variables"}
BENCHMARK_KEYS = {"data", "model", "seed"}


@dataclass(frozen=True)
class Options:
    """Options of a benchmark that all rows share.

    Attributes:
        baseline: Name of the model that the others are compared with in the report.
        checkpoints: Whether trainings are saved every two minutes, can be resumed, and keep their weights.
        kinds: Whether metrics are computed from scores before the post-processor, also for each kind of defect.
        minutes: Time limit in minutes, after which no row is started; ``None`` for no limit.
        only: Names of the models whose rows are run; empty for all.
        pictures: Whether the best, the median and the worst cases of each kind of defect are drawn.
    """

    baseline: str | None = None
    checkpoints: bool = False
    kinds: bool = False
    minutes: float | None = None
    only: tuple[str, ...] = ()
    pictures: bool = False

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Options":
        """Read the options from a checked config."""
        return cls(
            config.get("baseline"),
            config.get("checkpoints", False),
            config.get("kinds", False),
            config.get("minutes"),
            tuple(config.get("only") or ()),
            config.get("pictures", False),
        )


def with_settings(config: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Replace values of a config's variables.

    Args:
        config: The config as it is in its file.
        settings: Texts ``NAME=VALUE``, with the value in YAML.

    Raises:
        ValueError: If a setting has no value, or there is no such variable; the message names it.
    """
    variables = dict(config.get("variables") or {})
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in variables:
            msg = (
                f"--set {setting}: expected NAME=VALUE with a variable of the config, which has "
                f"{', '.join(variables) or 'none'}. Choose one, or change the config."
            )
            raise ValueError(msg)
        variables[name] = yaml.safe_load(value)
    return {**config, "variables": variables} if settings else config


def resolve(config: dict[str, Any], accelerator: str) -> dict[str, Any]:
    """Replace ``${NAME}`` in a config by the values of its variables.

    Args:
        config: The config with its ``variables``.
        accelerator: ``cpu`` or ``cuda``, the value of the variable ``accelerator``.

    Raises:
        ValueError: If a variable has a reserved name, or a name in ``${...}`` is unknown.
    """
    variables = config.get("variables")
    if not variables:
        return {**config, "accelerator": accelerator}
    taken = sorted({"accelerator", "config"} & set(variables))
    if taken:
        msg = f"A variable is called {taken[0]}, which is taken; expected another name. Choose one."
        raise ValueError(msg)
    # The names are those at the root of the tree.
    others = {name: value for name, value in config.items() if name != "variables"} | {"accelerator": accelerator}
    try:
        tree = OmegaConf.create({**variables, "accelerator": accelerator, "config": others})
        resolved: Any = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        msg = (
            f"{next(iter(str(error).splitlines()), '')}: expected names of variables, which are accelerator, "
            f"{', '.join(map(str, variables))}, in ${{...}}. Check the spelling."
        )
        raise ValueError(msg) from None
    return dict(resolved["config"])


def check_config(config: dict[str, Any]) -> None:
    """Check a benchmark's config, but for its rows.

    Raises:
        ValueError: If a part is unknown, absent or impossible; the message names it.
    """
    check_keys("the config", config, CONFIG_KEYS, required=NEEDED_KEYS)
    if not isinstance(config["output_dir"], str) or not config["output_dir"]:
        msg = f"output_dir is {config['output_dir']!r}; expected the folder for the results, as runs/benchmark/demo."
        raise ValueError(msg)
    for name in sorted(FLAGS & config.keys()):
        if not isinstance(config[name], bool):
            msg = f"{name} is {config[name]!r}; expected true or false. Write one of them."
            raise ValueError(msg)  # noqa: TRY004
    only = config.get("only")
    if only is not None and not isinstance(only, list):
        msg = f"only is {only!r}; expected a list of names of models, as [TransFusion]. Put it into brackets."
        raise ValueError(msg)
    minutes = config.get("minutes")
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float) or minutes <= 0):
        msg = f"minutes is {minutes!r}; expected a number above 0. Leave it out for as long as it takes."
        raise ValueError(msg)
    check_keys("'benchmark'", config["benchmark"], BENCHMARK_KEYS, required=BENCHMARK_KEYS)
    for key, value in flatten_dict(config["benchmark"]).items():
        if key.split(".")[-1] == "grid":
            if not isinstance(value, list) or not value:
                msg = f"benchmark.{key} is {value!r}; expected a list of at least one value, as [brick, gravel]."
                raise ValueError(msg)
        elif "grid" in key:
            # anomalib takes any key with these four letters in it for a grid.
            msg = f"benchmark.{key} has 'grid' in its name; put the whole entry into a list under model.grid."
            raise ValueError(msg)


def check_names(options: Options, names: Sequence[str]) -> None:
    """Check that the models that the options name are in the config.

    Args:
        options: The options.
        names: Names of the models of all rows.

    Raises:
        ValueError: If there is no model of a name.
    """
    for what, asked in (("only", options.only), ("baseline", [options.baseline] if options.baseline else [])):
        for name in asked:
            if name not in names:
                msg = f"{what} is {name!r}; expected the name of a model, which are {', '.join(names)}. Choose one."
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


def check_keys(what: str, value: Any, known: set[str], required: set[str]) -> None:  # noqa: ANN401
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
