# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Tables and plots from the results of benchmarks."""

from .report import report

__all__ = ["report"]
