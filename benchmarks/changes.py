# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""One change at a time, and what each does to the detection quality.

    python benchmarks/changes.py                                              # the demo surface
    python benchmarks/changes.py --root datasets/MVTecAD --category magnetic_tile --textures datasets/dtd

Every row of the first table is a training that differs from the base by one thing and nothing else: the same images and
number of steps, and the same seeds (``--seeds``), so that the differences are taken within a seed. The second table is
about the anomaly map, made of the base's weights in other ways. Finished trainings are kept: the same command again
goes on, more seeds are added to the rows, and several processes may share them (``--only``).
"""

import argparse
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.data import AnomalibDataModule
from anomalib.pre_processing import PreProcessor
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torchvision.transforms.v2 import CenterCrop, Compose, Resize

import record
from anomalib_transfusion import DemoSurface, TransFusion
from anomalib_transfusion.files import written_whole
from anomalib_transfusion.models.transfusion.torch_model import ReverseProcess, TransFusionModel
from defects import ALL, Found, measure, predict
from quality import IMAGE_SIZES, NETWORKS, RATES, RESULTS, make_data, make_engine, parse_parameter, pick_size
from quality_page import METRICS

# Metrics in [0, 1] by row, seed, kind of defect and name.
Table = dict[str, dict[int, dict[str, dict[str, float]]]]

BASE = "base"
MAP = "the base's map"
TINY_SURFACE = {"image_size": 64, "num_train_images": 8, "num_test_images": 4, "num_defect_images": 3}
# The paper's crop leaves 224 of 256 pixels.
CROP = 224 / 256
# The paper's, and what is tried against them.
WEIGHTS = (0.0, 0.5, 0.9, 0.99, 1.0)
FILTERS = (1, 3, 5, 11, 15, 21, 31)


@dataclass(frozen=True)
class Change:
    """What differs from the base.

    Attributes:
        parameters: Of TransFusion.
        steps: Factor of the number of training steps.
        crop: Whether images are cropped as in the paper.
        callbacks: Makes further callbacks of the training.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    steps: float = 1.0
    crop: bool = False
    callbacks: Callable[[], list[Callback]] = list


CHANGES = {
    BASE: Change(),
    "half the steps": Change(steps=0.5),
    "twice the steps": Change(steps=2.0),
    "averaged weights (EMA, 0.99)": Change(callbacks=lambda: [EMAWeightAveraging(decay=0.99)]),
    "crop of 7/8": Change(crop=True),
    "no large synthetic anomalies (min_perlin_scale 3)": Change({"min_perlin_scale": 3}),
    "gray anomalies (grayscale_anomalies)": Change({"grayscale_anomalies": True}),
    "texture anomalies only (structure_share 0)": Change({"structure_share": 0.0}),
    "structure anomalies only (structure_share 1)": Change({"structure_share": 1.0}),
    "estimated foreground": Change({"foreground": "estimate"}),
    "no rotation": Change({"rotation_probability": 0.0}),
    "quadratic schedule": Change({"schedule": "quadratic"}),
    "root schedule": Change({"schedule": "root"}),
    "focal loss as heavy as the others (focal_weight 1)": Change({"focal_weight": 1.0}),
    "twice the channels": Change({"base_channels": 16}),
    # To be set against a base with --set precision=single.
    "in bfloat16 (precision)": Change({"precision": "bfloat16"}),
}


def load_data(options: argparse.Namespace) -> AnomalibDataModule:
    """Return the images: a folder in MVTec AD's layout, or the demo surface."""
    if options.root is not None:
        return make_data(options)
    return DemoSurface(
        category=options.category,
        num_workers=options.workers,
        eval_batch_size=options.eval_batch,
        seed=0,
        **(TINY_SURFACE if options.size == "tiny" else {}),
    )


def build(change: Change, options: argparse.Namespace) -> TransFusion:
    """Make the model of a row."""
    side = options.image_size
    pre_processor = TransFusion.configure_pre_processor((side, side))
    if change.crop:
        whole = round(side / CROP)
        pre_processor = PreProcessor(Compose([Resize((whole, whole), antialias=True), CenterCrop((side, side))]))
    textures = {"dtd_dir": options.textures} if options.textures else {"texture_source": "photographs"}
    parameters = {"learning_rate": RATES[options.size], "num_inference_steps": options.passes, **NETWORKS[options.size]}
    return TransFusion(
        pre_processor=pre_processor,
        visualizer=False,
        **{**parameters, **textures, **options.set, **change.parameters},
    )


def run_row(change: Change, seed: int, options: argparse.Namespace, folder: Path) -> tuple[TransFusion, dict[str, Any]]:
    """Train and measure the model of a row with a seed.

    Returns:
        The trained model and what the table says of it.
    """
    seed_everything(seed, workers=True)
    model = build(change, options)
    steps = max(1, round(options.steps * change.steps))
    engine = make_engine(
        options,
        folder,
        [ModelCheckpoint(folder, save_top_k=0), *change.callbacks()],
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
    )
    engine.fit(model, datamodule=load_data(options))
    found = predict(model, load_data(options), torch.device(options.device))
    return model, {"steps": steps, "metrics": measure(found)}


