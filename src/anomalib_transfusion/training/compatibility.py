# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks that a checkpoint fits a model, with messages about parameters rather than shapes of weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from anomalib_transfusion.checks import defaults_of

__all__ = ["check_compatible", "check_weights"]


def check_weights(checkpoint: Mapping[str, Any], model: str, prefix: str) -> None:
    """Raise ValueError if the weights of a checkpoint belong to another model.

    Args:
        checkpoint: Checkpoint as Lightning loads it.
        model: Name of the model that is to take the weights.
        prefix: Prefix of the names of its weights.
    """
    state = checkpoint.get("state_dict")
    weights = list(map(str, state)) if isinstance(state, Mapping) else []
    if not any(name.startswith(prefix) for name in weights):
        msg = (
            f"This is a checkpoint of another model: none of its weights belongs to {model}'s network, and they are "
            f"named {', '.join(weights[:3])}, ... Pass a checkpoint of {model}, or choose the model that it belongs to."
        )
        raise ValueError(msg)


def check_compatible(
    checkpoint: Mapping[str, Any],
    parameters: Mapping[str, Any],
    model: type,
    trained_for: Sequence[str],
) -> None:
    """Raise ValueError if the weights of a checkpoint were trained with other parameters.

    Args:
        checkpoint: Checkpoint as Lightning loads it.
        parameters: Hyper-parameters of the model that is to take the weights.
        model: Class of the model. Parameters that an older checkpoint lacks have the class's defaults.
        trained_for: Names of the parameters that weights are trained for.
    """
    try:
        recorded = dict(checkpoint.get("hyper_parameters", {}))
        # A parameter that was added after the checkpoint was written had its default then.
        if not recorded.keys().isdisjoint(trained_for):
            recorded = {**defaults_of(model), **recorded}
        trained = _comparable(recorded, trained_for)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        msg = f"The checkpoint is damaged: its hyper-parameters are not readable ({error}). Use another one."
        raise ValueError(msg) from error
    present = _comparable(parameters, trained_for)
    differing = [name for name in trained_for if name in trained and trained[name] != present[name]]
    if differing:
        msg = (
            f"The checkpoint was trained with {_listed(differing, trained)}, but this model has "
            f"{_listed(differing, present)}. Pass what it was trained with (on the command line "
            f"--model.{differing[0]}, or the --config of the training), or use {model.__name__}.load_from_checkpoint, "
            "which reads it from the file."
        )
        raise ValueError(msg)


def _comparable(parameters: Mapping[str, Any], trained_for: Sequence[str]) -> dict[str, Any]:
    """Return the parameters in ``trained_for`` in a normal form: equal networks have equal values."""
    values = {name: parameters[name] for name in trained_for if name in parameters}
    if values.get("backbone_layers") is not None:
        values["backbone_layers"] = tuple(values["backbone_layers"])
    if "channel_multipliers" in values:
        values["channel_multipliers"] = tuple(values["channel_multipliers"])
    if "attention_levels" in values and "channel_multipliers" in values:
        levels = len(values["channel_multipliers"])
        values["attention_levels"] = tuple(sorted({level % levels for level in values["attention_levels"]}))
    return values


def _listed(names: Sequence[str], values: Mapping[str, Any]) -> str:
    """Name parameters with their values."""
    return ", ".join(f"{name}={values[name]}" for name in names)
