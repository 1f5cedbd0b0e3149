# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The metrics in tables and plots, and the names of columns for kinds of defects and categories."""

__all__ = ["ALL", "KIND", "METRICS", "NOTE", "NUM_CATEGORIES", "by_category", "joins_categories"]

#: Metrics in the report, and their names for readers.
METRICS = {
    "image_AUROC": "image AUROC",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "AUPRO",
    "image_F1Max": "image F1",
}
#: All kinds of defects together, or all categories.
ALL = "all"
#: Prefix of the columns of a kind of defect: ``kind.NAME.METRIC``.
KIND = "kind."
#: Prefix of the columns of an entry's notes.
NOTE = "note."
#: Suffix of the number of categories in a mean, for means without some categories.
NUM_CATEGORIES = "num_categories"


def by_category(name: str, category: str) -> str:
    """Return the name of the column of one category, as ``CategoryEvaluation`` names a metric."""
    return f"{name}_{category}"


def joins_categories(class_path: object) -> bool:
    """Tell whether the data module of a class path joins the categories of a data set."""
    return str(class_path).rsplit(".", 1)[-1] == "MultiCategory"
