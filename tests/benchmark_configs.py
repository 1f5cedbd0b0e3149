# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The rows of a config of `anomalib benchmark` in `configs/benchmark`."""

from typing import Any

import yaml

from anomalib_transfusion.benchmark.config import with_settings
from anomalib_transfusion.benchmark.pipeline import _read
from paths import ROOT


def read(name: str, *settings: str, accelerator: str = "cpu") -> tuple[Any, ...]:
    """Return all that is read of the config of a name, its rows last.

    Args:
        name: Name of the file, without its ending.
        settings: Values of variables, as after ``--set``.
        accelerator: Accelerator of all rows.
    """
    config = yaml.safe_load((ROOT / f"configs/benchmark/{name}.yaml").read_text(encoding="utf-8"))
    return _read({**with_settings(config, settings), "accelerator": accelerator})
