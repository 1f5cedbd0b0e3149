# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""States of metrics joined over processes, also if some processes saw no images.

torchmetrics synchronizes in ``compute``, which a process without images of a category does not call; the others would
wait for it forever.
"""

from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import distributed
from torchmetrics import Metric

__all__ = ["from_all_processes", "join"]


def from_all_processes(value: Any) -> list[Any]:  # noqa: ANN401
    """Return the value of each process, in the order of their ranks; every process must call this."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def join(metric: Metric) -> None:
    """Set a metric to the state that it would have if one process had seen all images; every process must call this.

    Args:
        metric: Metric after its updates and before ``compute``, changed in place; ``compute`` no longer synchronizes.
    """
    metric.sync_on_compute = False
    states = from_all_processes((metric._update_count, move_data_to_device(metric.metric_state, "cpu")))  # noqa: SLF001
    if len(states) == 1:
        return
    # The same reduction as in torchmetrics (Metric._sync_dist).
    metric._update_count = sum(count for count, _ in states)  # noqa: SLF001
    for name, reduction in metric._reductions.items():  # noqa: SLF001
        values = [state[name] for count, state in states if count]
        if not values:
            continue
        if any(isinstance(value, list) for value in values):
            joined: Any = [part for value in values for part in (value if isinstance(value, list) else [value])]
        else:
            joined = torch.stack(values)
            joined = reduction(joined) if callable(reduction) else joined
        device = torch.device("cpu") if metric.compute_on_cpu and isinstance(joined, list) else metric.device
        setattr(metric, name, move_data_to_device(joined, device))
