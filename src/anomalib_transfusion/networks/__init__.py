# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Parts of diffusion networks that depend on torch alone and are shared by the models."""
