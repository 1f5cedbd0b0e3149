# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Write docs/parameters.md from the signatures and docstrings of the models.

Run it after a change of parameters, from anywhere: ``python docs/write_parameters.py``. A test compares the page.
"""

import inspect
import re
from pathlib import Path
from typing import Any

from docstring_parser import parse

PAGE = Path(__file__).with_name("parameters.md")
COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer")
HEAD = """# Parameters

In Python arguments of the class, on the command line `--model.NAME`, in a config `model: init_args: NAME:`. This page
is written from the code by `python docs/write_parameters.py`. Epochs, devices, the trainer's precision and the
validation interval are the trainer's (`--trainer.max_epochs`, ...): see [Training](training.md).
"""


def page() -> str:
    """Return the page."""
    from anomalib.models import DiffusionAD, Drdc, TransFusion

    return "\n".join((HEAD, *(section(model) for model in (TransFusion, DiffusionAD, Drdc))))


def section(model: type) -> str:
    """Return heading and table of a model."""
    defaults, described = parameters_of(model)
    rows = [
        f"| `{name}` | `{shown(default)}` | {text_of(described[name] or '')} |"
        for name, default in defaults.items()
        if name not in COMPONENTS
    ]
    components = ", ".join(f"`{name}`" for name in COMPONENTS)
    rows.append(f"| {components} | `True` | anomalib's components: `True` for the model's default, `False` for none |")
    link = f"models/{model.__module__.split('.')[-2]}.md"
    head = f"## {model.__name__}\n\nWhere each is from: [{model.__name__}]({link}).\n"
    return "\n".join((head, "| parameter | default | what it is |", "| --- | --- | --- |", *rows, ""))


def parameters_of(model: type) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Return defaults and descriptions, those of the classes to which ``**shared`` is handed on included."""
    defaults: dict[str, Any] = {}
    described: dict[str, str | None] = {}
    for base in model.__mro__:
        if "__init__" not in vars(base):
            continue
        signature = inspect.signature(base.__init__).parameters.values()
        described = {
            **{parameter.arg_name: parameter.description for parameter in parse(base.__doc__ or "").params},
            **described,
        }
        for parameter in signature:
            if parameter.name != "self" and not parameter.kind.name.startswith("VAR_"):
                defaults.setdefault(parameter.name, parameter.default)
        named = any(not parameter.kind.name.startswith("VAR_") for parameter in signature if parameter.name != "self")
        if named and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
            break
    return defaults, described


def shown(default: Any) -> str:  # noqa: ANN401
    """Return a default as one would type it."""
    return default if isinstance(default, str) else repr(default)


def text_of(description: str) -> str:
    """Return a description of a docstring as a cell of a Markdown table."""
    text = re.sub(r"\s*Defaults to ``[^`]*``\.?\s*$", "", description.strip())
    return re.sub(r"\s+", " ", text).replace("``", "`").replace("|", r"\|").removesuffix(".")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
