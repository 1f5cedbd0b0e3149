# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The pipelines of this plugin."""

# First, so that the post-import hook of the plugin has run before our own modules are half imported.
import anomalib.models  # noqa: F401  # isort: skip

from .benchmark import Benchmark
from .draem import draem_with_photographs

__all__ = ["Benchmark", "draem_with_photographs"]
