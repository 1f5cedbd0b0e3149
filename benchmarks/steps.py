# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy of the masks of single steps of the reverse process, and of ways to weight the masks of several steps.

    python benchmarks/steps.py --checkpoint model.ckpt                                        # demo surface
    python benchmarks/steps.py --checkpoint model.ckpt --root datasets/MVTecAD --category bottle

All steps are run once, and their masks kept. Every row of the table is another weighting of these masks, smoothed by
the model's mean filter, so that the rows differ only in the weights of the steps.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from anomalib.data import ImageBatch
from torch.nn import functional as F  # noqa: N812

import record
from anomalib_transfusion import TransFusion
from anomalib_transfusion.benchmark.environment import device_name
from passes import METRICS, load_data, load_model, measure, read_batches, trained_parser


def collect(model: TransFusion, batches: list[ImageBatch], device: torch.device) -> list[torch.Tensor]:
    """Return the masks of all steps for each batch, ``(steps, B, 1, H, W)``, filtered as the model filters its map."""
    side = model.model.filter_size
    masks = []
    for batch in batches:
        steps: list[Any] = []
        model.model.reverse_process(batch.image.to(device), callback=steps.append)
        # Filtering is linear, so filtered masks can be weighted.
        masks.append(torch.stack([F.avg_pool2d(step.mask, side, 1, side // 2).half().cpu() for step in steps]))
    return masks


def weightings(beta: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return named weights of the steps, given their transparencies beta, ``(steps,)``; each sums to 1."""
    count = len(beta)
    ways = {"mean of all": torch.ones(count), "weight beta_t": beta, "weight 1 - beta_t": 1 - beta}
    for number in (n for n in (1, 2, 3, 5, 10) if n < count):
        ways[f"mean of the first {number}"] = (torch.arange(count) < number).float()
        ways[f"mean of the last {number}"] = (torch.arange(count) >= count - number).float()
    for place in sorted({count // 4, count // 2, 3 * count // 4} - {0, count - 1}):
        ways[f"step {place + 1} alone"] = F.one_hot(torch.tensor(place), count).float()
    return {name: weights / weights.sum() for name, weights in ways.items() if weights.sum() > 0}


def evaluate(masks: list[torch.Tensor], batches: list[ImageBatch], weights: torch.Tensor) -> dict[str, float]:
    """Compute the metrics of maps that are weighted means of masks."""
    maps = [torch.einsum("s,sbchw->bchw", weights, steps.float()) for steps in masks]
    return measure(batches, [(anomaly_map.amax(dim=(1, 2, 3)), anomaly_map) for anomaly_map in maps])


def main() -> None:
    """Run the steps, evaluate all weightings, and write the results."""
    options = trained_parser(__doc__, record.RESULTS).parse_args()
    device = torch.device(options.device)
    model = load_model(options)
    network = model.model
    network.inference_timesteps = list(range(network.timesteps - 1, 0, -1))
    with TemporaryDirectory() as folder:
        batches = read_batches(model, load_data(options, Path(folder)))
    model.to(device)
    masks = collect(model, batches, device)
    ways = weightings(network.beta.cpu()[network.inference_timesteps])
    rows: list[dict[str, Any]] = []
    path = record.result_path(options.output, f"steps-{options.category}", device)
    result = {"benchmark": "steps", "finished": False, **record.header(device)}
    result |= {"checkpoint": str(options.checkpoint), "timesteps": network.inference_timesteps, "rows": rows}
    for name, weights in ways.items():
        rows.append({"name": name, "weights": weights.tolist(), **evaluate(masks, batches, weights)})
        record.write(path, result)
    result["finished"] = True
    record.write(path, result)
    shown = [[row["name"], *(f"{row[name]:.4f}" for name in METRICS)] for row in rows]
    title = f"{options.category}, masks of {len(network.inference_timesteps)} steps, {device_name(device)}"
    record.show(title, ["map", *METRICS.values()], shown, [f"Written to {path}"])


if __name__ == "__main__":
    main()
