# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Precision, memory format and compilation of a network: the fastest for a device, unless the user chose others."""

import warnings
from collections.abc import Iterable, Iterator
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
    "in_parts",
    "images_at_a_time",
    "items_at_a_time",
    "prefers_bfloat16",
    "prefers_channels_last",
    "run_network",
    "weights_dtype",
    "working_dtype",
]

Precision = Literal["auto", "single", "bfloat16"]

# Compute capability of the first NVIDIA GPUs with bfloat16 in hardware (Ampere).
FIRST_WITH_BFLOAT16 = (8, 0)
# Number of pixels in a batch below which contiguous memory is faster on a CPU: eight images of 64 by 64.
FEWEST_FOR_CHANNELS_LAST = 2**15
# Number of pixels that a network processes at a time on a CPU: four images of 128 by 128.
MOST_TOGETHER_ON_CPU = 2**16


def prefers_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is faster than single precision on a device.

    NVIDIA's GPUs since Ampere and processors with AMX are several times as fast in bfloat16, processors with AVX-512
    BF16 nearly twice. The latter use it in inference only, because training of a small network gains only a tenth.

    Args:
        device: Device of the network.
    """
    if device.type == "cuda":
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= FIRST_WITH_BFLOAT16
    return device.type == "cpu" and (_cpu_has("amx_tile") or (_cpu_has("avx512_bf16") and not torch.is_grad_enabled()))


def autocast_network(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Return the autocast context to run the network in.

    It changes nothing if autocast is already enabled, as by the trainer's precision, or if a model is being exported.

    Args:
        precision: ``auto`` for bfloat16 where the device prefers it, or ``single`` or ``bfloat16``.
        device: Device of the images.
    """
    # The meta device, on which only shapes are computed, has no autocast.
    if _is_exporting() or not torch.amp.is_autocast_available(device.type) or torch.is_autocast_enabled(device.type):
        return nullcontext()
    if precision == "single" or (precision == "auto" and not prefers_bfloat16(device)):
        return nullcontext()
    # No cache on a CPU: 16-bit copies of the full network's weights take more memory than the rest of a forward pass,
    # and converting them again in each pass takes next to no time.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=device.type != "cpu")


def prefers_channels_last(images: torch.Tensor) -> bool:
    """Tell whether channels-last memory is faster: in 16 bits, and in inference on a CPU.

    On a CPU with AMX it halves the time in 16 bits. On other CPUs it saves up to a third of the time of inference for a
    batch, some percent for a large image, and a tenth of the memory; for a single small image it costs a tenth. It is
    not used for training on these: it gains nothing in 16 bits, and PyTorch's differentiable group normalization is
    inexact in channels-last memory.

    Args:
        images: Input of the network, ``(B, 3, H, W)``.
    """
    device = images.device
    # Exports are in single precision, and PyTorch 2.10 cannot trace torch.is_autocast_enabled.
    if _is_exporting() or not torch.amp.is_autocast_available(device.type):
        return False
    if torch.is_autocast_enabled(device.type) and (device.type != "cpu" or _cpu_has("amx_tile")):
        return True
    pixels = images.shape[0] * images.shape[2] * images.shape[3]
    return device.type == "cpu" and not torch.is_grad_enabled() and pixels >= FEWEST_FOR_CHANNELS_LAST


def images_at_a_time(images: torch.Tensor) -> int:
    """Return the number of images to run a network on at a time for the best speed; 0 for the whole batch.

    On a CPU, large batches exceed the caches: eight images of 128 by 128 at once take 9 % longer in inference and 14 %
    longer in training than two batches of four (AMD EPYC, a U-Net of 32 channels), and more memory.

    Args:
        images: Input of the network, ``(B, C, H, W)``.
    """
    return items_at_a_time(images, MOST_TOGETHER_ON_CPU // (images.shape[2] * images.shape[3]))


def items_at_a_time(batch: torch.Tensor, most: int) -> int:
    """Return the number of a batch's items to compute at a time; 0 for the whole batch.

    That is all but on a CPU, where it has more than ``most``, and in an export, which is for any number.

    Args:
        batch: The items, along the first dimension.
        most: Largest number at a time on a CPU; at least one is.
    """
    if batch.device.type != "cpu" or _is_exporting():
        return 0
    together = max(1, most)
    return together if together < len(batch) else 0


def in_parts(together: int, *inputs: torch.Tensor) -> Iterable[tuple[torch.Tensor, ...]]:
    """Divide the inputs of a batch into those of its parts.

    Args:
        together: Number of items in a part; 0 for the whole batch.
        inputs: Inputs, with as many items each.
    """
    return zip(*(tensor.split(together) for tensor in inputs), strict=True) if together else [inputs]


def run_network(network: nn.Module, *inputs: torch.Tensor, channels_last: bool = False) -> Any:  # noqa: ANN401
    """Run a network that may be compiled; if the compiler fails, warn and run the network uncompiled.

    Args:
        network: The network, compiled by :meth:`torch.nn.Module.compile` or not.
        inputs: Inputs of the network, which are converted to the precision of its weights.
        channels_last: Whether the network computes in channels-last memory.

    Returns:
        Outputs of the network. If its weights are not in single precision, autocast is disabled.
    """
    dtype = weights_dtype(network)
    converted = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    device = inputs[0].device.type
    if dtype == torch.float32 or not torch.amp.is_autocast_available(device):
        return _run(network, *converted, channels_last=channels_last)
    with torch.autocast(device, enabled=False):
        return _run(network, *converted, channels_last=channels_last)


def _run(network: nn.Module, *inputs: torch.Tensor, channels_last: bool) -> Any:  # noqa: ANN401
    """Run a network on inputs of the same precision as its weights."""
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
    """Return the dtype of a network's first floating point parameter, or float32 if it has none."""
    floating = (weight.dtype for weight in network.parameters() if weight.is_floating_point())
    return next(floating, torch.float32)


def working_dtype(network: nn.Module) -> torch.dtype:
    """Return the dtype for computations outside of a network: float64 if its weights are float64, otherwise float32."""
    return torch.promote_types(weights_dtype(network), torch.float32)


@contextmanager
def buffers_kept(*modules: nn.Module) -> Iterator[None]:
    """Keep the precision of modules' buffers while their weights are converted, as by ``half()`` or the trainer.

    Args:
        modules: The modules whose own buffers are kept; those of their submodules are not.
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
    """Raise ValueError if the weights would be trained in 16 bits.

    In bfloat16, an update with the default learning rate is rounded away in nineteen of twenty weights; in float16 the
    squares of the gradients, which AdamW divides by, underflow to 0.

    Args:
        network: The network.
        trainer_precision: ``precision`` of Lightning's trainer.
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
    """Tell whether the processor has a unit, such as ``amx_tile``, by a private function of PyTorch.

    False if PyTorch has no such function.
    """
    is_supported = getattr(torch.cpu, f"_is_{unit}_supported", None)
    return is_supported is not None and is_supported()


def _is_exporting() -> bool:
    """Tell whether a network is being traced for an export."""
    return torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting()


def check_precision(precision: Precision) -> None:
    """Raise ValueError, naming the value, if a precision is unknown."""
    check_arguments(check_precision, locals())
