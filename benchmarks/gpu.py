# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""All measurements that need a GPU, the most important first, within a time limit in minutes.

    python benchmarks/gpu.py --minutes 25 --datasets ../shared/datasets
    python benchmarks/gpu.py --minutes 14 --model DiffusionAD         # the items of one model alone
    python benchmarks/gpu.py --minutes 5 --size tiny --device cpu     # tries the whole list

First TransFusion's full network on real categories, as rows of configs/benchmark/quality.yaml, then the speed of both
models. The summary says which of the aims for an H100-class GPU are met. Each item is a
separate process with a time limit, and writes its results as it runs, so that an interruption loses nothing that was
measured, and the same command resumes a training. An item for which too little time is left is skipped, and marked in
the summary. The output of an item is in a log file beside the results.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from time import perf_counter, sleep
from typing import Any

import torch

import anomalib_transfusion
import record
from anomalib_transfusion.benchmark.measure import MIB
from measure import DEFAULT_MODEL

HERE = Path(__file__).resolve().parent
QUALITY = record.ROOT / "configs/benchmark/quality.yaml"
DATASETS = Path(os.environ.get("TRANSFUSION_DATASETS", record.ROOT.parent / "shared" / "datasets"))
# Time reserved at the end of an item for writing results and for work that cannot be interrupted.
GRACE_MINUTES = 1.0
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Item:
    """One thing to measure.

    Attributes:
        name: Name in the summary.
        arguments: Script and its arguments; empty for the quality on a category.
        minutes: Time limit in minutes.
        least: Smallest time in minutes for which it is worth starting.
        category: Category whose quality is measured.
        model: Class of the model.
    """

    name: str
    arguments: Sequence[str]
    minutes: float
    least: float
    category: str = ""
    model: str = DEFAULT_MODEL


@dataclass(frozen=True)
class Aim:
    """Target for a result.

    Attributes:
        result: Name of the result.
        column: Value of the contender ``default``: ``ratio`` to the plain path, ``share_of_peak``, or ``memory_mib``,
            which includes weights, gradients and the optimizer's state.
        least: Lower bound; ``None`` for no bound.
        most: Upper bound; ``None`` for no bound.
    """

    result: str
    column: str
    least: float | None = None
    most: float | None = None

    def judge(self, output: Path, device: torch.device) -> dict[str, Any]:
        """Return the value as ``found`` and whether it is ``met``; both are None if it was not measured."""
        result = record.read(record.result_path(output, self.result, device)) or {"contenders": []}
        row = next((row for row in result["contenders"] if row["name"] == "default"), {})
        parts = ("held_memory_mib", "peak_memory_mib") if self.column == "memory_mib" else (self.column,)
        values = [row.get(part) for part in parts]
        found = None if None in values else sum(values)
        met = None
        if found is not None:
            met = (self.least is None or found >= self.least) and (self.most is None or found <= self.most)
        return {**asdict(self), "found": found, "met": met}


def make_aims(size: str) -> list[Aim]:
    """List the aims for DiffusionAD on an H100-class GPU at full size."""
    batch = 2 if size == "tiny" else 32
    inference = f"DiffusionAD-inference-{size}-batch{batch}"
    return [
        Aim(inference, "ratio", least=6.0),
        Aim(inference, "share_of_peak", least=0.4),
        Aim(f"DiffusionAD-training-step-{size}-batch8", "ratio", least=4.0),
        Aim(f"DiffusionAD-training-step-{size}-batch4", "memory_mib", most=24e9 / MIB),
    ]


