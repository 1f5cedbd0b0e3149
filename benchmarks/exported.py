# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What people deploy: images per second and memory of PyTorch, ONNX Runtime, OpenVINO, and their accuracy.

    python benchmarks/exported.py TransFusion=model.ckpt                                    # demo surface
    python benchmarks/exported.py TransFusion=fast.ckpt Patchcore=other.ckpt --root datasets/MVTecAD --category bottle
    python benchmarks/exported.py TransFusion=full EfficientAd=untrained --passes 1         # time and memory alone
    python benchmarks/exported.py TransFusion=configs/fast.yaml --passes 1 19               # the same

Any of anomalib's models that can be exported, from checkpoints. The formats of a model, a number of passes and a batch
alternate round by round, and a ratio is that of their median times: above 1 is faster than PyTorch in single precision.
Scores are the model's own, before a post-processor clips them. In place of a checkpoint, ``small`` or ``full`` is a
network of ours of that size, a config (``.yaml``) the model that it describes, and ``untrained`` any model with its
defaults: the accuracy of these, which were not trained, is left out. ``tiny`` tries the script.
"""

import argparse
import inspect
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import anomalib.models
import numpy as np
import onnxruntime
import openvino
import torch
import yaml
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.deploy import CompressionType
from anomalib.models import AnomalibModule
from jsonargparse import ArgumentParser

import memory
import record
from anomalib_transfusion.benchmark.measure import MIB
from anomalib_transfusion.models.graph_export import resized
from contenders import IMAGE_SIZES, SUBJECTS
from passes import METRICS, load_data, measure

# Images of shape (B, 3, H, W) to scores (B,) and maps (B, 1, H, W).
Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Load = Callable[[], Predict]

BASELINE = "PyTorch, single precision"
MEMORY_SECONDS = 600
UNTRAINED = "untrained"
# What stands in place of a checkpoint for a network that was not trained.
NOT_CHECKPOINTS = {UNTRAINED, *IMAGE_SIZES}
# A slow network has fewer rounds, at least so many.
TABLE_SECONDS, FEWEST_ROUNDS = 600, 2
COMPRESSIONS = {"INT8 weights": CompressionType.INT8, "INT8, calibrated": CompressionType.INT8_PTQ}
COLUMNS = {
    "images_per_second": "images/s",
    "ratio": "times PyTorch",
    "image_AUROC": "image AUROC",
    "pixel_AUPRO": "AUPRO",
    "image_AUROC_change": "change",
    "pixel_AUPRO_change": "change of AUPRO",
    "file_mib": "file, MiB",
    "peak_memory_mib": "peak, MiB",
}


def is_config(checkpoint: str) -> bool:
    """Return whether a config of anomalib's command line is meant."""
    return Path(checkpoint).suffix in {".yaml", ".yml"}


def is_trained(checkpoint: str) -> bool:
    """Return whether a checkpoint is meant; ``tiny`` is treated as one, so that all of the script is tried."""
    return checkpoint == "tiny" or not (checkpoint in NOT_CHECKPOINTS or is_config(checkpoint))


def from_config(name: str, path: Path, parameters: dict[str, Any]) -> AnomalibModule:
    """Make the model that a config describes, with other parameters; as the command line does."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
    config["init_args"] = {**config.get("init_args", {}), **parameters, "visualizer": False}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(getattr(anomalib.models, name), "model")
    return parser.instantiate_classes(parser.parse_object({"model": config})).model


def load_model(name: str, checkpoint: str, passes: int | None) -> AnomalibModule:
    """Read a checkpoint of any model, or make a network that was not trained."""
    parameters: dict[str, Any] = {} if passes is None else {"num_inference_steps": passes}
    model_class = getattr(anomalib.models, name)
    torch.manual_seed(0)
    if checkpoint in NOT_CHECKPOINTS:
        if checkpoint != UNTRAINED:
            side = IMAGE_SIZES[checkpoint]
            pre_processor = model_class.configure_pre_processor((side, side))
            parameters |= {**SUBJECTS[name].networks[checkpoint], "pre_processor": pre_processor}
        model = model_class(visualizer=False, **parameters)
    elif is_config(checkpoint):
        model = from_config(name, Path(checkpoint), parameters)
    else:
        model = model_class.load_from_checkpoint(checkpoint, map_location="cpu", **parameters)
    model.post_processor = None
    return model.eval()


def with_torch(name: str, checkpoint: str, passes: int | None, precision: str | None) -> Predict:
    """Predict with the model itself, in a precision if it is one of ours."""
    model = load_model(name, checkpoint, passes)
    if precision is not None:
        model.model.precision = precision  # type: ignore[union-attr,assignment]

    def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            result = model(torch.from_numpy(images))
        return result.pred_score.float().numpy(), result.anomaly_map.float().numpy()

    return predict


def with_onnxruntime(path: Path, threads: int) -> Predict:
    """Predict with ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options)

    def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        score, anomaly_map = session.run(["pred_score", "anomaly_map"], {session.get_inputs()[0].name: images})
        return score, anomaly_map

    return predict


