# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Batches that know their images' categories, and evaluation, post-processing and pictures by category.

The data module :class:`~anomalib_transfusion.data.MultiCategory` attaches the callbacks to a trainer in the places of
the model's own evaluator, post-processor and visualizer, and takes them out again. The model itself is not changed.
"""

# First, so that the post-import hook of the plugin has run before our own modules are half imported.
import anomalib.data  # noqa: F401  # isort: skip

from .attach import attach, detach
from .batch import CategoryBatch, CategoryItem, NumpyCategoryBatch, NumpyCategoryItem
from .evaluation import CategoryEvaluation
from .fix import fix_category, fix_category_in_checkpoint
from .pictures import CategoryPictures
from .post_processing import CategoryPostProcessing

__all__ = [
    "CategoryBatch",
    "CategoryEvaluation",
    "CategoryItem",
    "CategoryPictures",
    "CategoryPostProcessing",
    "NumpyCategoryBatch",
    "NumpyCategoryItem",
    "attach",
    "detach",
    "fix_category",
    "fix_category_in_checkpoint",
]
