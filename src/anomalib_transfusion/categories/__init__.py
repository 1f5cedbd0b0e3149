# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Batches that know their images' categories, and evaluation and post-processing by category, for any model.

The data module :class:`~anomalib_transfusion.data.MultiCategory` attaches the two callbacks to a trainer in the places
of the model's own evaluator and post-processor, and takes them out again. The model itself is not changed.
"""

# First, so that the post-import hook of the plugin has run before our own modules are half imported.
import anomalib.data  # noqa: F401  # isort: skip

from .attach import attach, detach
from .batch import CategoryBatch, CategoryItem, NumpyCategoryBatch, NumpyCategoryItem
from .evaluation import CategoryEvaluation
from .fix import fix_category, fix_category_in_checkpoint
from .post_processing import CategoryPostProcessing

__all__ = [
    "CategoryBatch",
    "CategoryEvaluation",
    "CategoryItem",
    "CategoryPostProcessing",
    "NumpyCategoryBatch",
    "NumpyCategoryItem",
    "attach",
    "detach",
    "fix_category",
    "fix_category_in_checkpoint",
]
