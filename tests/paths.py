# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Where the tests find the repository, real data and the numbers of the authors' implementation."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATASETS = Path(os.environ.get("TRANSFUSION_DATASETS", ROOT.parent / "shared" / "datasets"))
REFERENCE = Path(os.environ.get("TRANSFUSION_REFERENCE", ROOT.parent / "shared" / "reference"))

needs_datasets = pytest.mark.skipif(
    not DATASETS.is_dir(),
    reason=f"no data sets at {DATASETS}; set TRANSFUSION_DATASETS",
)
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(),
    reason=f"no reference numbers at {REFERENCE}; set TRANSFUSION_REFERENCE",
)
