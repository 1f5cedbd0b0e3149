# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""``python -m anomalib_transfusion.benchmark --config ...``: the command ``anomalib benchmark`` without its script."""

from .pipeline import Benchmark

if __name__ == "__main__":
    Benchmark().run()
