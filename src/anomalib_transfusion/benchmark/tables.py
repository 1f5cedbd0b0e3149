# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Tables with categories as rows and models as columns, as in TransFusion's paper, their costs, and Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from .categories import trainings

__all__ = [
    "CategoryTable",
    "Cell",
    "bold_best",
    "category_table",
    "costs",
    "markdown",
    "markdown_of",
    "percent",
    "sentence",
]

ABSENT = "-"
FAILED = "failed"


@dataclass(frozen=True)
class Cell:
    """One model on one category.

    Attributes:
        seeds: The metric of each seed that finished, in [0, 1].
        failed: Number of seeds that failed.
    """

    seeds: dict[int, float] = field(default_factory=dict)
    failed: int = 0

    @property
    def mean(self) -> float | None:
        """Mean over the seeds that finished."""
        return float(pd.Series(self.seeds).mean()) if self.seeds else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds, where there are several."""
        return float(pd.Series(self.seeds).std(ddof=1)) if len(self.seeds) > 1 else None

    @property
    def text(self) -> str:
        """The cell in percent, or why there is no number."""
        if not self.seeds:
            return FAILED if self.failed else ABSENT
        text = percent(self.mean, self.std)
        return f"{text} ({self.failed} failed)" if self.failed else text


@dataclass(frozen=True)
class CategoryTable:
    """A metric of one data set: categories against models.

    Attributes:
        categories: The rows, as they first appear.
        models: The columns, as they first appear.
        cells: The cells by category and model.
    """

    categories: list[str]
    models: list[str]
    cells: dict[tuple[str, str], Cell]

    @property
    def common(self) -> list[str]:
        """The categories that every model finished, without counting models that finished none."""
        models = [name for name in self.models if any(self.cells[category, name].seeds for category in self.categories)]
        return [
            category for category in self.categories if models and all(self.cells[category, m].seeds for m in models)
        ]

    def mean(self, model: str) -> Cell:
        """Average a model over the common categories, for each seed if the seeds are the same in all of them."""
        cells = [self.cells[category, model] for category in self.common]
        if not cells or not all(cell.seeds for cell in cells):
            return Cell(failed=sum(self.cells[category, model].failed for category in self.categories))
        if all(cell.seeds.keys() == cells[0].seeds.keys() for cell in cells):
            return Cell({seed: sum(cell.seeds[seed] for cell in cells) / len(cells) for seed in cells[0].seeds})
        return Cell({0: sum(cell.mean or 0 for cell in cells) / len(cells)})

    @property
    def has_values(self) -> bool:
        """Whether there is a number at all."""
        return any(cell.seeds for cell in self.cells.values())

    def rows(self) -> list[tuple[str, list[Cell]]]:
        """The rows with their names; the last one is the mean."""
        rows = [(category, [self.cells[category, model] for model in self.models]) for category in self.categories]
        return [*rows, ("mean", [self.mean(model) for model in self.models])]

    def frame(self) -> pd.DataFrame:
        """The table with all digits, in [0, 1]; with a column for the deviation where there are several seeds."""
        columns: dict[str, list[str | float | None]] = {"category": [name for name, _ in self.rows()]}
        for index, model in enumerate(self.models):
            cells = [row[index] for _, row in self.rows()]
            columns[model] = [(FAILED if cell.failed else None) if cell.mean is None else cell.mean for cell in cells]
            if any(cell.std is not None for cell in cells):
                columns[f"{model} std"] = [cell.std for cell in cells]
        return pd.DataFrame(columns)


def category_table(rows: pd.DataFrame, metric: str) -> CategoryTable:
    """Arrange the rows of one data set by category and model."""
    categories, models = (list(rows[name].unique()) for name in ("category", "model"))
    cells = {(category, model): Cell() for category in categories for model in models}
    for place, group in rows.groupby(["category", "model"], sort=False):
        done = group[(group["status"] == "done") & group[metric].notna()]
        values = {int(seed): float(value) for seed, value in done.groupby("seed")[metric].mean().items()}
        cells[place] = Cell(values, int((group["status"] == FAILED).sum()))
    return CategoryTable(categories, models, cells)


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Average what the models of one data set cost, over the trainings that finished."""
    columns = {
        "images_per_second": "images per second",
        "peak_memory_mib": "peak memory (MiB)",
        "parameters": "parameters (millions)",
        "fit_duration": "training (minutes)",
        "epochs": "epochs",
        "steps": "steps",
    }
    done = trainings(rows[rows["status"] == "done"])
    present = [name for name in columns if name in done and done[name].notna().any()]
    groups = done.groupby("model", sort=False)
    frame = groups[present].mean()
    for name, unit in (("parameters", 1e6), ("fit_duration", 60)):
        if name in frame:
            frame[name] /= unit
    if "setting" in done and done["setting"].any():
        # One for many categories costs more than one for one, but not more than all of these.
        frame.insert(0, "models", groups["trained_on"].nunique())
    return frame.rename(columns=columns)


def percent(mean: float | None, std: float | None = None) -> str:
    """Write a share in percent with one decimal."""
    if mean is None:
        return ABSENT
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def bold_best(texts: Sequence[str], values: Sequence[float | None]) -> list[str]:
    """Mark the best values of a row, compared as rounded for display."""
    shown = [None if value is None else percent(value) for value in values]
    known = [value for value in values if value is not None]
    best = percent(max(known)) if known else None
    return [
        f"**{text}**" if value is not None and value == best else text for text, value in zip(texts, shown, strict=True)
    ]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown: the first column to the left, the others to the right."""
    # A bar would end the cell.
    lines = [[text.replace("|", "\\|") for text in row] for row in (header, *rows)]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (lines[0], rule, *lines[1:]))


def markdown_of(frame: pd.DataFrame, form: str = ".4g") -> str:
    """Write a table in Markdown, with its index as the first column.

    Args:
        frame: The table.
        form: Format of floating point numbers; missing values give empty cells.
    """

    def text(value: object) -> str:
        if value is None or (isinstance(value, float) and pd.isna(value)):
            return ""
        return format(value, form) if isinstance(value, float) else str(value)

    header = [str(frame.index.name or ""), *map(str, frame.columns)]
    return markdown(header, [[str(name), *map(text, values)] for name, *values in frame.itertuples(name=None)])


def sentence(name: str) -> str:
    """Capitalize the first letter of a name."""
    return name[:1].upper() + name[1:]
