# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Time to predict the anomaly map of an image: our model, its variants, the plain path and other models of anomalib.

    python benchmarks/inference.py --size small --batch 1 8
    python benchmarks/inference.py --size full --scaling    # on a GPU: larger and larger batches

Times are for an image. The plain path takes one image at a time, whatever the batch. The other models have weights
drawn at random, since nothing is downloaded; their speed does not depend on them.
"""

import argparse
import gc
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

import memory
import record
from contenders import INFERENCE, make_setting, write_textures
from measure import Comparison, Contender, name_of, options_parser

BATCHES = {("tiny", "cpu"): [2], ("small", "cpu"): [1, 8], ("full", "cpu"): [1]}
BATCHES_ON_GPU = [32, 1]
SCALING = ("default", "bf16, channels last")
LARGEST_BATCH = 4096
NUMBERS = ("units_per_second", "peak_memory_mib")


def scale(options: argparse.Namespace, textures: Path) -> None:
    """Double the batch until the memory ends, and write what each batch took."""
    device = torch.device(options.device)
    path = record.result_path(options.output, name_of(options, f"inference-scaling-{options.size}"), device)
    points: list[dict[str, Any]] = []
    result = {"benchmark": path.stem, "finished": False, **record.header(device), "points": points}
    record.write(path, result)
    start = perf_counter()
    for contender in (contender for contender in INFERENCE if contender.name in SCALING):
        batch = 1
        while batch <= options.largest_batch and perf_counter() - start <= 60 * options.minutes:
            points.append(_point(contender, options, textures, batch))
            record.write(path, result)
            if points[-1]["status"] != "measured":
                break
            batch *= 2
    result["finished"] = True
    record.write(path, result)
    columns = ["contender", "batch", "images/s", "peak MiB", ""]
    rows = []
    for point in points:
        numbers = [f"{point[name]:.4g}" if name in point else "" for name in NUMBERS]
        rows.append([point["name"], str(point["batch"]), *numbers, point["reason"]])
    record.show(f"{result['benchmark']}, {record.device_name(device)}", columns, rows, [f"Written to {path}"])


def _point(contender: Contender, options: argparse.Namespace, textures: Path, batch: int) -> dict[str, Any]:
    """Measure a batch size with the second of two calls."""
    point: dict[str, Any] = {"name": contender.name, "batch": batch, "status": "left out", "reason": ""}
    built = None
    try:
        built = contender.build(make_setting(options, batch, textures))
        built.call()
        if options.device == "cuda":
            point["peak_memory_mib"] = memory.peak_on_gpu(built.call)
        start = perf_counter()
        built.call()
        if options.device == "cuda":
            torch.cuda.synchronize()
        point["units_per_second"] = built.units / (perf_counter() - start)
        point["status"] = "measured"
    except RuntimeError as error:
        # Out of memory is a RuntimeError on all devices.
        point["reason"] = str(error).splitlines()[0]
    del built
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
    return point


def main() -> None:
    """Measure and write."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--batch", type=int, nargs="+", help="images in a batch, one comparison each")
    parser.add_argument("--scaling", action="store_true", help="larger and larger batches, and nothing else")
    parser.add_argument("--largest-batch", type=int, default=LARGEST_BATCH, help="where --scaling ends")
    options = parser.parse_args()
    batches = options.batch or BATCHES.get((options.size, options.device), BATCHES_ON_GPU)
    with TemporaryDirectory() as folder:
        textures = Path(folder)
        write_textures(textures)
        if options.scaling:
            scale(options, textures)
            return
        options.minutes /= len(batches)
        for batch in batches:
            setting = make_setting(options, batch, textures)
            name = f"inference-{options.size}-batch{batch}"
            Comparison(name, "INFERENCE", INFERENCE, "plain path", "image", setting, options).run()


if __name__ == "__main__":
    main()
