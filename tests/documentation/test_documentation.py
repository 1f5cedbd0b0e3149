# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The README and the pages beside it: links lead somewhere, parameters and their defaults are the code's."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from anomalib_transfusion import DiffusionAD, Drdc, TransFusion
from commands import typed
from paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("*.md")])
PAPER = ROOT / "docs/models/transfusion.md"
COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer")
# What the models record of themselves, built with no argument but for the size of the networks.
SMALL = {
    TransFusion: {"base_channels": 8, "channel_multipliers": (1,), "attention_levels": ()},
    DiffusionAD: {"base_channels": 32, "channel_multipliers": (1,), "attention_levels": (), "segmentation_width": 1},
    Drdc: {"backbone": "test_efficientnet", "base_channels": 8, "channel_multipliers": (1,), "attention_levels": ()},
}


def defaults_of(model):
    """Return the default of every parameter of a model."""
    recorded = dict(model(**SMALL[model]).hparams)
    sizes = {name: inspect.signature(model).parameters[name].default for name in SMALL[model]}
    return {**recorded, **sizes, **dict.fromkeys(COMPONENTS, True)}


DEFAULTS = defaults_of(TransFusion)


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


def test_page_of_parameters():
    """The page of the parameters is what the code writes, and the code describes every parameter."""
    spec = importlib.util.spec_from_file_location("write_parameters", ROOT / "docs/write_parameters.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    page = writer.PAGE.read_text(encoding="utf-8")
    assert page == writer.page(), "run python docs/write_parameters.py"
    sections = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL))
    assert set(sections) == {model.__name__ for model in SMALL}
    for model in SMALL:
        rows = re.findall(r"^\| (`[^|]+`) \| `([^`]+)` \| (.+) \|$", sections[model.__name__], flags=re.MULTILINE)
        table = {name: evaluate(default) for names, default, _ in rows for name in re.findall(r"`(\w+)`", names)}
        assert table == defaults_of(model)
        assert all(len(text) > 10 for *_, text in rows)


def test_readme_is_a_front_door():
    """The README stays short, names the commands that everybody needs, and every page is reached from it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert "make demo" in text
    assert "make test" in text
    pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")} - {"docs/index.md"}
    assert pages <= {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)}
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert pages <= {f"docs/{target}" for target in re.findall(r"\]\(([^)]+)\)", index)}


def test_defaults_of_the_paper():
    """Every `name=value` of the first table of "From the paper to the parameter" is the default of that parameter."""
    page = PAPER.read_text(encoding="utf-8").split("## From the paper to the parameter")[1].split("Table 4:")[0]
    given = re.findall(r"`(\w+)=([^`]+)`", page)
    assert len(given) > 15
    for name, value in given:
        assert evaluate(value) == DEFAULTS[name], name


def test_ablations_of_the_paper():
    """Every row of Table 4 builds a model."""
    page = PAPER.read_text(encoding="utf-8").split("Table 4:")[1].split("\n## ")[0]
    given = [pair for pair in re.findall(r"`(\w+)=([^`]+)`", page) if pair[1] != "..."]
    assert len(given) > 10
    for name, value in given:
        assert evaluate(value) != DEFAULTS[name]
        TransFusion(base_channels=8, texture_source="none", **{name: evaluate(value)})


def test_quick_start(tmp_path):
    """The Python example runs as a person types it, and leaves what it says."""
    done = typed(ROOT / "examples/quick_start.py", "--epochs", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert re.search(r"\w+\.png is (defective|good), with a score of [01]\.\d\d", printed)
    assert (tmp_path / "film_strip.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "fading.gif").read_bytes().startswith(b"GIF8")
