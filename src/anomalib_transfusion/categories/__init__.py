# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Batches with the categories of their images, and evaluation, post-processing and pictures by category.

The data module :class:`~anomalib_transfusion.data.MultiCategory` replaces the model's own evaluator, post-processor
and visualizer in a trainer by the callbacks of this package, and restores them afterwards. The model itself is
not changed.
"""

# First, so that the post-import hook of the plugin has run before our own modules are partially imported.
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
