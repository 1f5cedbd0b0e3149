# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Every message that the package can raise, warn with or log, from its sources, and the rows of a table about them."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import anomalib_transfusion

PACKAGE = Path(anomalib_transfusion.__file__).parent

#: Kind of a message that a process of its own prints; the row's function returns it.
PRINTED = "printed"

# The last part of what is called: warnings.warn, logger.error, ... Progress, as by logger.info, is no complaint.
_TELLING = {"_warn", "critical", "error", "exception", "exit", "rank_zero_warn", "warn", "warning"}


class Template(NamedTuple):
    """A message as it stands in the sources.

    Attributes:
        module: The module, as a path below the package.
        function: The innermost function that it is in.
        text: The message, with ``{}`` for each value.
        pattern: The same as a regular expression.
    """

    module: str
    function: str
    text: str
    pattern: str


class Message(NamedTuple):
    """A row of the table: a message, how to provoke it, and what it must say.

    Attributes:
        start: How its template begins, with ``{}`` for each value; no other in the module begins like this.
        provoke: Provokes it; its parameters are fixtures of these names.
        kind: Class of the exception or the warning, level of the log, or ``PRINTED``.
        value: Text that it has about what is wrong.
        expectation: Text that it has about what would be right.
        remedy: Text that it has about what to do.
        function: The function that it is in, where two of a module begin alike.
        module: The module, as a path below the package.
    """

    start: str
    provoke: Callable[..., Any]
    kind: type[BaseException] | int | str
    value: str
    expectation: str
    remedy: str
    function: str = ""
    module: str = ""

    @property
    def id(self) -> str:
        """A name for this row."""
        words = re.sub(r"\W+", "_", self.start).strip("_")[:40]
        return f"{Path(self.module).stem}-{words or self.function}"

    def is_of(self, template: Template) -> bool:
        """Tell whether this row is about a template."""
        return (
            template.module == self.module
            and template.text.startswith(self.start)
            and self.function in {"", template.function}
        )


def in_module(module: str, *rows: Message) -> list[Message]:
    """Give rows the module that they are about."""
    return [row._replace(module=module) for row in rows]


@cache
def templates(package: Path = PACKAGE) -> list[Template]:
    """List all messages in the modules of a package."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).as_posix()
        found += _templates(module, ast.parse(path.read_text(encoding="utf-8")))
    return found


def problems(found: Iterable[Template], rows: Iterable[Message]) -> list[str]:
    """Say which templates have no row, and which rows have not exactly one template."""
    found, rows = list(found), list(rows)
    said = [
        f"no row for {template.module} {template.function}: {template.text}"
        for template in found
        if not any(row.is_of(template) for row in rows)
    ]
    for row in rows:
        number = sum(row.is_of(template) for template in found)
        if number != 1:
            said.append(f"{number} templates for the row {row.module}: {row.start}")
    return said


def _templates(module: str, tree: ast.Module) -> Iterator[Template]:
    """Give the messages of a module."""
    for function, scope in _functions(tree):
        nodes = list(_inside(scope))
        assigned = [
            (node.lineno, node.value)
            for node in nodes
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "msg"
        ]
        parameters = {argument.arg for argument in scope.args.args} if isinstance(scope, ast.FunctionDef) else set()
        for node in nodes:
            for argument in _told(node):
                if isinstance(argument, ast.Name) and argument.id == "msg":
                    # The assignment above: a function may have several.
                    argument = max((line, value) for line, value in assigned if line < node.lineno)[1]  # noqa: PLW2901
                elif isinstance(argument, ast.Name) and argument.id in parameters:
                    # The callers' message.
                    continue
                parts = list(_parts(argument))
                text = "".join("{}" if part is None else part for part in parts)
                pattern = "".join(".*" if part is None else re.escape(part) for part in parts)
                yield Template(module, function, text, pattern)


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Give the functions of a module with their names, and what is outside of them."""
    yield "", tree
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """Give all that is in a function but not in a function inside of it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, ast.FunctionDef):
            yield from _inside(child)


def _told(node: ast.AST) -> Iterator[ast.expr]:
    """Give what an exception, a warning or a log is made of that says something."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield node.exc.args[-1]
    elif isinstance(node, ast.Raise) and node.exc is not None:
        # A class without words, or one that was made elsewhere: nobody could check what it says.
        yield ast.Constant(f"raise {ast.unparse(node.exc)}")
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] in _TELLING:
        yield node.args[0]


def _parts(value: ast.expr) -> Iterator[str | None]:
    """Give the constant parts of a message, and nothing in the place of each value."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        constants = re.split(r"%[sdr]", value.value)
        for number, constant in enumerate(constants):
            if number:
                yield None
            yield constant
    elif isinstance(value, ast.JoinedStr):
        for part in value.values:
            yield str(part.value) if isinstance(part, ast.Constant) else None
    else:
        yield None
