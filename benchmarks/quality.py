# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Detection quality on real defects: TransFusion, and anomalib's Patchcore and Draem on the same images.

    python benchmarks/quality.py --root ../shared/datasets/MVTecAD --category magnetic_tile --minutes 80

Each model is trained with each seed, TransFusion and Draem for the same time, and measured for each kind of defect and
for all. The device is picked up by itself: on a GPU TransFusion is the paper's network, on a CPU a small one. The same
command again goes on where it was stopped: what is finished is kept, and a training continues from its checkpoint.
Several processes may share a result (``--models``, ``--seeds``).
"""

import argparse
import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, Draem, Patchcore
from anomalib.pre_processing import PreProcessor
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback, Timer
from timm.models import get_pretrained_cfg
from torchvision.transforms.v2 import Compose, Normalize, Resize

import record
from anomalib_transfusion import TransFusion
from defects import Found, measure, predict
from quality_page import draw_cases, write_page

RESULTS = record.ROOT / "results" / "quality"
BATCH = 8
IMAGE_SIZES = {"tiny": 32, "small": 256, "full": 256}
NETWORKS: dict[str, dict[str, Any]] = {
    "tiny": {"timesteps": 4, "base_channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1},
    "small": {"base_channels": 8, "num_blocks": 1, "attention_levels": (-1,)},
    "full": {},
}
# The paper's rate is for 1500 epochs; a training of minutes bears, and needs, a higher one.
RATES = {"tiny": 1e-3, "small": 1e-3, "full": 1e-4}
# The greedy choice of a tenth of the patches takes an hour on a CPU.
CORESETS = {"cuda": 0.1, "cpu": 0.01}
# Of the time of a seed: TransFusion and Draem are trained for this share each, the rest is for testing and Patchcore.
TRAINING_SHARE = 0.36
CHECKPOINT_EVERY = timedelta(minutes=2)


@dataclass(frozen=True)
class Model:
    """A model that takes part.

    Attributes:
        build: Makes it.
        timed: Whether it is trained for a given time, or as long as it takes.
    """

    build: Callable[[argparse.Namespace], AnomalibModule]
    timed: bool


def _transfusion(options: argparse.Namespace) -> TransFusion:
    return TransFusion(
        pre_processor=TransFusion.configure_pre_processor(_side(options)),
        visualizer=False,
        dtd_dir=options.textures,
        **{"learning_rate": RATES[options.size], **NETWORKS[options.size], **options.set},
    )


def _draem(options: argparse.Namespace) -> Draem:
    return Draem(
        dtd_dir=options.textures,
        pre_processor=Draem.configure_pre_processor(_side(options)),
        visualizer=False,
    )


def _patchcore(options: argparse.Namespace) -> Patchcore:
    return Patchcore(
        backbone=options.backbone,
        pre_trained=options.pretrained,
        layers=options.layers,
        coreset_sampling_ratio=CORESETS[options.device],
        pre_processor=PreProcessor(Compose([Resize(_side(options), antialias=True), _normalize(options.backbone)])),
        visualizer=False,
    )


def _normalize(backbone: str) -> Normalize:
    """Return what a backbone's weights expect; anomalib's Patchcore takes ImageNet's mean and deviation for all."""
    expected = get_pretrained_cfg(backbone)
    return Normalize(expected.mean, expected.std)


MODELS = {
    "TransFusion": Model(_transfusion, timed=True),
    "Patchcore": Model(_patchcore, timed=False),
    "Draem": Model(_draem, timed=True),
}


def _side(options: argparse.Namespace) -> tuple[int, int]:
    side = options.image_size or IMAGE_SIZES[options.size]
    return side, side


def make_data(options: argparse.Namespace) -> MVTecAD:
    """Return the data: one category in MVTec AD's layout."""
    return MVTecAD(
        root=options.root,
        category=options.category,
        train_batch_size=BATCH,
        eval_batch_size=options.eval_batch,
        num_workers=options.workers,
        seed=0,
    )


def make_engine(options: argparse.Namespace, folder: Path, callbacks: list[Callback], **trainer: Any) -> Engine:  # noqa: ANN401
    """Return an engine that trains and says nothing."""
    return Engine(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        logger=False,
        default_root_dir=folder,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        # Thresholds are not needed, and validation would take part of the time.
        limit_val_batches=0,
        **trainer,
    )


