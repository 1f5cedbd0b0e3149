# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Callbacks, checks and mix-ins for anomalib's engine and Lightning's trainer that any model can use."""

# First, so that the post-import hook of the plugin has run before our own modules are partially imported.
import anomalib.models  # noqa: F401
