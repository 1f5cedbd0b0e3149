# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Settings that every test shares."""

import os
import sys
from pathlib import Path

# Before torch is imported: the tests are small, and more threads than cores only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "2")

sys.path.insert(0, str(Path(__file__).parent))
