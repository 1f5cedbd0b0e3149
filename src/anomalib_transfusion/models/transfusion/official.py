# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The authors' checkpoints: reading them, inferring the network from them, and writing them.

The published implementation saves the state dict of its whole model, tensors only. In its keys,
blocks and resolution changes of the encoder (``down``) are numbered consecutively, as are those of the decoder
(``up``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from anomalib_transfusion.checks import listed
from anomalib_transfusion.files import reason_of
from anomalib_transfusion.models.official_keys import renamed

from .unet import ResUNet

__all__ = ["export_official", "import_official", "infer_architecture", "read_official", "reason_of"]

PREFIX = "model."
# The frequency of the authors' positional encoding: a buffer that never changes.
POSITIONAL_FREQUENCY_KEY = "model.pos_emb.penc.inv_freq"

_BLOCK = {
    "residual.norm_1": "res.norm1",
    "residual.conv_1": "res.conv1",
    "residual.norm_2": "res.norm2",
    "residual.conv_2": "res.conv2",
    "residual.time_projection": "res.time_emb",
    "residual.shortcut": "res.shortcut",
    "attention": "attn",
}
_REST = {
    "input_projection": "image_proj",
    "time_embedding": "time_emb",
    "output_norm": "norm",
    "anomaly_head": "final",
    "normal_head": "final_mean",
    "mask_head": "final_seg",
}


def read_official(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict that the authors' code saved, pickled (without running code from it) or as safetensors.

    Args:
        path: The file.

    Returns:
        The state dict under the authors' keys.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or holds anything but a state dict.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"There is no checkpoint {path}; expected a file that the authors' code saved. Check the path."
        raise FileNotFoundError(msg)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle can raise any exception.
    except Exception as error:
        msg = (
            f"{path} could not be read as a state dict of tensors ({reason_of(error)}). It may be truncated, or hold "
            "more than tensors, which is not loaded because it could run code. Download it again."
        )
        raise ValueError(msg) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        msg = (
            f"{path} holds {type(state).__name__}, not a state dict of tensors as the authors' code saves it. Pass the "
            "file of the weights."
        )
        raise ValueError(msg)
    return dict(state)


def infer_architecture(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Infer the parameters of the network from the keys and shapes of a state dict of the authors.

    Args:
        state: State dict under the authors' keys.

    Returns:
        Arguments of :class:`ResUNet` by name.

    Raises:
        ValueError: If it belongs to another model; names the keys.
    """
    if rgbd := sorted(key for key in state if "_rgb." in key or "_d." in key):
        msg = (
            f"This is a checkpoint of the authors' RGB-D model, which has no counterpart here: {listed(rgbd)}. Pass "
            "one of their model for color images."
        )
        raise ValueError(msg)
    first = state.get(f"{PREFIX}image_proj.weight")
    if first is None:
        msg = (
            f"The key {PREFIX}image_proj.weight is missing, so this is no checkpoint of the authors' code; "
            f"its keys are {listed(sorted(state))}. Pass one of theirs; one of anomalib needs no conversion."
        )
        raise ValueError(msg)
    base_channels, in_channels = first.shape[:2]
    if in_channels != 5:
        msg = (
            f"{PREFIX}image_proj.weight has {in_channels} input channels; expected 5 (three of the image, the previous "
            "mask and the positional encoding). Pass a checkpoint of a network with all of them."
        )
        raise ValueError(msg)

    widths: list[int] = []
    attention_levels: list[int] = []
    counts = [0]
    index = 0
    while True:
        convolution = state.get(f"{PREFIX}down.{index}.res.conv2.weight")
        if convolution is not None:
            if counts[-1] == 0:
                widths.append(convolution.shape[0])
                if f"{PREFIX}down.{index}.attn.projection.weight" in state:
                    attention_levels.append(len(widths) - 1)
            counts[-1] += 1
        elif f"{PREFIX}down.{index}.conv.weight" in state:
            counts.append(0)
        else:
            break
        index += 1
    if len(set(counts)) != 1 or counts[0] == 0 or any(width % base_channels for width in widths):
        msg = (
            f"The encoder has {counts} blocks a level with {widths} channels; expected as many in each level, and "
            f"multiples of {base_channels} channels. Keys {PREFIX}down.* are missing, or this is another model. "
            "Download it again, or pass another one."
        )
        raise ValueError(msg)
    return {
        "base_channels": base_channels,
        "channel_multipliers": tuple(width // base_channels for width in widths),
        "num_blocks": counts[0],
        "attention_levels": tuple(attention_levels),
    }


def import_official(state: Mapping[str, torch.Tensor], network: ResUNet) -> None:
    """Load a state dict of the authors into a network of the same architecture.

    Args:
        state: State dict under the authors' keys.
        network: Network to load into.

    Raises:
        ValueError: If keys are missing or left over, or a shape differs; names them.
    """
    keys = official_keys(network)
    ours = network.state_dict()
    missing = sorted(set(keys.values()) - set(state))
    unexpected = sorted(set(state) - set(keys.values()) - {POSITIONAL_FREQUENCY_KEY})
    misfit = sorted(key for mine, key in keys.items() if key in state and state[key].shape != ours[mine].shape)
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misfit}
    if any(problems.values()):
        details = "; ".join(f"{kind}: {listed(found)}" for kind, found in problems.items() if found)
        msg = (
            f"The checkpoint does not fit the network. Keys {details}. Leave the parameters of the network to the "
            "checkpoint, or download it again."
        )
        raise ValueError(msg)
    network.load_state_dict({mine: state[key] for mine, key in keys.items()})


def export_official(network: ResUNet) -> dict[str, torch.Tensor]:
    """Return the state dict of a network under the authors' keys.

    Args:
        network: The network, with positional encoding and previous mask, and without the extensions of this package.

    Raises:
        ValueError: If the network lacks an input of the authors' network, or has patches, normalized queries and keys,
            or a backbone, which theirs does not have.
    """
    own = {name: getattr(network, name) for name in ("patch_size", "qk_norm", "has_backbone")}
    if own != {"patch_size": 1, "qk_norm": False, "has_backbone": False}:
        msg = (
            f"This network has {', '.join(f'{name}={value}' for name, value in own.items())}, but the authors' has "
            "pixels, and neither of the others. Train one without them."
        )
        raise ValueError(msg)
    if not (network.positional_encoding and network.previous_mask):
        msg = (
            f"This network has positional_encoding={network.positional_encoding} and previous_mask="
            f"{network.previous_mask}, but the authors' always has both; this one lacks an input. Train one with both."
        )
        raise ValueError(msg)
    weights = network.state_dict()
    state = {key: weights[mine] for mine, key in official_keys(network).items()}
    state[POSITIONAL_FREQUENCY_KEY] = torch.ones(1)
    return state


def official_keys(network: ResUNet) -> dict[str, str]:
    """Map each key of our state dict to the authors' key of the same tensor."""
    prefixes = {mine: PREFIX + theirs for mine, theirs in _REST.items()}
    for ours, theirs, resample in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        index = 0
        for number, level in enumerate(getattr(network, ours)):
            for block in range(len(level.blocks)):
                prefixes |= {
                    f"{ours}.{number}.blocks.{block}.{mine}": f"{PREFIX}{theirs}.{index}.{name}"
                    for mine, name in _BLOCK.items()
                }
                index += 1
            if getattr(level, resample) is not None:
                prefixes[f"{ours}.{number}.{resample}"] = f"{PREFIX}{theirs}.{index}.conv"
                index += 1
    for block in range(len(network.middle)):
        prefixes |= {
            f"middle.{block}.{mine}": f"{PREFIX}middle.{name.replace('res.', f'res{block + 1}.')}"
            for mine, name in _BLOCK.items()
        }
    return renamed(network.state_dict(), prefixes)