def make_items(options: argparse.Namespace) -> list[Item]:
    """List what is to be measured, most important first. The minutes are those of an H100 at full size."""
    batch = "2" if options.size == "tiny" else "32"
    # A CPU without bfloat16 takes minutes for the contenders that compute in it.
    trial = ["--only", "default"] if options.size == "tiny" else []
    passes = ["passes.py"] + (["--checkpoint", str(options.checkpoint)] if options.checkpoint else [])
    passes += ["--root", str(options.root)] if options.root else []
    passes += ["--category", options.category]
    categories = TINY_CATEGORIES if options.size == "tiny" else CATEGORIES
    items = [
        *(Item(f"quality, {name}", [], minutes, 3, name) for name, minutes in categories.items()),
        Item(f"inference, batch {batch}", ["inference.py", "--batch", batch], 6, 2),
        Item("training step", ["training_step.py"], 6, 2),
        Item(
            f"DiffusionAD, inference, batch {batch}",
            ["inference.py", "--batch", batch, *trial],
            5,
            2,
            model="DiffusionAD",
        ),
        Item("DiffusionAD, training step", ["training_step.py", "--batch", "8", *trial], 6, 2, model="DiffusionAD"),
        Item(
            "DiffusionAD, memory of a training step",
            ["training_step.py", "--batch", "4", "--rounds", "3", "--only", "default", "checkpointing"],
            3,
            1,
            model="DiffusionAD",
        ),
        Item("synthesis", ["synthesis.py"], 2, 1),
        Item("where the time goes", ["stages.py"], 1.5, 0.5),
        Item("inference, batch 1", ["inference.py", "--batch", "1"], 5, 2),
        Item(
            "batches until memory ends",
            ["inference.py", "--scaling", *(["--largest-batch", "4"] if options.size == "tiny" else [])],
            4,
            1.5,
        ),
    ]
    if options.checkpoint or options.size == "tiny":
        items += [Item(f"passes, {precision}", [*passes, "--precision", precision], 3, 1) for precision in PRECISIONS]
    return [item for item in items if options.model in {None, item.model}]


PRECISIONS = ("fp32", "bf16")
# TransFusion alone is trained: Patchcore and Draem are measured without a GPU as well.
TRAINING_SHARE = "85%"
# Categories and the minutes of each.
CATEGORIES = {"screw": 8.0, "magnetic_tile": 6.0}
TINY_CATEGORIES = {"brick": 8.0, "gravel": 6.0}


def make_command(item: Item, options: argparse.Namespace, minutes: float) -> list[str]:
    """Return the command of an item with a time limit in minutes."""
    if not item.category:
        size = "full" if item.arguments[0] == "passes.py" and options.size != "tiny" else options.size
        script, *arguments = item.arguments
        command = [sys.executable, str(HERE / script), *arguments, "--size", size, "--device", options.device]
        command += [] if item.model == DEFAULT_MODEL else ["--model", item.model]
        return [*command, "--minutes", f"{minutes:.3f}", "--output", str(options.output)]
    settings = {
        "category": item.category,
        "datasets": options.datasets,
        "minutes": f"{minutes:.3f}",
        "output": options.output / "quality",
        "size": options.size,
        "share": TRAINING_SHARE,
    }
    command = [sys.executable, "-m", "anomalib_transfusion.benchmark", "--config", str(QUALITY), "--set"]
    return [*command, *(f"{name}={value}" for name, value in settings.items()), "--only", "TransFusion"]


def make_tiny_data(folder: Path) -> None:
    """Write demo surfaces in MVTec AD's layout and scikit-image's photographs, for the list to be tried on."""
    # Seconds, which only a trial needs.
    from anomalib_transfusion import DemoSurface
    from contenders import write_textures
    from passes import TINY_SURFACE

    for category in TINY_CATEGORIES:
        DemoSurface(folder / "MVTecAD", category, **TINY_SURFACE).prepare_data()
    (folder / "dtd").mkdir(parents=True, exist_ok=True)
    write_textures(folder / "dtd")


