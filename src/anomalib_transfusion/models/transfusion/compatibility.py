# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Whether a checkpoint of anomalib fits a model, said in parameters rather than in the shapes of weights."""

from collections.abc import Mapping
from typing import Any

__all__ = ["check_compatible"]

# What the weights were trained for; everything else may differ between training and use.
TRAINED_FOR = (
    "timesteps",
    "schedule",
    "base_channels",
    "channel_multipliers",
    "num_blocks",
    "attention_levels",
    "positional_encoding",
    "previous_mask",
)


def check_compatible(checkpoint: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raise ValueError if the weights of a checkpoint were trained for another model, or with other parameters.

    Args:
        checkpoint: Checkpoint as Lightning loads it.
        parameters: Hyper-parameters of the model that is to take the weights.
    """
    weights = checkpoint.get("state_dict", {})
    stored = checkpoint.get("hyper_parameters", {})
    if not isinstance(weights, Mapping) or not isinstance(stored, Mapping):
        msg = (
            f"The checkpoint is damaged: its state_dict is of type {type(weights).__name__} and its hyper_parameters "
            f"are of type {type(stored).__name__}; expected dictionaries. Use another checkpoint."
        )
        raise ValueError(msg)
    if not any(str(key).startswith("model.network.") for key in weights):
        msg = (
            "This is a checkpoint of another model: none of its weights belongs to TransFusion's network, and they are "
            f"named {', '.join(map(str, list(weights)[:3]))}, ... Pass a checkpoint of TransFusion, or choose the model that it "
            "belongs to."
        )
        raise ValueError(msg)
    try:
        trained = _comparable(stored)
    except (TypeError, ZeroDivisionError) as error:
        msg = f"The checkpoint is damaged: its hyper_parameters are {dict(stored)} ({error}). Use another checkpoint."
        raise ValueError(msg) from error
    present = _comparable(parameters)
    differing = [name for name in TRAINED_FOR if name in trained and trained[name] != present[name]]
    if differing:
        msg = (
            f"The checkpoint was trained with {_listed(differing, trained)}, but this model has "
            f"{_listed(differing, present)}. Pass what it was trained with (on the command line "
            f"--model.{differing[0]}, or the --config of the training), or use TransFusion.load_from_checkpoint, which "
            "reads it from the file."
        )
        raise ValueError(msg)


def _comparable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that matter, so that equal networks have equal values."""
    values = {name: parameters[name] for name in TRAINED_FOR if name in parameters}
    if "channel_multipliers" in values:
        values["channel_multipliers"] = tuple(values["channel_multipliers"])
    if "attention_levels" in values and "channel_multipliers" in values:
        levels = len(values["channel_multipliers"])
        values["attention_levels"] = tuple(sorted({level % levels for level in values["attention_levels"]}))
    return values


def _listed(names: list[str], values: Mapping[str, Any]) -> str:
    """Name parameters with their values."""
    return ", ".join(f"{name}={values[name]}" for name in names)