def other_maps(model: TransFusion, options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Measure anomaly maps that are made of the same weights in other ways: lambda, filter, last mask."""
    network = model.model
    weight, side = network.discriminative_weight, network.filter_size
    results = {}
    masks = find_masks(model, options, "mean")
    for other in WEIGHTS:
        results[f"lambda {other:g}"] = make_maps(network, masks, other, side)
    for other in FILTERS:
        results[f"mean filter of {other} px"] = make_maps(network, masks, weight, other)
    results["last mask, no reconstruction error"] = make_maps(network, find_masks(model, options, "last"), 1.0, side)
    return {name: measure(found) for name, found in results.items()}


def main() -> None:
    """Run the trainings that are not there yet, and write the page."""
    options = parse_options()
    device = torch.device(options.device)
    path = record.result_path(options.output, f"changes-{options.category}", device)
    work = options.output / "work" / path.stem
    work.mkdir(parents=True, exist_ok=True)
    for seed, (number, (name, change)) in product(options.seeds, enumerate(CHANGES.items())):
        row = work / f"{number:02d}-{seed}.json"
        if row.exists() or (options.only and name not in options.only):
            continue
        print(f"{name}, seed {seed} ...", flush=True)
        folder = work / row.stem
        model, measured = run_row(change, seed, options, folder)
        if name == BASE:
            measured["maps"] = other_maps(model, options)
        shutil.rmtree(folder, ignore_errors=True)
        record.write(row, {"name": name, "seed": seed, **record.header(device), **measured})
        print(f"{name}, seed {seed}: {measured['metrics'][ALL]}", flush=True)
    rows = [known for known in map(record.read, sorted(work.glob("*.json"))) if known]
    result = {"benchmark": "changes", **record.header(device), "settings": _settings(options), "rows": rows}
    record.write(path, result)
    write_page(result, path.with_suffix(".md"))
    print(f"Written to {path.with_suffix('.md')}")


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the tables as a page."""
    rows: Table = {}
    maps: Table = {}
    for row in result["rows"]:
        rows.setdefault(row["name"], {})[row["seed"]] = row["metrics"]
        for name, metrics in {MAP: row["metrics"], **row["maps"]}.items() if "maps" in row else ():
            maps.setdefault(name, {})[row["seed"]] = metrics
    lines = [
        f"# One change at a time: {result['settings']['category']}",
        "",
        f"On {result['device']['name']}; {record.versions_of(result)}. {result['settings']}",
        "",
        f"    {result['command']}",
        "",
        "The command is that of the last training; those of the others are in the JSON file. Means over the seeds in",
        "%; in brackets the difference from the base with the same seeds, in points: its mean and its range.",
        "",
        "## Trainings",
        "",
        _table(rows, BASE),
        "",
    ]
    if maps:
        lines += ["## The map of the base's weights", "", _table(maps, MAP), ""]
    with written_whole(path) as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")


@contextmanager
def _changed(network: TransFusionModel, **attributes: Any) -> Iterator[None]:  # noqa: ANN401
    """Change attributes of a network for a while."""
    before = {name: getattr(network, name) for name in attributes}
    for name, value in attributes.items():
        setattr(network, name, value)
    yield
    for name, value in before.items():
        setattr(network, name, value)


def find_masks(model: TransFusion, options: argparse.Namespace, aggregation: str) -> Found:
    """Run the reverse process with maps that are the masks themselves: no reconstruction error, no filter."""
    with _changed(model.model, discriminative_weight=1.0, filter_size=1, mask_aggregation=aggregation):
        return predict(model, load_data(options), torch.device(options.device))


def make_maps(network: TransFusionModel, masks: Found, weight: float, side: int) -> Found:
    """Make the maps of masks and reconstructions with a weight lambda and a side of the mean filter."""
    assert masks.reconstructions is not None
    process = ReverseProcess(masks.maps[:, None], 2 * masks.reconstructions - 1)
    with _changed(network, discriminative_weight=weight, filter_size=side):
        maps = network.final_map(masks.images, process)[:, 0]
    return masks._replace(maps=maps, scores=maps.amax(dim=(1, 2)))


def _table(rows: Table, base: str) -> str:
    """Make a table: metrics of all defects with their differences, then the image AUROC of each kind."""
    lines = []
    for name, by_seed in rows.items():
        line = {"": name, "seeds": str(len(by_seed))}
        # Of the seeds that the base has too; other seeds are other trainings, and their differences chance.
        pairs = [(by_seed[seed], rows[base][seed]) for seed in by_seed if name != base and seed in rows.get(base, {})]
        for metric, title in METRICS.items():
            line[title] = f"{100 * np.mean([metrics[ALL][metric] for metrics in by_seed.values()]):.1f}"
            points = [100 * (metrics[ALL][metric] - of_base[ALL][metric]) for metrics, of_base in pairs]
            if points:
                span = f"; {min(points):+.1f} to {max(points):+.1f}" if len(points) > 1 else ""
                line[title] += f" ({np.mean(points):+.1f}{span})"
        for kind in next(iter(by_seed.values())):
            if kind != ALL:
                line[kind] = f"{100 * np.mean([metrics[kind]['image_AUROC'] for metrics in by_seed.values()]):.1f}"
        lines.append(line)
    return str(pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all rows share."""
    shared = ("category", "size", "image_size", "steps", "passes")
    return {name: getattr(options, name) for name in shared} | {"parameters": options.set}


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder in MVTec AD's layout; the demo surface by default")
    parser.add_argument("--category", default="brick")
    parser.add_argument("--textures", type=Path, help="folder of texture photographs; scikit-image's by default")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the base")
    parser.add_argument("--passes", type=int, default=5, help="num_inference_steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=tuple(CHANGES), nargs="+", metavar="NAME", help="rows to run; all by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=tuple(NETWORKS), help="of the network; full on a GPU, small on a CPU")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--set", type=parse_parameter, nargs="+", default=[], metavar="NAME=VALUE", help="of all rows")
    parser.add_argument("--eval-batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.size = pick_size(options)
    options.image_size = options.image_size or IMAGE_SIZES[options.size]
    options.set = dict(options.set)
    return options


if __name__ == "__main__":
    main()