def with_openvino(path: Path, precision: str, threads: int) -> Predict:
    """Predict with OpenVINO in single precision (``f32``) or in bfloat16 (``bf16``)."""
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(path, "CPU", settings)

    def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = compiled(images)
        return result["pred_score"], result["anomaly_map"]

    return predict


def export(model: AnomalibModule, data: AnomalibDataModule, folder: Path, threads: int) -> dict[str, tuple[Load, Path]]:
    """Export a model in every way; a way that fails is left out, with its reason in print.

    Returns:
        By the name of a format, what loads it and the folder of its files.
    """
    size = getattr(model, "input_size", None)
    loads: dict[str, tuple[Load, Path]] = {}
    path = model.to_onnx(folder / "onnx", input_size=size)
    loads["ONNX Runtime"] = (partial(with_onnxruntime, path, threads), path.parent)
    path = model.to_openvino(folder / "openvino", input_size=size)
    for label, precision in {"single precision": "f32", "bfloat16": "bf16"}.items():
        loads[f"OpenVINO, {label}"] = (partial(with_openvino, path, precision, threads), path.parent)
    for label, compression in COMPRESSIONS.items():
        try:
            # Our models resize by themselves.
            with resized(data, size):
                path = model.to_openvino(
                    folder / compression.value,
                    input_size=size,
                    compression_type=compression,
                    datamodule=data,
                )
        except (RuntimeError, ValueError) as error:
            print(f"OpenVINO, {label}: left out, {error}", flush=True)
            continue
        loads[f"OpenVINO, {label}"] = (partial(with_openvino, path, "f32", threads), path.parent)
    return loads


def loading(load: Load, images: np.ndarray) -> Callable[[], object]:
    """Return a call that loads a format and predicts: what a program that does nothing else needs."""
    return lambda: load()(images)


def compare_accuracy(
    ready: dict[str, Predict],
    batches: list[ImageBatch],
) -> dict[str, dict[str, float | None]]:
    """Compute the metrics of each format, and their differences from those of the first; ``None`` without images."""
    if not batches:
        return {name: dict.fromkeys([*METRICS, *(f"{metric}_change" for metric in METRICS)]) for name in ready}
    found = {name: accuracy(predict, batches) for name, predict in ready.items()}
    first = found[BASELINE]
    return {
        name: {**values, **{f"{metric}_change": values[metric] - first[metric] for metric in METRICS}}
        for name, values in found.items()
    }


def accuracy(predict: Predict, batches: list[ImageBatch]) -> dict[str, float]:
    """Compute image AUROC, pixel AUROC and AUPRO of all test images."""
    found = []
    for batch in batches:
        scores, maps = predict(batch.image.numpy())
        found.append((torch.from_numpy(np.atleast_1d(np.squeeze(scores))), torch.from_numpy(maps.copy())))
    # Of distances, as Patchcore's, which anomalib's AUROC would take for logits and cannot tell apart.
    largest = [max(1.0, *(part.max().item() for part in parts)) for parts in zip(*found, strict=True)]
    return measure(batches, [(scores / largest[0], maps / largest[1]) for scores, maps in found])


