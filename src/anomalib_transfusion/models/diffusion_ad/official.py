# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The authors' checkpoints of DiffusionAD: reading them, inferring the networks from them, and writing them.

The published implementation saves a dictionary with the state dicts of both networks, the epoch and the settings of the
run. In its keys, the modules of the U-Net's encoder (``down``) and decoder (``up``) are numbered consecutively.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from anomalib_transfusion.checks import listed
from anomalib_transfusion.files import reason_of
from anomalib_transfusion.models.official_keys import renamed

from .segmentation import SegmentationUNet
from .torch_model import DiffusionADModel
from .unet import AttentionBlock, NoiseUNet

__all__ = ["OfficialCheckpoint", "export_official", "import_official", "infer_architecture", "read_official"]

UNET = "unet_model_state_dict"
SEGMENTATION = "seg_model_state_dict"
# Prefixes of the keys in a safetensors file.
PREFIXES = {UNET: "unet.", SEGMENTATION: "seg."}
# Fixed in the published code, and not stored in its checkpoints.
OFFICIAL_HEADS = 4
OFFICIAL_GROUPS = 32

_RESIDUAL = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "time_projection": "embed_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "shortcut": "skip_connection",
}
_ATTENTION = {"norm": "norm", "projection": "to_qkv", "output": "proj_out"}
_REST = {
    "time_embedding.linear_1": "time_embedding.1",
    "time_embedding.linear_2": "time_embedding.3",
    "input_projection": "down.0.0",
    "output_norm": "out.0",
    "output": "out.2",
}
_DECODER_NAMES = ("_b", "1", "2", "3", "4")


class OfficialCheckpoint(NamedTuple):
    """Content of a checkpoint of the authors' code.

    Attributes:
        unet: State dict of the reconstruction network under the authors' keys.
        segmentation: State dict of the segmentation network under the authors' keys.
        epoch: Number of epochs that the networks were trained for; ``None`` if the file lacks it.
        arguments: Settings of the run.
    """

    unet: dict[str, Tensor]
    segmentation: dict[str, Tensor]
    epoch: int | None
    arguments: dict[str, Any]


