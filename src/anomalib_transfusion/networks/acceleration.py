# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Precision and compilation of the network: what a device is fast with, unless the user says otherwise."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import nn

from anomalib_transfusion.checks import check_arguments

__all__ = [
    "Precision",
    "autocast_network",
    "buffers_kept",
    "check_precision",
    "check_trainable",
    "images_at_a_time",
    "prefers_bfloat16",
    "prefers_channels_last",
    "run_network",
    "weights_dtype",
    "working_dtype",
]

Precision = Literal["auto", "single", "bfloat16"]

# Compute capability of the first NVIDIA GPUs with bfloat16 in hardware (Ampere).
FIRST_WITH_BFLOAT16 = (8, 0)
# Pixels of a batch below which contiguous memory is faster on a CPU: those of eight images of 64 by 64.
FEWEST_FOR_CHANNELS_LAST = 2**15
# Pixels that a network takes at a time on a CPU: those of four images of 128 by 128.
MOST_TOGETHER_ON_CPU = 2**16


def prefers_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is to be preferred to single precision for being faster.

    Args:
        device: NVIDIA's GPUs since Ampere and processors with AMX are several times as fast in it, and processors with
            AVX-512's instructions for bfloat16 nearly twice. Those have it in inference alone: a small network, which
            is what one trains on them, gains but a tenth in training.
    """
    if device.type == "cuda":
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= FIRST_WITH_BFLOAT16
    return device.type == "cpu" and (_cpu_has("amx_tile") or (_cpu_has("avx512_bf16") and not torch.is_grad_enabled()))


def autocast_network(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Return the context to run the network in.

    Where the trainer has chosen a precision of its own, or a model is exported, nothing is changed.

    Args:
        precision: ``auto`` for bfloat16 where the device prefers it, or ``single`` or ``bfloat16``.
        device: Device of the images.
    """
    # The meta device, on which only shapes are computed, has no autocast.
    if _is_exporting() or not torch.amp.is_autocast_available(device.type) or torch.is_autocast_enabled(device.type):
        return nullcontext()
    if precision == "single" or (precision == "auto" and not prefers_bfloat16(device)):
        return nullcontext()
    # Copies of the full network's weights in 16 bits take more memory than the rest of a pass, and making them anew in
    # each pass takes a CPU next to no time.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=device.type != "cpu")


def prefers_channels_last(images: torch.Tensor) -> bool:
    """Tell whether channels-last memory is to be preferred: in 16 bits, and in inference on a CPU.

    On a CPU with AMX it halves the time in 16 bits. On other CPUs it saves up to a third of the time of inference for a
    batch, some percent for a large image, and a tenth of the memory; for a single small image it costs a tenth. Not in
    their training: it gains nothing there in 16 bits, and PyTorch's group normalization, which has the gradient, is
    not exact in it.

    Args:
        images: What the network is to be run on, ``(B, 3, H, W)``.
    """
    device = images.device
    # What is exported is in single precision, and PyTorch 2.10 cannot trace the question.
    if _is_exporting() or not torch.amp.is_autocast_available(device.type):
        return False
    if torch.is_autocast_enabled(device.type) and (device.type != "cpu" or _cpu_has("amx_tile")):
        return True
    pixels = images.shape[0] * images.shape[2] * images.shape[3]
    return device.type == "cpu" and not torch.is_grad_enabled() and pixels >= FEWEST_FOR_CHANNELS_LAST


