# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Seeds for random numbers, and guards that stop a training at losses that are not finite or images out of range."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager

import torch

from anomalib_transfusion.checks import refuse_range

__all__ = ["ImageGuard", "LossGuard", "seed_from", "seeded"]


def seed_from(*key: int) -> int:
    """Return a seed in [0, 2**63 - 1] for a key of whole numbers: the same for equal keys, on every machine."""
    # Python's hash of whole numbers, unlike that of strings, is the same in all processes.
    return hash(key) & (2**63 - 1)


@contextmanager
def seeded(seed: int, device: torch.device) -> Generator[None, None, None]:
    """Context in which torch's generators have a seed; afterwards their previous states are restored.

    The numbers do not depend on the trainer's precision, which may set torch's default dtype for a step.

    Args:
        seed: Seed of torch's global generators inside.
        device: Device whose generator is seeded as well as the CPU's.
    """
    devices = [] if device.type == "cpu" else [device]
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


class _Guard(ABC):
    """Stops the training at invalid values, without making the host wait for a GPU.

    The values of a step are copied asynchronously and checked before the next step. The error names the step of the
    values; one more update has happened by then, but no checkpoint was written.
    """

    def __init__(self) -> None:
        self._step = 0
        self._values: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def _watch(self, values: torch.Tensor, step: int) -> None:
        """Check the values that were watched last, and start to watch ``values``, ``(N,)``."""
        self.check()
        self._step = step
        self._values = values.to("cpu", non_blocking=True)
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self.check()

    def check(self) -> None:
        """Raise an error if the values that were watched last are invalid."""
        if self._values is None:
            return
        if self._copied is not None:
            self._copied.synchronize()
        values, self._values, self._copied = self._values.tolist(), None, None
        self._judge(values)

    @abstractmethod
    def _judge(self, values: list[float]) -> None:
        """Raise an error if these values of a step are invalid."""


class ImageGuard(_Guard):
    """Stops the training at images that are not in [0, 1]."""

    def watch(self, images: torch.Tensor, step: int) -> None:
        """Check the images that were watched last, and watch these.

        Args:
            images: Images of a step, ``(B, 3, H, W)``.
            step: Number of the step.

        Raises:
            ValueError: If images are not in [0, 1]; names the step and the range.
        """
        self._watch(torch.stack(images.detach().aminmax()), step)

    def _judge(self, values: list[float]) -> None:
        lowest, highest = values
        refuse_range(lowest, highest, f" of step {self._step}")


class LossGuard(_Guard):
    """Stops the training at a loss that is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self._names: tuple[str, ...] = ()

    def watch(self, losses: tuple[torch.Tensor, ...], step: int) -> None:
        """Check the losses that were watched last, and watch these.

        Args:
            losses: Loss terms of a step, a named tuple of scalars.
            step: Number of the step.

        Raises:
            FloatingPointError: If a loss is not finite; names the step and the terms.
        """
        self._names = getattr(losses, "_fields", ())
        self._watch(torch.stack(losses).detach(), step)

    def _judge(self, values: list[float]) -> None:
        terms = dict(zip(self._names, values, strict=True))
        if wrong := {name: value for name, value in terms.items() if not abs(value) < float("inf")}:
            msg = (
                f"The loss is not finite at step {self._step}: "
                f"{', '.join(f'train_loss_{name}={value}' for name, value in wrong.items())}. The last checkpoint is "
                "not affected. Try a smaller learning_rate, gradient clipping (gradient_clip_val) or precision 32."
            )
            raise FloatingPointError(msg)
