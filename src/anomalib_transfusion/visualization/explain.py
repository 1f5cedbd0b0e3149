# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""``anomalib-transfusion explain``: film strips and animations of images in files, by a model in a checkpoint."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from .film_strip import check_output, visualize_reverse_process

__all__ = ["explain_files", "find_images", "plan_outputs"]

SUFFIXES = (".png", ".gif")


def explain_files(
    paths: Sequence[Path],
    checkpoint: Path,
    output: Path,
    overwrite: bool,
    num_inference_steps: int | None,
    device: str,
    **options: object,
) -> list[Path]:
    """Write film strips and animations.

    Args:
        paths: Images, and folders of images.
        checkpoint: Checkpoint of the model.
        output: Folder to write into, or the file for the only image.
        overwrite: Whether files may be replaced.
        num_inference_steps: Network passes, or ``None`` for as many as in the checkpoint.
        device: Where the model runs, in PyTorch's words, or ``auto``.
        options: As in :func:`visualize_reverse_process`.

    Returns:
        The files.

    Raises:
        FileExistsError: If a file exists and must not be replaced.
        FileNotFoundError: If there is no such image or checkpoint, or no folder to write into.
        ValueError: If a value is impossible, or a file cannot be read.
    """
    from anomalib_transfusion.models import TransFusion

    place = _device(device)
    plan = plan_outputs(find_images(paths), output)
    existing = [path for outputs in plan.values() for path in outputs if path.exists()]
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        msg = f"{existing[0]} exists{more}; choose another --output, or pass --overwrite true."
        raise FileExistsError(msg)
    if not checkpoint.is_file():
        msg = f"There is no checkpoint {checkpoint}. Pass the model.ckpt of a training with --ckpt."
        raise FileNotFoundError(msg)
    steps = {} if num_inference_steps is None else {"num_inference_steps": num_inference_steps}
    model = TransFusion.load_from_checkpoint(checkpoint, map_location=place, **steps)
    for image, outputs in plan.items():
        for path in outputs:
            if path.suffix in SUFFIXES and path.parent != output.parent:
                path.parent.mkdir(parents=True, exist_ok=True)
        visualize_reverse_process(model, image, outputs, **options)  # type: ignore[arg-type]
    return [path for outputs in plan.values() for path in outputs]
