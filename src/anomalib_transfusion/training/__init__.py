# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What any model needs of anomalib's engine and Lightning's trainer; it knows no model and draws no picture."""

# First, so that the post-import hook of the plugin has run before our own modules are half imported.
import anomalib.models  # noqa: F401
