# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Peak memory of a contender.

On a GPU it is what PyTorch allocates beyond what was allocated before the call. On a CPU it is the growth of the
resident memory during a call, in a separate process: Linux resets the peak (``VmHWM``) through
``/proc/self/clear_refs``, and glibc is set to free every large block at once, so that neither earlier calls nor blocks
kept by the allocator count. Resident memory also sees what oneDNN and OpenCV allocate beside PyTorch, which PyTorch's
profiler does not.
"""

import ctypes
import gc
import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from anomalib_transfusion.benchmark.measure import MIB, resident_memory, restart_peak

ON_GPU = "GPU memory allocated by PyTorch during a call, above what was allocated before it"
ON_CPU = "growth of the resident memory during a call, in a process of its own"


def peak_on_gpu(call: Callable[[], object]) -> float:
    """Return the peak in MiB that a call adds to what is allocated."""
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def held_on_gpu() -> float:
    """Return what PyTorch has allocated on the GPU, in MiB; 0 without one."""
    gc.collect()
    return torch.cuda.memory_allocated() / MIB if torch.cuda.is_available() else 0.0


def contender_call(list_name: str, name: str, setting: Any) -> Callable[[], object]:  # noqa: ANN401
    """Build a contender, and return what is timed of it.

    Args:
        list_name: Name of the list in ``contenders`` that has the contender.
        name: The contender.
        setting: Setting that it is built for.
    """
    contenders = getattr(importlib.import_module("contenders"), list_name)
    contender = next(contender for contender in contenders if contender.name == name)
    return contender.build(setting).call


def peak_on_cpu(
    prepare: Callable[[], Callable[[], object]],
    threads: int,
    timeout: float,
) -> tuple[float | None, str]:
    """Return the peak in MiB that a call adds in a separate process, or the reason why it was not measured.

    Args:
        prepare: Makes the call in the process; can be pickled.
        threads: Threads of PyTorch there.
        timeout: Seconds after which the process is killed.

    Returns:
        The peak and an empty text, or ``None`` and the reason.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None, "only Linux can restart the peak of the resident memory"
    # Read by glibc when the server starts, from which the processes are forked.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["contenders"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, prepare, threads))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(timeout) else (None, f"not measured within {timeout:.0f} s")
    except EOFError:
        process.join()
        return None, f"its process ended with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _measure(connection: Connection, prepare: Callable[[], Callable[[], object]], threads: int) -> None:
    """Measure a call and send the peak."""
    try:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        call = prepare()
        # One-time allocations, such as the primitives of oneDNN, must not count.
        call()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        restart_peak()
        before = resident_memory("VmRSS")
        call()
        peak = resident_memory("VmHWM")
        told = before is not None and peak is not None
        connection.send(((peak - before) / MIB, "") if told else (None, "the system does not tell the resident memory"))
    except Exception as error:  # noqa: BLE001
        connection.send((None, f"{type(error).__name__}: {error}"))
