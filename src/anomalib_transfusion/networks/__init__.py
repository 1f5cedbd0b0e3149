# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Parts of diffusion networks that know torch alone, whichever model takes them."""
