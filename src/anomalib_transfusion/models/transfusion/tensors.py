# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Tensors held against what a function expects."""

import torch
from torch._subclasses import FakeTensor

__all__ = ["check_image_size", "check_images", "check_range", "check_shape", "refuse_range"]

# Of values outside of [0, 1]. Bicubic enlargement overshoots at an edge by 1/9 of its height and in a corner by
# (10/9)^2 - 1 = 0.235; images whose mean was subtracted go much further.
OVERSHOOT = 0.25


def check_images(images: torch.Tensor, stride: int) -> None:
    """Raise an error that says what is wrong if a tensor is no batch of images for the network.

    Only shape and type: looking at values makes a GPU wait.

    Args:
        images: What should be ``(B, 3, H, W)`` of floating point numbers.
        stride: What H and W must be multiples of.

    Raises:
        TypeError: If it is no tensor, or not of floating point numbers.
        ValueError: If its shape is another.
    """
    if not isinstance(images, torch.Tensor):
        msg = (
            f"The images are of type {type(images).__name__}; expected a tensor of shape (B, 3, H, W) in [0, 1]. "
            "Convert an array with torch.from_numpy, stack a list with torch.stack."
        )
        raise TypeError(msg)
    if not images.is_floating_point():
        msg = (
            f"The images are of {images.dtype}; expected floating point numbers in [0, 1]. Convert bytes with "
            "images.float() / 255."
        )
        raise TypeError(msg)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0:
        msg = (
            f"The images have shape {tuple(images.shape)}; expected (B, 3, H, W): at least one image, three channels. "
            "A single image becomes a batch with images[None], a grey one has three channels after "
            "images.expand(-1, 3, -1, -1)."
        )
        raise ValueError(msg)
    check_image_size((images.shape[-2], images.shape[-1]), stride)


def check_range(images: torch.Tensor) -> None:
    """Raise ValueError if images are not in [0, 1], but for a small overshoot.

    This makes a GPU wait. Nothing is checked while a model is exported, compiled or captured: there are no values then.

    Args:
        images: Images, ``(B, 3, H, W)``.
    """
    # First, and alone: the compiler leaves out what comes after it.
    if torch.compiler.is_compiling():
        return
    recorded = torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or isinstance(images, FakeTensor)
    if recorded or images.is_meta or (images.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    refuse_range(*torch.stack(images.detach().aminmax()).tolist())


def refuse_range(lowest: float, highest: float, when: str = "") -> None:
    """Raise ValueError if the values of images are not in [0, 1], but for a small overshoot.

    Args:
        lowest: Smallest value; NaN where one is no number.
        highest: Largest value.
        when: Where in a run the images were seen, for the message.
    """
    if -OVERSHOOT <= lowest <= highest <= 1 + OVERSHOOT:
        return
    msg = (
        f"The images{when} have values from {lowest:.4g} to {highest:.4g}; expected [0, 1], which the model scales to "
        "[-1, 1] itself. Remove Normalize from the transforms (augmentations, pre-processor), divide values up to 255 "
        "by 255, and replace what is not a number."
    )
    raise ValueError(msg)


def check_shape(name: str, tensor: torch.Tensor, *expected: int) -> None:
    """Raise ValueError if a tensor has another shape: many others would be broadcast, and give nonsense in silence.

    Args:
        name: Name of the tensor, for the message.
        tensor: The tensor.
        expected: Its sizes.
    """
    if tensor.shape != expected:
        msg = (
            f"{name} has shape {tuple(tensor.shape)}; expected {expected}, to go with the images. Bring it into that "
            "shape."
        )
        raise ValueError(msg)


def check_image_size(size: tuple[int, int], stride: int) -> None:
    """Raise ValueError, naming the nearest possible sizes, if a side is no multiple of the stride.

    Args:
        size: Height and width in pixels.
        stride: What both must be multiples of: the network halves the image once a level.
    """
    if all(side > 0 and side % stride == 0 for side in size):
        return
    smaller = tuple(max(side // stride * stride, stride) for side in size)
    larger = tuple(-(-side // stride) * stride for side in size)
    nearest = " or ".join(dict.fromkeys(f"{height}x{width}" for height, width in (smaller, larger)))
    msg = (
        f"An image of {size[0]}x{size[1]} pixels (height x width) does not fit the network: both sides must be "
        f"multiples of {stride}. The nearest sizes are {nearest}; set one with the Resize of the pre-processor."
    )
    raise ValueError(msg)
