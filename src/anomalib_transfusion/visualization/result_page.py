# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""An HTML page to browse the result sheets of a run, without a server."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from anomalib_transfusion.files import written_whole

__all__ = ["PAGE", "Result", "Summary", "number", "write_page"]

PAGE = "index.html"


@dataclass(frozen=True)
class Result:
    """Result of a run for an image.

    Args:
        sheet (str): Path of its result sheet, relative to the page, with ``/``.
        kind (str): Kind of defect, or of good images: the name of the image's folder.
        score (float): Anomaly score, on the scale of the threshold.
        verdict (bool | None): Whether the model calls it defective; ``None`` without a threshold.
        truth (bool | None): Whether it is labeled defective; ``None`` without a label.
        size (tuple[int, int]): Width and height of the sheet in pixels, known when it is drawn.
        parts (Sequence[tuple[int, int]]): Left and right end in pixels of the parts that the sheet may be cut into.
        category (str): Category of the image if the data has several.
    """

    sheet: str
    kind: str
    score: float
    verdict: bool | None
    truth: bool | None
    size: tuple[int, int] = (0, 0)
    parts: Sequence[tuple[int, int]] = ()
    category: str = ""

    @property
    def outcome(self) -> str:
        """``false alarm``, ``miss``, ``defect found`` or ``good passed``; without a label the verdict only."""
        if self.verdict is None:
            return ""
        if self.truth is None:
            return "called defect" if self.verdict else "called good"
        if self.verdict == self.truth:
            return "defect found" if self.truth else "good passed"
        return "miss" if self.truth else "false alarm"


@dataclass(frozen=True)
class Summary:
    """Facts about a run for the head of the page.

    Args:
        model (str): Name of the model.
        data (str): Name of the data set and its category.
        date (str): When the run ended.
        threshold (float | None): Score above which an image is called defective.
        threshold_note (str): Origin of the threshold, or why there is none.
        image_auroc (float | None): Image AUROC if it was measured.
    """

    model: str
    data: str
    date: str
    threshold: float | None
    threshold_note: str
    image_auroc: float | None = None

    def facts(self, results: Sequence[Result]) -> list[tuple[str, str]]:
        """Return the names and values to list in the head of the page."""
        outcomes = [result.outcome for result in results]
        facts = [("Images", str(len(results)))]
        if any(result.truth is not None for result in results):
            facts.append(("Defects", str(sum(result.truth is True for result in results))))
            if any(outcomes):
                facts += [("False alarms", str(outcomes.count("false alarm"))), ("Misses", str(outcomes.count("miss")))]
        elif any(outcomes):
            facts.append(("Called defect", str(outcomes.count("called defect"))))
        facts.append(("Threshold", "none" if self.threshold is None else number(self.threshold)))
        if self.image_auroc is not None:
            several = len({result.category for result in results}) > 1
            facts.append(("Image AUROC, mean of categories" if several else "Image AUROC", f"{self.image_auroc:.3f}"))
        return facts


def number(score: float) -> str:
    """Format a score for display."""
    return f"{score:#.4g}"


def write_page(folder: Path, results: Sequence[Result], summary: Summary) -> Path:
    """Write the page atomically; an existing page is replaced.

    Args:
        folder: Folder of the sheets.
        results: Result for each image.
        summary: Facts about the run.

    Returns:
        Path of the page.

    Raises:
        OSError: If it cannot be written; the message names it.
    """
    data = {
        "model": summary.model,
        "data": summary.data,
        "date": summary.date,
        "threshold": summary.threshold,
        "note": summary.threshold_note,
        "facts": summary.facts(results),
        "results": [
            {
                # Bytes, because a file's name on Linux need not be text.
                "url": quote(os.fsencode(result.sheet)),
                "name": result.sheet,
                "kind": result.kind,
                "category": result.category,
                "score": result.score if math.isfinite(result.score) else None,
                "shown": number(result.score),
                "verdict": result.verdict,
                "outcome": result.outcome,
                "size": result.size,
                "parts": result.parts,
            }
            for result in results
        ],
    }
    # Inside of a script element, only "<" could end the element.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    template = files(__package__).joinpath("result_page.html").read_text(encoding="utf-8")
    page = folder / PAGE
    with written_whole(page) as partial:
        partial.write_text(template.replace("RESULTS", embedded, 1), encoding="utf-8")
    return page
