# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy and time with fewer network passes: AUROC and AUPRO of ``num_inference_steps`` 20 to 1.

    python benchmarks/passes.py --checkpoint model.ckpt                                        # demo surface
    python benchmarks/passes.py --checkpoint model.ckpt --root datasets/MVTecAD --category bottle
    python benchmarks/passes.py --checkpoint model.ckpt --steps 1 --start 19 15 10 5 2 1 --name single  # one pass
    python benchmarks/passes.py --checkpoint model.ckpt --steps 5 3 2 --aggregation last --name last    # the last mask

The scores are the model's own, before the post-processor clips them with limits that were found with other passes.
``--size tiny`` tries the script on a network that was not trained.
"""

import argparse
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, get_args

import torch
from anomalib.data import AnomalibDataModule, ImageBatch, MVTec
from anomalib.models import AnomalibModule
from matplotlib.figure import Figure

import record
from anomalib_transfusion import DemoSurface, TransFusion
from anomalib_transfusion.benchmark import metrics
from anomalib_transfusion.benchmark.environment import device_name, synchronize
from anomalib_transfusion.benchmark.measure import images_per_second
from anomalib_transfusion.benchmark.plots import COLORS, DPI
from anomalib_transfusion.models.transfusion.torch_model import MaskAggregation
from anomalib_transfusion.models.transfusion.transparency import inference_timesteps
from anomalib_transfusion.networks.acceleration import Precision
from contenders import SUBJECTS

PRECISIONS: dict[str, Precision] = {"fp32": "single", "bf16": "bfloat16"}
STEPS = (20, 10, 5, 3, 2, 1)
# Largest number of timesteps in a label.
LISTED = 3
METRICS = {name: metrics.METRICS[name] for name in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")}
TINY_SURFACE = {"image_size": 64, "num_train_images": 2, "num_test_images": 4, "num_defect_images": 1}


def trained_parser(description: str | None, output: Path) -> argparse.ArgumentParser:
    """Return a parser with the options of a script that looks at a trained model."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--root", type=Path, help="folder in MVTec AD's layout; the demo surface by default")
    parser.add_argument("--category", default="brick")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=output)
    return parser


def load_model(
    options: argparse.Namespace,
    model_class: Any = TransFusion,  # noqa: ANN401
    tiny: dict[str, Any] | None = None,
) -> Any:  # noqa: ANN401
    """Read the checkpoint; without one, ``--size tiny`` stands for a network that was not trained.

    Args:
        options: Options of :func:`trained_parser`.
        model_class: Class of the model.
        tiny: Parameters of its smallest network; ``None`` for those of the speed benchmarks.
    """
    if options.checkpoint is not None:
        return model_class.load_from_checkpoint(options.checkpoint, map_location="cpu").eval()
    if options.size != "tiny":
        msg = "--checkpoint is needed: an untrained network says nothing. --size tiny tries the script."
        raise SystemExit(msg)
    torch.manual_seed(0)
    network = SUBJECTS[model_class.__name__].networks["tiny"] if tiny is None else tiny
    pre_processor = model_class.configure_pre_processor((64, 64))
    return model_class(pre_processor=pre_processor, visualizer=False, **network).eval()


def load_data(options: argparse.Namespace, folder: Path) -> AnomalibDataModule:
    """Return the test images: a folder in MVTec AD's layout, or the demo surface."""
    common: dict[str, Any] = {"category": options.category, "num_workers": 0, "eval_batch_size": options.batch}
    if options.root is not None:
        return MVTec(root=options.root, **common)
    return DemoSurface(root=folder, **common, **(TINY_SURFACE if options.size == "tiny" else {}))


def read_batches(model: AnomalibModule, data: AnomalibDataModule) -> list[ImageBatch]:
    """Read all test images once, as the model's pre-processor gives them."""
    data.prepare_data()
    data.setup()
    batches = []
    for batch in data.test_dataloader():
        model.pre_processor.on_test_batch_start(None, model, batch, 0)  # type: ignore[union-attr,arg-type]
        batches.append(batch)
    return batches