def train(
    name: str,
    model: AnomalibModule,
    options: argparse.Namespace,
    minutes: float,
    folder: Path,
) -> dict[str, Any]:
    """Train a model, from the checkpoint in the folder where there is one.

    Returns:
        Seconds, epochs and steps of the training.
    """
    trainer: dict[str, Any] = {}
    callbacks: list[Callback] = []
    last = folder / "last.ckpt"
    timer = Timer(timedelta(minutes=minutes))
    if MODELS[name].timed:
        saver = ModelCheckpoint(folder, save_last=True, save_top_k=0, train_time_interval=CHECKPOINT_EVERY)
        callbacks += [timer, saver]
        trainer = {"max_epochs": -1, "gradient_clip_val": 1.0}
    else:
        callbacks.append(ModelCheckpoint(folder, save_top_k=0))
    engine = make_engine(options, folder, callbacks, **trainer)
    start = perf_counter()
    resumed = MODELS[name].timed and last.exists()
    engine.fit(model, datamodule=make_data(options), ckpt_path=last if resumed else None)
    # The network that is measured; the one above may be two minutes younger.
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    seconds = timer.time_elapsed("train") if MODELS[name].timed else perf_counter() - start
    return {"training_seconds": seconds, "epochs": engine.trainer.current_epoch, "steps": engine.trainer.global_step}


def run_row(name: str, seed: int, options: argparse.Namespace, minutes: float) -> tuple[dict[str, Any], Found]:
    """Train and measure a model with a seed."""
    seed_everything(seed, workers=True)
    folder = options.work / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    model = MODELS[name].build(options)
    row = train(name, model, options, minutes, folder)
    device = torch.device(options.device)
    found = predict(model, make_data(options), device)
    row |= {"images_per_second": found.images_per_second, "metrics": measure(found)}
    row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return row, found


def main() -> None:
    """Run every model with every seed that the time allows, and write the page."""
    options = parse_options()
    start = perf_counter()
    device = torch.device(options.device)
    name = f"{options.category}-{options.size}" + (f"-{options.name}" if options.name else "")
    path = record.result_path(options.output, name, device)
    options.work = options.work or options.output / "work" / path.stem
    result = record.read(path) or {"benchmark": "quality", **record.header(device), "rows": []}
    result["settings"] = {
        "minutes": options.minutes,
        "image_size": _side(options)[0],
        "batch": BATCH,
        "transfusion": {"learning_rate": RATES[options.size], **NETWORKS[options.size], **options.set},
        "patchcore": {
            "backbone": options.backbone,
            "pretrained": options.pretrained,
            "coreset_sampling_ratio": CORESETS[options.device],
        },
    }
    done = {(row["model"], row["seed"]) for row in result["rows"] if row["status"] == "done"}
    minutes = options.minutes / len(options.seeds) * TRAINING_SHARE
    for seed in options.seeds:
        for model in options.models:
            if (model, seed) in done:
                continue
            if perf_counter() - start > 60 * options.minutes:
                print(f"{model} with seed {seed} is left out: no time was left.", flush=True)
                continue
            row = {"model": model, "seed": seed, "status": "failed", "error": None, **record.header(device)}
            try:
                measured, found = run_row(model, seed, options, minutes)
                row |= {"status": "done", **measured}
                row["pictures"] = draw_cases(found, path.with_name(f"{path.stem}-{model.lower()}-{seed}.jpg")).name
                print(f"{model}, seed {seed}: {measured['metrics']['all']}", flush=True)
            except Exception as error:  # noqa: BLE001
                traceback.print_exc()
                row["error"] = f"{type(error).__name__}: {error}"
            # Another process may have added rows in the meantime.
            known = (record.read(path) or result)["rows"]
            rows = [row, *(other for other in known if (other["model"], other["seed"]) != (model, seed))]
            result["rows"] = sorted(rows, key=lambda row: (list(MODELS).index(row["model"]), row["seed"]))
            record.write(path, result)
            write_page(result, path.with_suffix(".md"))
            gc.collect()
    print(f"Written to {path.with_suffix('.md')}")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder in MVTec AD's layout")
    parser.add_argument("--category", default="magnetic_tile")
    parser.add_argument("--textures", type=Path, required=True, help="folder of texture photographs")
    parser.add_argument("--minutes", type=float, default=80.0, help="time for everything")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=tuple(NETWORKS), help="of TransFusion; full on a GPU, small on a CPU")
    parser.add_argument("--image-size", type=int)
    parser.add_argument(
        "--set",
        type=parse_parameter,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of TransFusion",
    )
    parser.add_argument("--name", default="", help="added to the name of the result, for one that differs by --set")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="of Patchcore, from timm")
    parser.add_argument("--layers", nargs="+", default=["blocks.2", "blocks.4"])
    parser.add_argument(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether Patchcore's backbone is; without, it needs no download and means nothing",
    )
    parser.add_argument("--eval-batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, help="folder of the checkpoints; work in the output by default")
    options = parser.parse_args()
    options.size = pick_size(options)
    options.set = dict(options.set)
    return options


def pick_size(options: argparse.Namespace) -> str:
    """Return the size of the network: the user's, else what the device bears."""
    return options.size or ("full" if options.device == "cuda" else "small")


def parse_parameter(text: str) -> tuple[str, Any]:
    """Read a parameter as YAML does, which is how anomalib's command line reads it."""
    import yaml

    name, value = text.split("=", 1)
    return name, yaml.safe_load(value)


if __name__ == "__main__":
    main()
