# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DRDC: diffusion refinement with dual conditioning, one model for all categories (Zhan et al. 2024)."""
