# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Fixing the thresholds of a model to those of one category, as for an export."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.utils.serialization import anomalib_safe_globals

from anomalib_transfusion.files import check_parts, checkpoint_readable, written_whole

from .post_processing import load, statistics_of

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule

__all__ = ["CHECKPOINT_KEY", "fix_category", "fix_category_in_checkpoint"]

#: Where Lightning keeps what ``MultiCategory.state_dict`` returns: under the name of the class.
CHECKPOINT_KEY = "MultiCategory"


def fix_category(model: "AnomalibModule", category: str) -> None:
    """Replace the pooled threshold and normalization in a model's post-processor by those of one category.

    A model that is exported afterwards has these values. A later validation replaces them.

    Args:
        model: Model that was trained or tested with ``MultiCategory`` in this session, changed in place.
        category: Name of the category.

    Raises:
        ValueError: If the model has no values of this category; names those that it has.
    """
    values = _of_category(statistics_of(model), category, type(model).__name__)
    load(model.post_processor, values)


def fix_category_in_checkpoint(checkpoint: Path | str, category: str, output: Path | str) -> None:
    """Write a checkpoint whose thresholds are those of one category, for ``anomalib export --ckpt_path OUTPUT``.

    Args:
        checkpoint: Checkpoint of a training with ``MultiCategory``.
        category: Name of the category.
        output: Checkpoint to write.

    Raises:
        FileExistsError: If the output exists.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint has no values of this category; names those that it has. If it cannot be read.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    if not checkpoint.is_file():
        msg = f"There is no checkpoint {checkpoint}. Pass the .ckpt file of a training with MultiCategory."
        raise FileNotFoundError(msg)
    if output.exists():
        msg = f"{output} exists, but a new file was expected; choose another name."
        raise FileExistsError(msg)
    # Imported here: anomalib.models may be partially imported while anomalib.data loads this module.
    from anomalib.models import AnomalibModule

    types = [known for model in AnomalibModule.__subclasses__() for known in model.checkpoint_safe_globals()]
    with anomalib_safe_globals(extra=types), checkpoint_readable(checkpoint):
        content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        check_parts(content)
    # The values by category are dropped: a test by category would apply them instead of the fixed ones.
    statistics = content.pop(CHECKPOINT_KEY, {}).get("statistics", {})
    for name, value in _of_category(statistics, category, str(checkpoint)).items():
        content["state_dict"][f"post_processor.{name}"] = value
    with written_whole(output) as partial:
        torch.save(content, partial)


def _of_category(statistics: dict[str, Any], category: str, what: str) -> dict[str, torch.Tensor]:
    """Return the values of a category; raise ValueError with the known names if there are none."""
    if category not in statistics:
        msg = (
            f"{what} has no thresholds of the category {category!r}, but of {', '.join(statistics) or 'none'}. Choose "
            "one of these, or validate the model with MultiCategory first."
        )
        raise ValueError(msg)
    return statistics[category]