def measure(batches: list[ImageBatch], found: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """Compute the metrics of the scores ``(B,)`` and maps ``(B, 1, H, W)`` that were found for each batch."""
    computed = {metric.name: metric.cpu() for metric in TransFusion.configure_evaluator().test_metrics}  # type: ignore[union-attr]
    for batch, (scores, maps) in zip(batches, found, strict=True):
        result = ImageBatch(
            image=batch.image,
            gt_label=batch.gt_label,
            gt_mask=batch.gt_mask,
            pred_score=scores,
            anomaly_map=maps,
        )
        for name in METRICS:
            computed[name].update(result)
    return {name: float(computed[name].compute()) for name in METRICS}


def evaluate(
    model: TransFusion,
    batches: list[ImageBatch],
    steps: int,
    first: int | None,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Run the reverse process with some number of passes, the first at some timestep, on all images.

    Returns:
        The timesteps, the metrics and the images per second.
    """
    network = model.model
    network.inference_timesteps = inference_timesteps(network.timesteps, steps, first)
    device = torch.device(options.device)
    timed, found = [], []
    network.precision = PRECISIONS[options.precision]
    with torch.no_grad():
        # The first batch twice: what a backend does once is not counted.
        for batch in (batches[0], *batches):
            given = batch.image.to(device)
            synchronize(device)
            start = perf_counter()
            predictions, _ = network.predict(given)
            synchronize(device)
            timed.append((len(batch.image), perf_counter() - start))
            found.append((predictions.pred_score.float().cpu(), predictions.anomaly_map.float().cpu()))
    return {
        "num_inference_steps": steps,
        "timesteps": network.inference_timesteps,
        "passes": len(network.inference_timesteps),
        **measure(batches, found[1:]),
        "images": sum(len(batch.image) for batch in batches),
        "images_per_second": images_per_second(timed),
    }


def named(options: argparse.Namespace) -> str:
    """Return the name of the axis: what the points differ by."""
    return "network passes" if len(options.start) == 1 else "first timestep, or timesteps"


def label(point: dict[str, Any], options: argparse.Namespace) -> str:
    """Name a point."""
    if len(options.start) == 1:
        return str(point["passes"])
    return ", ".join(map(str, point["timesteps"])) if point["passes"] <= LISTED else f"{point['timesteps'][0]}, ..."


def draw(points: list[dict[str, Any]], title: str, path: Path, labels: list[str], what: str) -> None:
    """Draw the metrics and the images per second of the points."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    places = range(len(points))
    for (name, label), color, marker in zip(METRICS.items(), COLORS, "osD", strict=False):
        values = [100 * point[name] for point in points]
        above.plot(places, values, marker=marker, color=color, label=label, clip_on=False)
    above.set_ylabel("%")
    above.set_title(title)
    above.legend(frameon=False)
    below.bar(places, [point["images_per_second"] for point in points], width=0.5, color="#BBBBBB")
    for place, point in enumerate(points):
        number = f"{point['images_per_second']:.3g}"
        below.annotate(number, (place, point["images_per_second"]), (0, 2), textcoords="offset points", ha="center")
    below.margins(y=0.2)
    below.set_ylabel("images per second")
    below.set_xticks(places, labels)
    below.set_xlabel(what)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    figure.savefig(path, dpi=DPI)


def main() -> None:
    """Measure, write and draw."""
    parser = trained_parser(__doc__, record.RESULTS)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="values of num_inference_steps")
    parser.add_argument("--start", type=int, nargs="+", default=[None], help="first timestep; the paper's by default")
    parser.add_argument("--aggregation", choices=get_args(MaskAggregation), help="of the masks; the model's by default")
    parser.add_argument("--name", default="", help="added to the name of the result")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no number of passes is begun after it")
    options = parser.parse_args()
    begin, device = perf_counter(), torch.device(options.device)
    model = load_model(options)
    with TemporaryDirectory() as folder:
        batches = read_batches(model, load_data(options, Path(folder)))
    model.to(device)
    model.model.mask_aggregation = options.aggregation or model.model.mask_aggregation
    name = (
        f"passes-{options.category}"
        + (f"-{options.name}" if options.name else "")
        + ("" if options.precision == "fp32" else f"-{options.precision}")
    )
    path = record.result_path(options.output, name, device)
    points: list[dict[str, Any]] = []
    result = {"benchmark": name, "finished": False, **record.header(device), "precision": options.precision}
    result |= {"mask_aggregation": model.model.mask_aggregation}
    result |= {"checkpoint": str(options.checkpoint), "points": points}
    record.write(path, result)
    for steps, first in product(options.steps, options.start):
        if steps > model.model.timesteps or (points and perf_counter() - begin > 60 * options.minutes):
            print(f"num_inference_steps={steps} is left out: too many for the model, or no time was left.")
            continue
        points.append(evaluate(model, batches, steps, first, options))
        record.write(path, result)
    if not points:
        msg = f"--steps {options.steps}: none is possible with {model.model.timesteps} timesteps; pass smaller ones."
        raise SystemExit(msg)
    result["finished"] = True
    record.write(path, result)
    rows = [
        [label(point, options), *(f"{point[name]:.4f}" for name in METRICS), f"{point['images_per_second']:.3g}"]
        for point in points
    ]
    title = f"{options.category}, {options.precision}, {device_name(device)}"
    record.show(title, [named(options), *METRICS.values(), "images/s"], rows, [f"Written to {path}"])
    draw(points, title, path.with_suffix(".png"), [label(point, options) for point in points], named(options))


if __name__ == "__main__":
    main()
