# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Speed, memory and additional metrics that a benchmark measures besides a model's own metrics."""

import re
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

import torch
from anomalib.metrics import AUPRO, Evaluator
from anomalib.models import AnomalibModule
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.nn import ModuleList

from .environment import environment, synchronize

__all__ = [
    "PeakMemory",
    "Throughput",
    "complete_evaluator",
    "environment",
    "images_per_second",
    "resident_memory",
    "restart_peak",
]

MIB = 2**20


def complete_evaluator(model: AnomalibModule) -> None:
    """Add anomalib's default metrics and the pixel AUPRO to a model's evaluator, unless it has them."""
    if model.evaluator is None:
        model.evaluator = Evaluator()
    metrics: list[Any] = list(model.evaluator.test_metrics)  # type: ignore[arg-type]
    present = {metric.name for metric in metrics}
    wanted: list[Any] = list(AnomalibModule.configure_evaluator().test_metrics)  # type: ignore[arg-type]
    aupro = AUPRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False)
    # Not in the state dict: a checkpoint of the model must load without this metric.
    aupro.register_buffer("fpr_limit", torch.as_tensor(aupro.fpr_limit), persistent=False)
    wanted.append(aupro)
    model.evaluator.test_metrics = ModuleList([*metrics, *(metric for metric in wanted if metric.name not in present)])


def images_per_second(batches: Sequence[tuple[int, float]]) -> float | None:
    """Return images per second; ``None`` without a batch.

    Args:
        batches: Number of images and seconds of each batch. If there are several, the first is ignored, because it
            includes one-time work of the backend.
    """
    timed = batches[1:] or batches
    return sum(images for images, _ in timed) / sum(seconds for _, seconds in timed) if timed else None


class Throughput(Callback):
    """Callback that measures a model's images per second in a test, from the pre-processor to the anomaly maps.

    Loading, thresholds, metrics and pictures do not count, nor does the first batch, see :func:`images_per_second`.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[int, float]] = []
        self._start = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Images per second, or ``None`` before a test."""
        return images_per_second(self._batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier test."""
        del trainer, pl_module
        self._batches = []

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Start the clock. The trainer's callbacks come before the model's, so the pre-processor is included."""
        del trainer, args, kwargs
        synchronize(pl_module.device)
        self._start = perf_counter()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop the clock, before the model's own callbacks set thresholds and compute metrics."""
        del trainer, outputs, batch_idx, dataloader_idx
        synchronize(pl_module.device)
        self._batches.append((len(batch.image), perf_counter() - self._start))


def restart_peak() -> bool:
    """Reset the peak of the process' resident memory; return whether the platform supports it, as only Linux does."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def resident_memory(name: str) -> int | None:
    """Return the resident memory of the process in bytes; ``None`` if the system does not report it.

    Args:
        name: ``VmRSS`` for the current value, ``VmHWM`` for the peak.
    """
    path = Path("/proc/self/status")
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text("ascii"), re.MULTILINE) if path.is_file() else None
    return 1024 * int(found[1]) if found else None


class PeakMemory:
    """Context that measures peak memory, if the platform supports it.

    On a GPU it is the memory that PyTorch allocates there. On a CPU it is the peak of the process' resident memory,
    including libraries, which only Linux can reset.

    Args:
        device: The device that is used.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._measures = device.type == "cuda"

    def __enter__(self) -> "PeakMemory":
        """Restart the measurement."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        self._measures = restart_peak()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave an error as it is."""

    def columns(self) -> dict[str, Any]:
        """Return the peak in MiB and a description of the memory; an empty dictionary if it cannot be measured."""
        if not self._measures:
            return {}
        if self.device.type == "cuda":
            peak: int | None = torch.cuda.max_memory_allocated(self.device)
            what = "GPU memory allocated by PyTorch"
        else:
            peak, what = resident_memory("VmHWM"), "resident memory of the process"
        return {} if peak is None else {"peak_memory_mib": peak / MIB, "peak_memory_of": what}