def read_official(path: str | Path) -> OfficialCheckpoint:
    """Read a checkpoint that the authors' code saved, without running code from it.

    Args:
        path: The pickled checkpoint, or a safetensors file with the keys prefixed by ``unet.`` and ``seg.``.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or is no checkpoint of the authors' DiffusionAD; names its keys.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"There is no checkpoint {path}; expected a file that the authors' code saved. Check the path."
        raise FileNotFoundError(msg)
    try:
        content = _read_tensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    # A damaged pickle can raise any exception.
    except Exception as error:
        msg = (
            f"{path} could not be read as a checkpoint of the authors' code ({reason_of(error)}). It may be truncated, "
            "or hold more than weights and settings, which is not loaded because it could run code. Copy it again."
        )
        raise ValueError(msg) from error
    if not isinstance(content, Mapping) or not all(_is_state_dict(content.get(name)) for name in (UNET, SEGMENTATION)):
        found = listed(sorted(map(str, content))) if isinstance(content, Mapping) else type(content).__name__
        msg = (
            f"{path} holds {found}; expected the state dicts {UNET} and {SEGMENTATION} of the authors' DiffusionAD. "
            "Pass a file params-best.pt or params-last.pt of theirs; a checkpoint of anomalib needs no conversion."
        )
        raise ValueError(msg)
    epoch, arguments = content.get("n_epoch"), content.get("args")
    return OfficialCheckpoint(
        dict(content[UNET]),
        dict(content[SEGMENTATION]),
        epoch if isinstance(epoch, int) else None,
        {str(name): value for name, value in arguments.items()} if isinstance(arguments, Mapping) else {},
    )


def _read_pickle(path: Path) -> Any:  # noqa: ANN401
    """Read a pickled checkpoint: tensors, and settings in a ``defaultdict(str)``."""
    # Torch's reader cannot fill a defaultdict, so an OrderedDict replaces it; str is its pickled default factory.
    allowed = [(_no_default, "collections.defaultdict"), (str, "builtins.str")]
    with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
        return torch.load(path, map_location="cpu", weights_only=True)


def _no_default(_: Any = None) -> OrderedDict[str, Any]:  # noqa: ANN401
    """Return an empty dictionary in place of a ``defaultdict``, whose default factory is ignored."""
    return OrderedDict()


def _read_tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read a safetensors file, whose keys begin with the network's name, into one state dict for each network."""
    tensors = load_file(path)
    parts: dict[str, dict[str, Tensor]] = {
        name: {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        for name, prefix in PREFIXES.items()
    }
    return parts if all(parts.values()) else {key: {} for key in tensors}


def _is_state_dict(value: Any) -> bool:  # noqa: ANN401
    """Tell whether a value is a state dict with tensors in it."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())


def infer_architecture(checkpoint: OfficialCheckpoint) -> dict[str, Any]:
    """Infer the parameters of the networks from the keys and shapes of a checkpoint.

    Args:
        checkpoint: The checkpoint.

    Returns:
        Arguments of :class:`DiffusionADModel` for its networks.

    Raises:
        ValueError: If the keys are not those of the authors' networks; names them.
    """
    unet, segmentation = checkpoint.unet, checkpoint.segmentation
    first, last = unet.get("down.0.0.weight"), segmentation.get("encoder_segment.block1.0.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        msg = (
            "The checkpoint lacks the convolutions down.0.0.weight and encoder_segment.block1.0.weight; expected the "
            f"authors' networks, but its keys are {listed(sorted(unet))} and {listed(sorted(segmentation))}. Pass a "
            "file of the authors' code, or copy it again."
        )
        raise ValueError(msg)
    # The last block of each level but the highest doubles the resolution: it has a second residual block.
    stages = _count(unet, "up.{}.0.in_layers.0.weight")
    doubling = [
        stage for stage in range(stages) if any(f"up.{stage}.{part}.in_layers.0.weight" in unet for part in (1, 2))
    ]
    levels = len(doubling) + 1
    num_blocks = doubling[0] if doubling else stages - 1
    # Each level of the encoder but the last has one more module, which halves the resolution.
    starts = [1 + level * (num_blocks + 1) for level in range(levels)]
    modules = 1 + _count(unet, "down.{}.0.in_layers.0.weight", start=1)
    widths = [unet[key].shape[0] for start in starts if (key := f"down.{start}.0.in_layers.2.weight") in unet]
    expected = levels * (num_blocks + 1)
    if len(widths) != levels or modules != expected or stages != expected or any(w % first.shape[0] for w in widths):
        msg = (
            f"The decoder of the checkpoint has {stages} modules up.*, of which {doubling} double the resolution, the "
            f"encoder {modules} modules down.* with {widths} channels; expected as many modules in each level of both, "
            f"and multiples of {first.shape[0]} channels. Keys are missing, or this is another network: pass another "
            "file, or copy it again."
        )
        raise ValueError(msg)
    return {
        "base_channels": first.shape[0],
        "channel_multipliers": tuple(width // first.shape[0] for width in widths),
        "num_blocks": num_blocks,
        "attention_levels": tuple(level for level, start in enumerate(starts) if f"down.{start}.1.norm.weight" in unet),
        "num_heads": OFFICIAL_HEADS,
        "num_groups": OFFICIAL_GROUPS,
        "segmentation_width": last.shape[0],
    }


def _count(state: Mapping[str, Tensor], pattern: str, start: int = 0) -> int:
    """Count the consecutive numbers from ``start`` on for which the key exists."""
    count = 0
    while pattern.format(start + count) in state:
        count += 1
    return count


def import_official(checkpoint: OfficialCheckpoint, model: DiffusionADModel) -> None:
    """Load the authors' weights into a model of the same architecture.

    Args:
        checkpoint: The checkpoint.
        model: The model to load into.

    Raises:
        ValueError: If keys are missing or left over, or a shape differs; names them. The model is unchanged.
    """
    loaded = []
    problems: dict[str, list[str]] = {"missing": [], "unexpected": [], "of another shape": []}
    for network, keys, theirs in (
        (model.unet, unet_keys(model.unet), checkpoint.unet),
        (model.segmentation, segmentation_keys(model.segmentation), checkpoint.segmentation),
    ):
        ours = network.state_dict()
        shapes = {key: official_shape(key, ours[mine]) for mine, key in keys.items()}
        problems["missing"] += sorted(shapes.keys() - theirs.keys())
        problems["unexpected"] += sorted(theirs.keys() - shapes.keys())
        problems["of another shape"] += sorted(
            key for key, shape in shapes.items() if key in theirs and theirs[key].shape != shape
        )
        loaded.append((network, keys, theirs, ours))
    if any(problems.values()):
        details = "; ".join(f"{kind}: {listed(found)}" for kind, found in problems.items() if found)
        msg = (
            f"The checkpoint does not fit the networks. Keys {details}. Leave the parameters of the networks to the "
            "checkpoint, or copy it again."
        )
        raise ValueError(msg)
    for network, keys, theirs, ours in loaded:
        network.load_state_dict({mine: theirs[key].view_as(ours[mine]) for mine, key in keys.items()})


def export_official(
    model: DiffusionADModel,
    epoch: int = 0,
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a checkpoint that the authors' code reads, for ``torch.save``.

    Args:
        model: The model; its networks must have 4 heads and 32 groups, as theirs always have.
        epoch: Number of epochs that it was trained for.
        arguments: Settings of the run under the authors' names.

    Returns:
        The dictionary to save.

    Raises:
        ValueError: If the model does not have 4 heads and 32 groups.
    """
    heads = {module.heads for module in model.unet.modules() if isinstance(module, AttentionBlock)}
    groups = {module.num_groups for module in model.unet.modules() if isinstance(module, nn.GroupNorm)}
    if heads != {OFFICIAL_HEADS} or groups != {OFFICIAL_GROUPS}:
        msg = (
            f"The model has num_heads={max(heads)} and num_groups={max(groups)}; expected {OFFICIAL_HEADS} and "
            f"{OFFICIAL_GROUPS}, which the authors' code has built in. Train a model with these numbers."
        )
        raise ValueError(msg)
    states = {}
    for name, network, keys in (
        (UNET, model.unet, unet_keys(model.unet)),
        (SEGMENTATION, model.segmentation, segmentation_keys(model.segmentation)),
    ):
        ours = network.state_dict()
        states[name] = OrderedDict(
            (key, ours[mine].reshape(official_shape(key, ours[mine])).clone()) for mine, key in keys.items()
        )
    return {"n_epoch": epoch, **states, "args": defaultdict(str, arguments or {})}


def official_shape(key: str, ours: Tensor) -> torch.Size:
    """Return the shape that a tensor of ours has in the authors' file: they project attention by 1-D convolutions."""
    return torch.Size((*ours.shape, 1)) if key.endswith(("to_qkv.weight", "proj_out.weight")) else ours.shape


def unet_keys(network: NoiseUNet) -> dict[str, str]:
    """Map each key of our reconstruction network to the authors' key of the same tensor."""
    prefixes = dict(_REST)

    def add(ours: str, theirs: str, names: Mapping[str, str]) -> None:
        prefixes.update({f"{ours}.{mine}": f"{theirs}.{name}" for mine, name in names.items()})

    for ours, theirs, offset in (("encoder", "down", 1), ("decoder", "up", 0)):
        for index, stage in enumerate(getattr(network, ours)):
            add(f"{ours}.{index}.residual", f"{theirs}.{index + offset}.0", _RESIDUAL)
            add(f"{ours}.{index}.attention", f"{theirs}.{index + offset}.1", _ATTENTION)
            place = 1 if stage.attention is None else 2
            add(f"{ours}.{index}.upsample", f"{theirs}.{index + offset}.{place}", _RESIDUAL)
    add("middle.0.residual", "middle.0", _RESIDUAL)
    add("middle.0.attention", "middle.1", _ATTENTION)
    add("middle.1.residual", "middle.2", _RESIDUAL)
    return renamed(network.state_dict(), prefixes)


def segmentation_keys(network: SegmentationUNet) -> dict[str, str]:
    """Map each key of our segmentation network to the authors' key of the same tensor."""
    prefixes = {"output": "decoder_segment.fin_out.0"}
    for index in range(len(network.encoder)):
        prefixes[f"encoder.{index}"] = f"encoder_segment.block{index + 1}"
    for index, name in enumerate(_DECODER_NAMES):
        prefixes[f"decoder.{index}.up"] = f"decoder_segment.up{name}"
        prefixes[f"decoder.{index}.merge"] = f"decoder_segment.db{name}"
    return renamed(network.state_dict(), prefixes)
