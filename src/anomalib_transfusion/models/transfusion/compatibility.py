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
    try:
        weights = [str(name) for name in checkpoint.get("state_dict", {})]
        trained = _comparable(dict(checkpoint.get("hyper_parameters", {})))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        msg = f"The checkpoint is damaged: weights or hyper-parameters are not readable ({error}). Use another one."
        raise ValueError(msg) from error
    if not any(name.startswith("model.network.") for name in weights):
        msg = (
            "This is a checkpoint of another model: none of its weights belongs to TransFusion's network, and they are "
            f"named {', '.join(weights[:3])}, ... Pass a checkpoint of TransFusion, or choose the model that it "
            "belongs to."
        )
        raise ValueError(msg)
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