def images_at_a_time(images: torch.Tensor) -> int:
    """Return how many images a network had best be run on at a time; 0 for all of them.

    On a CPU large batches are more than the caches hold: of eight images of 128 by 128, all together take 9 % longer in
    inference and 14 % longer in training than four and four (AMD EPYC, a U-Net of 32 channels), and more memory.

    Args:
        images: What the network is to be run on, ``(B, C, H, W)``.
    """
    if images.device.type != "cpu" or _is_exporting():
        return 0
    return max(1, MOST_TOGETHER_ON_CPU // (images.shape[2] * images.shape[3]))


def run_network(network: nn.Module, *inputs: torch.Tensor, channels_last: bool = False) -> Any:  # noqa: ANN401
    """Run a network that may have been compiled; where the compiler fails, warn and go on without it.

    Args:
        network: The network, compiled by :meth:`torch.nn.Module.compile` or not.
        inputs: Its inputs, which are converted to the precision of its weights.
        channels_last: Whether it computes in channels-last memory.

    Returns:
        Its outputs. Where the weights are not in single precision, autocast changes nothing.
    """
    dtype = weights_dtype(network)
    converted = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    device = inputs[0].device.type
    if dtype == torch.float32 or not torch.amp.is_autocast_available(device):
        return _run(network, *converted, channels_last=channels_last)
    with torch.autocast(device, enabled=False):
        return _run(network, *converted, channels_last=channels_last)


def _run(network: nn.Module, *inputs: torch.Tensor, channels_last: bool) -> Any:  # noqa: ANN401
    """Run a network on inputs of its precision."""
    if _is_exporting():
        return network.forward(*inputs, channels_last=channels_last)
    try:
        return network(*inputs, channels_last=channels_last)
    # The compiler's errors have no common class: no C++ compiler, no driver, an operation that it does not know.
    except Exception as error:
        if network._compiled_call_impl is None:  # noqa: SLF001
            raise
        network._compiled_call_impl = None  # noqa: SLF001
        # The first line names the compiler's backend, the next ones its problem; advice on debugging follows.
        reason = shorten(str(error).strip().split("\n\n", maxsplit=1)[0], 300, placeholder=" ...")
        warnings.warn(
            f"The network cannot be compiled here ({type(error).__name__}: {reason}), so it runs as it is, and slower. "
            "Set compile to False, or give torch.compile what it lacks.",
            RuntimeWarning,
            stacklevel=2,
        )
        return network(*inputs, channels_last=channels_last)


def weights_dtype(network: nn.Module) -> torch.dtype:
    """Return the precision of a network's weights: that of the first that are floating point numbers."""
    floating = (weight.dtype for weight in network.parameters() if weight.is_floating_point())
    return next(floating, torch.float32)


def working_dtype(network: nn.Module) -> torch.dtype:
    """Return the precision of what surrounds a network: double with double weights, single with all others."""
    return torch.promote_types(weights_dtype(network), torch.float32)


@contextmanager
def buffers_kept(*modules: nn.Module) -> Iterator[None]:
    """Leave buffers of modules in their precision while weights are converted, as by ``half()`` or the trainer.

    Args:
        modules: The modules, of whose submodules nothing is kept.
    """
    before = [
        (module, name, buffer)
        for module in modules
        for name, buffer in module._buffers.items()  # noqa: SLF001
        if buffer is not None and buffer.is_floating_point()
    ]
    yield
    for module, name, buffer in before:
        converted = module._buffers[name]  # noqa: SLF001
        if converted is not None and converted.dtype != buffer.dtype:
            module._buffers[name] = buffer.to(converted.device)  # noqa: SLF001


def check_trainable(network: nn.Module, trainer_precision: str) -> None:
    """Raise ValueError, before a training, if weights would be in 16 bits.

    In bfloat16 a step of the default learning rate is lost in nineteen of twenty weights; in float16 the squares of
    the gradients are 0, and AdamW divides by them.

    Args:
        network: The network.
        trainer_precision: The trainer's precision.
    """
    dtype = weights_dtype(network)
    if trainer_precision in {"16-true", "bf16-true"}:
        value = f"precision={trainer_precision!r}"
    elif dtype in {torch.float16, torch.bfloat16}:
        value = f"A network with weights of {dtype}"
    else:
        return
    msg = (
        f"{value} cannot be trained: AdamW's steps are lost in 16 bits, or not finite; expected weights in 32 or 64 "
        "bits. Use the trainer's precision='bf16-mixed', and model.float() where weights were converted; validate, "
        "test and predict work in 16 bits."
    )
    raise ValueError(msg)


def _cpu_has(unit: str) -> bool:
    """Tell whether the processor has a unit, by names that PyTorch keeps to itself.

    Without them nothing is gained, and nothing breaks.
    """
    is_supported = getattr(torch.cpu, f"_is_{unit}_supported", None)
    return is_supported is not None and is_supported()


def _is_exporting() -> bool:
    """Tell whether the network is being traced for an export."""
    return torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting()


def check_precision(precision: Precision) -> None:
    """Raise ValueError, naming the value, if a precision is unknown."""
    check_arguments(check_precision, locals())
