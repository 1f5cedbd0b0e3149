# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The metrics that tables and plots show, and the columns that are about kinds of defects."""

__all__ = ["ALL", "KIND", "METRICS", "NOTE"]

#: What is reported, and what it is called.
METRICS = {
    "image_AUROC": "image AUROC",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "AUPRO",
    "image_F1Max": "image F1",
}
#: All kinds of defects together.
ALL = "all"
#: What the columns of a kind of defect begin with: ``kind.NAME.METRIC``.
KIND = "kind."
#: What the columns of an entry's notes begin with.
NOTE = "note."