def compare(
    loads: dict[str, tuple[Load, Path | None]],
    ready: dict[str, Predict],
    accuracies: dict[str, dict[str, float | None]],
    images: np.ndarray,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Measure the formats of a model, of which the first is what ratios and changes refer to."""
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    began = perf_counter()
    for number in range(options.rounds + 1):
        if number > FEWEST_ROUNDS and perf_counter() - began > TABLE_SECONDS:
            break
        for name, predict in ready.items():
            start = perf_counter()
            predict(images)
            # The first round is what a backend does once.
            if number:
                seconds[name].append(perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows: list[dict[str, Any]] = []
    for name, (load, folder) in loads.items():
        row: dict[str, Any] = {"format": name, "batch": len(images), "rounds": len(seconds[name])}
        row |= {"images_per_second": len(images) / medians[name], "ratio": medians[BASELINE] / medians[name]}
        row |= accuracies[name]
        row["file_mib"] = None if folder is None else sum(f.stat().st_size for f in folder.iterdir()) / MIB
        row["peak_memory_mib"] = None
        if options.memory:
            prepare = partial(loading, load, images)
            row["peak_memory_mib"], reason = memory.peak_on_cpu(prepare, torch.get_num_threads(), MEMORY_SECONDS)
            if reason:
                print(f"The memory of {name} is left out: {reason}", flush=True)
        rows.append(row)
    return rows


def read_images(data: AnomalibDataModule, size: tuple[int, int]) -> list[ImageBatch]:
    """Read all test images at the size that the model takes, as exported models get them; masks of the same size."""
    batches = []
    for batch in data.test_dataloader():
        image = torch.nn.functional.interpolate(batch.image, size, mode="bilinear", antialias=True).clamp(0, 1)
        mask = torch.nn.functional.interpolate(batch.gt_mask[:, None].float(), size).bool()[:, 0]
        batches.append(ImageBatch(image=image, gt_label=batch.gt_label, gt_mask=mask))
    return batches


def main() -> None:
    """Export each checkpoint in every way, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="CLASS=CHECKPOINT",
        help="or CLASS=full, CLASS=CONFIG.yaml, CLASS=untrained",
    )
    parser.add_argument("--root", type=Path, help="folder in MVTec AD's layout; the demo surface by default")
    parser.add_argument("--category", default="brick")
    parser.add_argument("--passes", type=int, nargs="+", default=[], help="num_inference_steps, of models that have it")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="a process less for each row")
    parser.add_argument(
        "--no-exports",
        dest="exports",
        action="store_false",
        help="PyTorch alone: models beside each other",
    )
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    parser.add_argument("--name", default="exported", help="name of the result")
    parser.add_argument("--output", type=Path, default=record.ROOT / "results" / "bench")
    options = parser.parse_args()
    given = [text.partition("=")[::2] for text in options.models]
    if wrong := [name for name, _ in given if not hasattr(anomalib.models, name)]:
        parser.error(f"{wrong[0]!r} is no model of anomalib's. Write CLASS=CHECKPOINT, as TransFusion=model.ckpt.")
    if wrong := [name for name, checkpoint in given if checkpoint in IMAGE_SIZES and name not in SUBJECTS]:
        parser.error(f"{wrong[0]} has no sizes here. Write {wrong[0]}=CHECKPOINT, or {wrong[0]}=untrained.")
    if wrong := [file for _, file in given if file not in NOT_CHECKPOINTS and not Path(file).is_file()]:
        parser.error(
            f"There is no file {wrong[0]!r}; expected a checkpoint, a config, or one of {sorted(NOT_CHECKPOINTS)}.",
        )

    device = torch.device("cpu")
    path = record.result_path(options.output, f"{options.name}-{options.category}", device)
    rows: list[dict[str, Any]] = []
    result = {"benchmark": path.stem, "finished": False, **record.header(device), "rows": rows}
    threads = torch.get_num_threads()
    options.output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as temporary:
        options.batch, sizes = max(options.batch), options.batch
        data = load_data(options, Path(temporary) / "data")
        data.prepare_data()
        data.setup()
        for number, (name, checkpoint) in enumerate(given):
            has_passes = "num_inference_steps" in inspect.signature(getattr(anomalib.models, name)).parameters
            for passes in options.passes or [None] if has_passes else [None]:
                model = load_model(name, checkpoint, passes)
                height, width = model.pre_processor.transform(torch.zeros(1, 3, 64, 64)).shape[-2:]  # type: ignore[union-attr,operator,misc]
                batches = read_images(data, (height, width))
                own = hasattr(model.model, "precision")
                loads: dict[str, tuple[Load, Path | None]] = {
                    BASELINE: (partial(with_torch, name, checkpoint, passes, "single" if own else None), None),
                }
                if own:
                    loads["PyTorch, bfloat16"] = (partial(with_torch, name, checkpoint, passes, "bfloat16"), None)
                    loads["PyTorch, default"] = (partial(with_torch, name, checkpoint, passes, None), None)
                if options.exports:
                    loads |= export(model, data, Path(temporary) / f"{number}-{passes}", threads)
                ready = {kind: load() for kind, (load, _) in loads.items()}
                accuracies = compare_accuracy(ready, batches if is_trained(checkpoint) else [])
                images = torch.cat([part.image for part in batches])
                for batch in sizes:
                    label = {"model": name, "weights": Path(checkpoint).name, "trained": is_trained(checkpoint)}
                    label |= {"passes": passes, "pixels": [height, width]}
                    chosen = images[:batch].contiguous().numpy()
                    rows += [label | row for row in compare(loads, ready, accuracies, chosen, options)]
                    record.write(path, result)
        result["finished"] = True
        record.write(path, result)
    show(rows, f"{path.stem}, {record.device_name(device)}, {threads} threads", path)


def show(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Print the table."""
    lines = []
    for row in rows:
        passes = "" if row["passes"] is None else f", {row['passes']} passes"
        numbers = ["" if row[name] is None else f"{row[name]:.4g}" for name in COLUMNS]
        lines.append([f"{row['model']}={row['weights']}{passes}, batch {row['batch']}: {row['format']}", *numbers])
    record.show(title, ["", *COLUMNS.values()], lines, [f"Written to {path}"])


if __name__ == "__main__":
    main()
