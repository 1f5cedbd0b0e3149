# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The pictures of this plugin."""

from .result_sheet import ResultSheet

__all__ = ["ResultSheet"]
