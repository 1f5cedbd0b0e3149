# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The command ``anomalib-transfusion explain``: film strips and animations for image files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anomalib_transfusion.checks import listed, taken_by

from .film_strip import check_output, visualize_reverse_process
from .output_names import plain_path, tell_apart

__all__ = ["explain_files"]

# Suffixes of film strip and animation.
SUFFIXES = (".png", ".gif")


def explain_files(
    paths: Sequence[Path],
    checkpoint: Path,
    output: Path,
    *,
    overwrite: bool = False,
    num_inference_steps: int | None = None,
    device: str = "auto",
    **options: Any,  # noqa: ANN401
) -> list[Path]:
    """Write film strips and animations.

    Args:
        paths: Images, and folders of images.
        checkpoint: Checkpoint of a training with a model of this plugin.
        output: Folder to write into, or the file for the only image.
        overwrite: Whether files may be replaced.
        num_inference_steps: Network passes, for models with this parameter; ``None`` for the checkpoint's number.
        device: Device of the model as PyTorch names it, or ``auto``.
        options: Passed to :func:`visualize_reverse_process`.

    Returns:
        The paths of the files.

    Raises:
        FileExistsError: If a file exists and must not be replaced.
        FileNotFoundError: If there is no such image or checkpoint, or no folder to write into.
        ValueError: If a value is impossible, or a file cannot be read.
    """
    place = _find_device(device)
    images = _find_images(paths)
    plan = _plan(images, output)
    existing = [path for outputs in plan for path in outputs if path.exists()]
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more files)" if len(existing) > 1 else ""
        msg = f"{existing[0]} exists{more}; choose another --output, or pass --overwrite true."
        raise FileExistsError(msg)
    if not checkpoint.is_file():
        msg = f"There is no checkpoint {checkpoint}. Pass the model.ckpt of a training with --ckpt."
        raise FileNotFoundError(msg)
    model_class = _model_of(checkpoint)
    parameters = {} if num_inference_steps is None else {"num_inference_steps": num_inference_steps}
    if not taken_by(model_class, parameters).keys() >= parameters.keys():
        msg = (
            f"num_inference_steps={num_inference_steps} is no parameter of {model_class.__name__}, the model of "
            f"{checkpoint}; expected a model that takes several passes. Leave it out."
        )
        raise ValueError(msg)
    model = model_class.load_from_checkpoint(checkpoint, map_location=place, **parameters)
    for image, outputs in zip(images, plan, strict=True):
        if not _is_file(output):
            outputs[0].parent.mkdir(parents=True, exist_ok=True)
        visualize_reverse_process(model, image, outputs, **options)
    return [path for outputs in plan for path in outputs]


def _model_of(checkpoint: Path) -> Any:  # noqa: ANN401
    """Return the class of the model that a checkpoint belongs to, by the names of its weights.

    Raises:
        ValueError: If the file is damaged or holds code, or the checkpoint is that of another model.
    """
    # Imported here: both need all of anomalib, which is partially imported while it loads its plugins.
    from anomalib.models.components import AnomalibModule

    from anomalib_transfusion.training.checkpoints import WholeCheckpointIO

    # On the meta device: only names are needed, no weights are loaded.
    weights = list(map(str, WholeCheckpointIO().load_checkpoint(checkpoint, "meta").get("state_dict", {})))
    models = [model for model in AnomalibModule.__subclasses__() if hasattr(model, "weights_prefix")]
    for model in models:
        if any(name.startswith(model.weights_prefix) for name in weights):
            return model
    msg = (
        f"{checkpoint} belongs to none of {', '.join(model.__name__ for model in models)}: its weights are named "
        f"{listed(weights, 3)}. Pass the model.ckpt of a training with one of these models."
    )
    raise ValueError(msg)


def _find_device(device: str) -> torch.device:
    """Return the device of the model; ``auto`` is an accelerator if there is one, otherwise the CPU.

    Raises:
        ValueError: If there is no such device.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(1, device=device)
        return torch.device(device)
    # The exception depends on the device: RuntimeError, AssertionError, NotImplementedError, ...
    except Exception as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        msg = f"device={device!r} cannot be used ({reason}). Choose auto, cpu, cuda, mps or another that is there."
        raise ValueError(msg) from error


def _find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the given images and those in the given folders, each once.

    Raises:
        FileNotFoundError: If there is no such file, or no image in a folder.
    """
    from anomalib.data.utils.image import get_image_filenames_from_dir

    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            try:
                images += get_image_filenames_from_dir(path)
            except ValueError as error:
                msg = f"There is no image in the folder {path}. Pass an image, or a folder that holds some."
                raise FileNotFoundError(msg) from error
        elif path.is_file():
            images.append(path)
        else:
            msg = f"There is no {path}. Pass an image, or a folder of images."
            raise FileNotFoundError(msg)
    return list(dict.fromkeys(plain_path(image.absolute()) for image in images))


def _is_file(output: Path) -> bool:
    """Tell whether an output is meant as a file, not as a folder."""
    return output.suffix != "" and not output.is_dir()


def _plan(images: Sequence[Path], output: Path) -> list[list[Path]]:
    """Return the files to write for each image.

    Raises:
        FileNotFoundError: If there is no folder to write into.
        ValueError: If one file is to hold several images, or a suffix is unknown.
    """
    if _is_file(output):
        check_output(output)
        if len(images) > 1:
            msg = f"--output {output} is one file, but there are {len(images)} images. Pass a folder instead."
            raise ValueError(msg)
        return [[output]]
    # Subfolders of the common folder are kept, which distinguishes images of the same name.
    shared = Path(os.path.commonpath([image.parent for image in images]))
    strips = tell_apart(images, lambda image: image.relative_to(shared).with_name(f"{image.stem}{SUFFIXES[0]}"))
    return [[output / strips[image].with_suffix(suffix) for suffix in SUFFIXES] for image in images]
