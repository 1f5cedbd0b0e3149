# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Random numbers that survive a restart, and losses that must stay finite."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from .loss import LossTerms

__all__ = ["LossGuard", "restore_random_state", "save_random_state", "seeded"]


def save_random_state(seed: int) -> dict[str, Any]:
    """Return the state of torch's global generators and a seed, in types that ``weights_only`` loads."""
    state: dict[str, Any] = {"seed": seed, "cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set torch's global generators to a saved state; those of GPUs only where there are as many as then."""
    torch.set_rng_state(state["cpu"].cpu())
    cuda = state.get("cuda", [])
    if cuda and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([generator.cpu() for generator in cuda])


@contextmanager
def seeded(key: tuple[int, ...], device: torch.device) -> Generator[None, None, None]:
    """Draw from generators that are seeded by a key; outside, torch's generators go on as if nothing was drawn.

    Args:
        key: Numbers that name what is drawn; different keys give unrelated seeds.
        device: Device on which numbers are drawn, beside the CPU.
    """
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        # Python's hash of whole numbers is the same in every process.
        torch.manual_seed(hash(key) & (2**63 - 1))
        yield


class LossGuard:
    """Stops the training at a loss that is not finite, without making the GPU wait for the host.

    The losses of a step are copied while the GPU computes on, and looked at before the next step. The step that is
    reported is the right one; one more update has happened by then, but no checkpoint.
    """

    def __init__(self) -> None:
        self._step = 0
        self._values: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def watch(self, losses: LossTerms, step: int) -> None:
        """Check the losses that were watched last, and watch these.

        Args:
            losses: Loss terms of a step, scalars.
            step: Number of the step.

        Raises:
            FloatingPointError: If a loss is not finite; names the step and the terms.
        """
        self.check()
        values = torch.stack(losses).detach()
        self._step = step
        self._values = values.to("cpu", non_blocking=True)
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self.check()

    def check(self) -> None:
        """Raise FloatingPointError if the losses that were watched last are not finite."""
        if self._values is None:
            return
        if self._copied is not None:
            self._copied.synchronize()
        values, self._values, self._copied = self._values.tolist(), None, None
        terms = dict(zip(LossTerms._fields, values, strict=True))
        if wrong := {name: value for name, value in terms.items() if not abs(value) < float("inf")}:
            msg = (
                f"The loss is not finite at step {self._step}: "
                f"{', '.join(f'train_loss_{name}={value}' for name, value in wrong.items())}. The last checkpoint is "
                "not affected. Try a smaller learning_rate, gradient clipping (gradient_clip_val) or precision 32."
            )
            raise FloatingPointError(msg)
