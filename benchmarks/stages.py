# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Profile of a training step and of inference by PyTorch's operations.

    python benchmarks/stages.py --size full

Times are those of the operations themselves, without the operations that they call; on a GPU those of its kernels.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

import record
from contenders import INFERENCE, TRAINING, make_setting, write_textures
from measure import name_of, options_parser

if TYPE_CHECKING:
    from collections.abc import Callable

    from measure import Contender

STAGES = {"training step": TRAINING, "inference": INFERENCE}
BATCHES = {("tiny", "cpu"): 2, ("small", "cpu"): 8, ("full", "cpu"): 1}
BATCH_ON_GPU = 32
# Number of operations to list; the others are summed up.
LISTED = 12


def profile_call(call: "Callable[[], object]", device: str) -> list[dict[str, Any]]:
    """Run a call once to warm up and once with the profiler, and return its operations, the longest first."""
    on_gpu = device == "cuda"
    call()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = [(event.key, getattr(event, kind) / 1e6, event.count) for event in profiler.key_averages()]
    total = sum(seconds for _, seconds, _ in events)
    return [
        {"operation": name, "seconds": seconds, "calls": count, "share": seconds / total}
        for name, seconds, count in sorted(events, key=lambda event: -event[1])
        if seconds > 0
    ]


def show(stage: str, operations: list[dict[str, Any]], path: Path) -> None:
    """Print the longest operations."""
    listed, others = operations[:LISTED], operations[LISTED:]
    rows = [
        [row["operation"][:80], f"{1000 * row['seconds']:.4g}", str(row["calls"]), f"{row['share']:.1%}"]
        for row in listed
    ]
    rest = sum(row["seconds"] for row in others), sum(row["share"] for row in others)
    rows.append([f"{len(others)} others", f"{1000 * rest[0]:.4g}", "", f"{rest[1]:.1%}"])
    record.show(stage, ["operation", "ms", "calls", "share"], rows, [f"Written to {path}"])


def main() -> None:
    """Profile and write."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--contender", default="default", help="one of those of training_step.py and inference.py")
    options = parser.parse_args()
    batch = options.batch or BATCHES.get((options.size, options.device), BATCH_ON_GPU)
    device = torch.device(options.device)
    name = name_of(options, f"stages-{options.size}-batch{batch}")
    path = record.result_path(options.output, name, device)
    with TemporaryDirectory() as textures:
        write_textures(Path(textures))
        setting = make_setting(options, batch, Path(textures))
        result: dict[str, Any] = {"benchmark": path.stem, "finished": False, **record.header(device), "stages": {}}
        result["contender"], result["passes"] = options.contender, setting.passes
        for stage, contenders in STAGES.items():
            contender: Contender = next(one for one in contenders if one.name == options.contender)
            torch.manual_seed(0)
            operations = profile_call(contender.build(setting).call, options.device)
            result["stages"][stage] = operations
            record.write(path, result)
            show(f"{stage}, {setting.image_size} px, batch {batch}, {record.device_name(device)}", operations, path)
    result["finished"] = True
    record.write(path, result)


if __name__ == "__main__":
    main()
