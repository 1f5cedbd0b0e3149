# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The README and the pages beside it: links lead somewhere, parameters and their defaults are the code's."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anomalib_transfusion import TransFusion
from paths import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "results").rglob("*.md")])
DEFAULTS = {
    name: str(parameter.default) if isinstance(parameter.default, Path) else parameter.default
    for name, parameter in inspect.signature(TransFusion).parameters.items()
}


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def evaluate(text: str) -> object:
    """Evaluate a default as the pages write it: Python's, with bare words for texts."""
    try:
        return eval(text, {"__builtins__": {}})  # noqa: S307
    except (NameError, SyntaxError):
        return text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    """A link to a file or a heading of this repository exists."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


def test_table_of_parameters():
    """The README's table names every parameter, in the order of the signature, with its default."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Parameters")[1]
    rows = re.findall(r"^\| (`[^|]+`) \| `([^`]+)` \|", text.split("\n## ")[0], flags=re.MULTILINE)
    table = {name: evaluate(default) for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    assert table == DEFAULTS
    assert list(table) == list(DEFAULTS)


def test_defaults_of_the_paper():
    """Every `name=value` of the first table of "From the paper to the parameter" is the default of that parameter."""
    page = (ROOT / "docs/paper_to_parameters.md").read_text(encoding="utf-8").split("Table 4:")[0]
    given = re.findall(r"`(\w+)=([^`]+)`", page)
    assert len(given) > 15
    for name, value in given:
        assert evaluate(value) == DEFAULTS[name], name


def test_ablations_of_the_paper():
    """Every row of Table 4 builds a model."""
    page = (ROOT / "docs/paper_to_parameters.md").read_text(encoding="utf-8").split("Table 4:")[1]
    given = [pair for pair in re.findall(r"`(\w+)=([^`]+)`", page) if pair[1] != "..."]
    assert len(given) > 10
    for name, value in given:
        assert evaluate(value) != DEFAULTS[name]
        TransFusion(base_channels=8, texture_source="none", **{name: evaluate(value)})


def test_quick_start(tmp_path):
    """The Python example runs as a person types it, and leaves what it says."""
    command = [sys.executable, str(ROOT / "examples/quick_start.py"), "--epochs", "1"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert re.search(r"\w+\.png is (defective|good), with a score of [01]\.\d\d", printed)
    assert (tmp_path / "film_strip.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "fading.gif").read_bytes().startswith(b"GIF8")
