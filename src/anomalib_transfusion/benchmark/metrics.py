# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The metrics that tables and plots show, and the columns that are about kinds of defects and about categories."""

__all__ = ["ALL", "KIND", "METRICS", "NOTE", "NUM_CATEGORIES", "by_category", "joins_categories"]

#: What is reported, and what it is called.
METRICS = {
    "image_AUROC": "image AUROC",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "AUPRO",
    "image_F1Max": "image F1",
}
#: All kinds of defects together, or all categories.
ALL = "all"
#: What the columns of a kind of defect begin with: ``kind.NAME.METRIC``.
KIND = "kind."
#: What the columns of an entry's notes begin with.
NOTE = "note."
#: What the number of categories that a mean is over is called, where some category has no value.
NUM_CATEGORIES = "num_categories"


def by_category(name: str, category: str) -> str:
    """Return the name of the column of one category, as ``CategoryEvaluation`` names a metric."""
    return f"{name}_{category}"


def joins_categories(class_path: object) -> bool:
    """Tell whether the data module of a class path joins the categories of a data set."""
    return str(class_path).rsplit(".", 1)[-1] == "MultiCategory"