def write_metadata(folder: Path) -> None:
    """Write package metadata for sources that are not installed: entry points, by which anomalib finds the package."""
    if record.version_of("anomalib-transfusion") != "absent":
        return
    # tomllib needs Python 3.11; this is reached only on machines where the package is not installed, which have it.
    import tomllib

    declared = tomllib.loads((record.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    target = folder / f"anomalib_transfusion-{anomalib_transfusion.__version__}.dist-info"
    target.mkdir(parents=True, exist_ok=True)
    lines = []
    for group, points in declared.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    (target / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    metadata = f"Metadata-Version: 2.1\nName: anomalib-transfusion\nVersion: {anomalib_transfusion.__version__}\n"
    (target / "METADATA").write_text(metadata, encoding="utf-8")


def run_item(item: Item, options: argparse.Namespace, minutes: float, told_to_stop: Event) -> dict[str, Any]:
    """Run an item for at most some minutes, or until told to stop, and say how it ended."""
    grace = min(GRACE_MINUTES, minutes / 3)
    command = make_command(item, options, minutes - grace)
    path = os.pathsep.join(filter(None, [str(record.ROOT / "src"), str(options.scratch), os.environ.get("PYTHONPATH")]))
    log = options.output / f"gpu-{item.name.replace(', ', '-').replace(' ', '-')}.log"
    start = perf_counter()
    with log.open("w", encoding="utf-8") as output:
        # In a session of its own, so that what it starts ends with it.
        process = subprocess.Popen(  # noqa: S603
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            cwd=options.scratch,
        )
        try:
            while process.poll() is None and perf_counter() - start < 60 * minutes and not told_to_stop.is_set():
                sleep(POLL_SECONDS)
            status = {None: "cut off", 0: "done"}.get(process.poll(), f"failed with exit code {process.poll()}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {"status": status, "seconds": perf_counter() - start, "log": log.name}


def main() -> int:
    """Run the list.

    Returns:
        The exit status: 1 if an item failed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="time for everything")
    parser.add_argument("--size", choices=("tiny", "small", "full"), default="full")
    parser.add_argument("--model", choices=("TransFusion", "DiffusionAD"), help="items of one model alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--output", type=Path, default=record.RESULTS, help="folder of the results")
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder with MVTecAD/CATEGORY and dtd")
    parser.add_argument("--checkpoint", type=Path, help="a trained model, to measure accuracy over the passes as well")
    parser.add_argument("--root", type=Path, help="test images of the checkpoint in MVTec AD's layout")
    parser.add_argument("--category", default="brick", help="category of the test images; of the demo without --root")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        msg = "PyTorch finds no GPU here. Try the list without one: --device cpu --size tiny."
        raise SystemExit(msg)
    # On SIGTERM the running item is ended, and the summary is written.
    told_to_stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: told_to_stop.set())
    start = perf_counter()
    device = torch.device(options.device)
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        options.scratch = Path(folder)
        return run_items(options, device, start, told_to_stop)


def run_items(options: argparse.Namespace, device: torch.device, start: float, told_to_stop: Event) -> int:
    """Run the items that the time allows, and write the summary.

    Returns:
        The exit status.
    """
    write_metadata(options.scratch)
    if options.size == "tiny" and options.minutes > 0:
        options.datasets = options.scratch
        make_tiny_data(options.scratch)
    options.datasets, options.root, options.checkpoint = (
        path and path.resolve() for path in (options.datasets, options.root, options.checkpoint)
    )
    # Tried with tiny sizes, an item takes a fraction of its time.
    scale = 0.1 if options.size == "tiny" else 1.0
    items = make_items(options)
    path = record.result_path(options.output, f"gpu-{options.size}", device)
    rows = [{**asdict(item), "status": "not reached"} for item in items]
    summary = {"benchmark": "gpu", "finished": False, "minutes": options.minutes, **record.header(device)}
    summary["items"] = rows
    for item, row in zip(items, rows, strict=True):
        record.write(path, summary)
        left = options.minutes - (perf_counter() - start) / 60
        if left < item.least * scale:
            row["status"] = f"skipped: {max(0.0, left):.1f} minutes are left, and it needs {item.least * scale:.1f}"
        elif item.category and not (options.datasets / "MVTecAD" / item.category).is_dir():
            row["status"] = f"skipped: there is no {options.datasets / 'MVTecAD' / item.category}; pass --datasets"
        else:
            row["status"] = "cut off"
            record.write(path, summary)
            row.update(run_item(item, options, min(item.minutes, left), told_to_stop))
        if told_to_stop.is_set():
            record.write(path, summary)
            return 128 + signal.SIGTERM
        print(f"{item.name}: {row['status']}" + (f", {row['seconds']:.0f} s" if "seconds" in row else ""), flush=True)
    summary["aims"] = aims = [aim.judge(options.output, device) for aim in make_aims(options.size)]
    summary["finished"] = True
    record.write(path, summary)
    for aim in aims:
        bound = f"at least {aim['least']:g}" if aim["most"] is None else f"at most {aim['most']:.0f}"
        verdict = {None: "not measured", True: "met", False: "missed"}[aim["met"]]
        found = "" if aim["found"] is None else f", {aim['found']:.4g}"
        print(f"{aim['result']}, {aim['column']} {bound}: {verdict}{found}")
    rows_shown = [[str(row["name"]), f"{row.get('seconds', 0):.0f}", str(row["status"])] for row in rows]
    record.show(f"gpu-{options.size}", ["item", "seconds", "status"], rows_shown, [f"Written to {path}"])
    return int(any(str(row["status"]).startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
