# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The data modules of this plugin."""

# First, so that the post-import hook of the plugin has run before our own modules are partially imported.
import anomalib.data  # noqa: F401  # isort: skip

from .demo_surface import DemoSurface
from .multi_category import MultiCategory
from .mvtec import MVTec

__all__ = ["DemoSurface", "MVTec", "MultiCategory"]
