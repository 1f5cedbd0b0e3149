# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""How much accuracy the exported models lose: AUROC and size of each on the demo data.

    make demo
    python benchmarks/exported.py results/TransFusion/DemoSurface/brick/latest/weights/lightning/model.ckpt

writes ``results/exported.md``.
"""

import argparse
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pandas as pd
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType
from sklearn.metrics import roc_auc_score

from anomalib_transfusion import DemoSurface, TransFusion
from anomalib_transfusion.benchmark.tables import markdown_of

Predict = Callable[[np.ndarray], tuple[np.ndarray, float]]


def with_torch(model: TransFusion) -> Predict:
    """Predict with the model itself."""

    @torch.no_grad()
    def predict(image: np.ndarray) -> tuple[np.ndarray, float]:
        result = model(torch.from_numpy(image))
        return result.anomaly_map[0, 0].numpy(), float(result.pred_score)

    return predict


def with_onnxruntime(path: Path) -> Predict:
    """Predict with ONNX Runtime."""
    session = onnxruntime.InferenceSession(path)

    def predict(image: np.ndarray) -> tuple[np.ndarray, float]:
        score, anomaly_map = session.run(["pred_score", "anomaly_map"], {"input": image})
        return anomaly_map[0, 0], float(score[0])

    return predict


def with_openvino(path: Path, precision: str) -> Predict:
    """Predict with OpenVINO in single precision (``f32``) or in bfloat16 (``bf16``)."""
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})

    def predict(image: np.ndarray) -> tuple[np.ndarray, float]:
        result = compiled(image)
        return result["anomaly_map"][0, 0], float(result["pred_score"][0])

    return predict


def measure(predict: Predict, images: list[np.ndarray], masks: list[np.ndarray]) -> dict[str, object]:
    """Predict each image, and compute AUROC of images and pixels."""
    predicted = [predict(image) for image in images]
    maps = np.stack([anomaly_map for anomaly_map, _ in predicted])
    truth = np.stack(masks)
    return {
        "maps": maps,
        "image AUROC": roc_auc_score(truth.any(axis=(1, 2)), [score for _, score in predicted]),
        "pixel AUROC": roc_auc_score(truth.ravel(), maps.ravel()),
    }


def main() -> None:
    """Export a checkpoint in every way, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--category", default="brick", help="category of the demo data (default: brick)")
    parser.add_argument("--output", type=Path, default=Path("results/exported.md"))
    arguments = parser.parse_args()

    model = TransFusion.load_from_checkpoint(arguments.checkpoint, map_location="cpu").eval()
    data = DemoSurface(category=arguments.category, num_workers=0)
    data.prepare_data()
    data.setup()
    size = model.input_size
    images, masks = [], []
    for item in data.test_data:
        images.append(read_image(item.image_path, as_tensor=True)[None].numpy())
        mask = item.gt_mask[None, None].float()
        masks.append(torch.nn.functional.interpolate(mask, size).bool()[0, 0].numpy())

    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # What is exported computes in single precision, whatever the model prefers on this processor.
        for label, own_precision in {"PyTorch": "single", "PyTorch, computed in bf16": "bfloat16"}.items():
            model.model.precision = own_precision
            rows[label] = measure(with_torch(model), images, masks) | {"MiB": float("nan")}
        path = model.to_onnx(root)
        rows["ONNX Runtime"] = measure(with_onnxruntime(path), images, masks) | {"MiB": mebibytes(path.parent)}
        for compression in (None, CompressionType.FP16, CompressionType.INT8, CompressionType.INT8_PTQ):
            name = compression.value if compression else "fp32"
            path = model.to_openvino(root / name, compression_type=compression, datamodule=data)
            for precision in ("f32", "bf16") if compression is None else ("f32",):
                label = f"OpenVINO {name}{', computed in bf16' if precision == 'bf16' else ''}"
                rows[label] = measure(with_openvino(path, precision), images, masks) | {"MiB": mebibytes(path.parent)}
                print(label, {key: value for key, value in rows[label].items() if key != "maps"}, flush=True)

    table = pd.DataFrame(rows).T
    own = table.loc["PyTorch"]
    table["largest difference of a map"] = [float(np.abs(maps - own["maps"]).max()) for maps in table["maps"]]
    for metric in ("image AUROC", "pixel AUROC"):
        table[f"change of {metric}"] = table[metric] - own[metric]
    text = (
        f"# What exporting costs\n\n{len(images)} images of the demo data ({arguments.category}), on "
        f"{platform.machine()}; torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"openvino {version('openvino')}, nncf {version('nncf')}, anomalib {version('anomalib')}.\n\n"
        f"    python benchmarks/exported.py CHECKPOINT_OF_MAKE_DEMO\n\n"
        f"{markdown_of(table.drop(columns='maps'))}\n"
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    print(text)


def mebibytes(folder: Path) -> float:
    """Add up the files of an exported model."""
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


if __name__ == "__main__":
    main()
