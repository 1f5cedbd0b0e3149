# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Contenders side by side in one process: they alternate round by round, so that a busy machine slows all of them.

A round of a contender has so many calls that its time can be measured. The time is divided by the number of units
(images or samples) that the calls make. The ratio is the baseline's time over the contender's: above 1 is faster than
the baseline. On a GPU the clock starts and stops when the card is idle, so that the host's time counts as well.
"""

import argparse
import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

import memory
import record

DEFAULT_MODEL = "TransFusion"
ROUND_SECONDS = {"tiny": 0.02, "small": 0.5, "full": 0.5}
ROUNDS = {"tiny": 3, "small": 9, "full": 9}
# With a time limit, the rounds get at least this share of it: contenders that are not built by then are left out.
SHARE_FOR_BUILDING = 0.6


@dataclass(frozen=True)
class Setting:
    """Setting that contenders are built for.

    Attributes:
        size: ``tiny``, ``small`` or ``full``.
        device: ``cpu`` or ``cuda``.
        batch: Images in a batch.
        image_size: Side of the images in pixels.
        network: Parameters of the model.
        passes: Network passes for an image that are run, of ``all_passes``; the others are extrapolated.
        all_passes: Network passes for an image.
        memory_bank: Rows of Patchcore's memory.
        textures: Folder of texture photographs.
        compiled: Whether contenders with ``torch.compile`` take part.
        threads: Threads of PyTorch.
        model: Class of the model.
    """

    size: str
    device: str
    batch: int
    image_size: int
    network: dict[str, Any] = field(default_factory=dict)
    passes: int = 0
    all_passes: int = 0
    memory_bank: int = 0
    textures: str = ""
    compiled: bool = True
    threads: int = 1
    model: str = DEFAULT_MODEL


class Built(NamedTuple):
    """A contender that is ready to run.

    Attributes:
        call: Function to time.
        units: Number of images or samples that a call makes; a fraction if the rest of the work is extrapolated.
    """

    call: Callable[[], object]
    units: float


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: Name in tables and results.
        build: Builds the contender; if it raises, the contender is left out with the message as the reason.
        flops: Returns the floating point operations of a unit.
        compiled: Whether it uses ``torch.compile``.
        models: Classes of the models that have it; ``None`` for all.
    """

    name: str
    build: Callable[[Setting], Built]
    flops: Callable[[Setting], float] | None = None
    compiled: bool = False
    models: Sequence[str] | None = None


class Comparison:
    """Measures contenders, and writes the result after each step.

    Args:
        name: Name of the result file.
        list_name: Name of the list in ``contenders``.
        contenders: The contenders, most important first.
        baseline: Name of the one that the ratios refer to.
        unit: Name of a unit: ``image`` or ``sample``.
        setting: Setting that the contenders are built for.
        options: Options of the command line.
    """

    def __init__(
        self,
        name: str,
        list_name: str,
        contenders: Sequence[Contender],
        baseline: str,
        unit: str,
        setting: Setting,
        options: argparse.Namespace,
    ) -> None:
        self.list_name = list_name
        self.setting = setting
        self.options = options
        self.device = torch.device(setting.device)
        there = [contender for contender in contenders if contender.models is None or setting.model in contender.models]
        chosen = [c for c in there if c.name == baseline or any(fnmatch(c.name, p) for p in options.only or ["*"])]
        self.contenders = {contender.name: contender for contender in chosen}
        name = name_of(options, name)
        self.path = record.result_path(options.output, name, self.device)
        self.built: dict[str, Built] = {}
        self.rows: dict[str, dict[str, Any]] = {
            name: {"name": name, "status": "not reached", "reason": "", "seconds": []} for name in self.contenders
        }
        measured_of = memory.ON_GPU if setting.device == "cuda" else memory.ON_CPU
        described = {key: value for key, value in vars(setting).items() if key not in {"textures", "threads"}}
        self.result: dict[str, Any] = {
            "benchmark": name,
            "finished": False,
            "unit": unit,
            "baseline": baseline,
            **record.header(self.device),
            "setting": described,
            "clock": options.clock,
            "memory_of": measured_of if options.memory else "not measured",
            "contenders": list(self.rows.values()),
        }
        self.clock = process_time if options.clock == "processor" else perf_counter
        self.start = perf_counter()
        self.limit = 60 * options.minutes

    def run(self) -> dict[str, Any]:
        """Measure everything, print the table, and return the result."""
        self._write()
        for name, contender in self.contenders.items():
            self._build(name, contender)
            self._write()
        for number in range(self.options.rounds or ROUNDS[self.setting.size]):
            if number and self._elapsed() > self.limit:
                break
            self._round(number)
            self._write()
        # The contenders are not needed any more, but their memory may be.
        self.built.clear()
        gc.collect()
        if self.options.memory and self.setting.device == "cpu":
            for name, row in self.rows.items():
                if row["status"] == "measured":
                    self._peak_on_cpu(name, row)
                    self._write()
        self.result["finished"] = True
        self._write()
        self.show()
        return self.result

    def _elapsed(self) -> float:
        return perf_counter() - self.start

    def _write(self) -> None:
        self._summarize()
        record.write(self.path, self.result)

    def _leave_out(self, name: str, reason: str) -> None:
        self.built.pop(name, None)
        self.rows[name] |= {"status": "left out", "reason": reason}
        print(f"{name} is left out: {reason}", flush=True)

    def _build(self, name: str, contender: Contender) -> None:
        """Build and warm up a contender, and find out how many calls a round takes."""
        row = self.rows[name]
        if contender.compiled and not self.setting.compiled:
            return self._leave_out(name, "torch.compile is switched off")
        if self._elapsed() > SHARE_FOR_BUILDING * self.limit and name != self.result["baseline"]:
            return self._leave_out(name, "no time was left for it")
        try:
            torch.manual_seed(0)
            before = memory.held_on_gpu()
            start = perf_counter()
            built = contender.build(self.setting)
            row["build_seconds"] = perf_counter() - start
            row["first_call_seconds"] = self._time(built, 1)
            seconds = self._time(built, 1)
            if self.options.memory and self.setting.device == "cuda":
                # Weights, gradients and the optimizer's state.
                row["held_memory_mib"] = memory.held_on_gpu() - before
                row["peak_memory_mib"] = memory.peak_on_gpu(built.call)
            row["flops"] = contender.flops(self.setting) if contender.flops else None
        except Exception as error:  # noqa: BLE001
            return self._leave_out(name, _first_line(error))
        row |= {"units_per_call": built.units, "status": "built"}
        row["calls_per_round"] = max(1, math.ceil(ROUND_SECONDS[self.setting.size] / max(seconds, 1e-6)))
        self.built[name] = built
        return None

    def _time(self, built: Built, calls: int) -> float:
        """Return the seconds that some calls take."""
        self._synchronize()
        start = self.clock()
        for _ in range(calls):
            built.call()
        self._synchronize()
        return self.clock() - start

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _round(self, number: int) -> None:
        """Time each contender once, in an order that rotates from round to round."""
        names = list(self.built)
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            row = self.rows[name]
            try:
                seconds = self._time(self.built[name], row["calls_per_round"])
            except Exception as error:  # noqa: BLE001
                self._leave_out(name, _first_line(error))
                continue
            row["seconds"].append(seconds / (row["calls_per_round"] * row["units_per_call"]))
            row["status"] = "measured"

    def _peak_on_cpu(self, name: str, row: dict[str, Any]) -> None:
        remaining = max(0, self.limit - self._elapsed()) if math.isfinite(self.limit) else 600
        if remaining < 10:
            row["peak_memory_mib"], row["memory_reason"] = None, "no time was left for it"
            return
        prepare = partial(memory.contender_call, self.list_name, name, self.setting)
        row["peak_memory_mib"], reason = memory.peak_on_cpu(prepare, self.setting.threads, min(600, remaining))
        if reason:
            row["memory_reason"] = reason
            print(f"The memory of {name} is left out: {reason}", flush=True)

    def _summarize(self) -> None:
        """Compute medians, quartiles and ratios of what was timed so far."""
        baseline = self.rows[self.result["baseline"]]["seconds"]
        peak = self.result["device"]["bf16_peak_flops"]
        for row in self.rows.values():
            seconds = row["seconds"]
            if row["status"] != "measured":
                continue
            row["median"] = float(np.median(seconds))
            row["quartiles"] = np.percentile(seconds, (25, 75)).tolist()
            row["units_per_second"] = 1 / row["median"]
            if row["flops"]:
                row["flops_per_second"] = row["flops"] / row["median"]
                row["share_of_peak"] = row["flops_per_second"] / peak if peak else None
            # A contender or baseline that failed in a round has fewer times.
            common = min(len(seconds), len(baseline))
            if common:
                # Ratios are within a round, because the speed of shared machines changes during a run.
                ratios = np.divide(baseline[:common], seconds[:common])
                row["ratio"] = float(np.median(ratios))
                row["ratio_quartiles"] = np.percentile(ratios, (25, 75)).tolist()

    def show(self) -> None:
        """Print the table."""
        setting, unit = self.result["setting"], self.result["unit"]
        baseline = self.result["baseline"]
        columns = ["contender", f"ms/{unit}", "quartiles", f"x {baseline}", "quartiles", "peak MiB", "first call, s"]
        columns += ["TFLOP/s"] + (["of peak"] if self.result["device"]["bf16_peak_flops"] else [])
        rows = []
        for row in self.result["contenders"]:
            if row["status"] != "measured":
                rows.append([row["name"], row["status"]])
                continue
            low, high = (1000 * value for value in row["quartiles"])
            ratio = ["", ""]
            if "ratio" in row:
                ratio = [f"{row['ratio']:.2f}", "-".join(f"{value:.2f}" for value in row["ratio_quartiles"])]
            rate, share, peak = (row.get(name) for name in ("flops_per_second", "share_of_peak", "peak_memory_mib"))
            rows.append([
                row["name"],
                f"{1000 * row['median']:.4g}",
                f"{low:.4g}-{high:.4g}",
                *ratio,
                "" if peak is None else f"{peak:.1f}",
                f"{row['first_call_seconds']:.2f}",
                "" if rate is None else f"{rate / 1e12:.3g}",
                "" if share is None else f"{share:.1%}",
            ])
        notes = [f"{row['name']}: {row['reason']}" for row in self.result["contenders"] if row["reason"]]
        if self.result["clock"] == "processor":
            notes.append("Times are those that the processor worked for the process.")
        notes.append(f"Peak memory: {self.result['memory_of']}.")
        if unit == "image" and setting["passes"] != setting["all_passes"]:
            passes = f"{setting['passes']} of {setting['all_passes']} passes"
            notes.append(f"{setting['model']}: {passes} run, the rest extrapolated.")
        title = f"{self.result['benchmark']}, {setting['image_size']} px, batch {setting['batch']}"
        title += f", {self.result['device']['name']}, {self.result['threads']} threads"
        record.show(title, columns, [row[: len(columns)] for row in rows], [*notes, f"Written to {self.path}"])


def name_of(options: argparse.Namespace, name: str) -> str:
    """Return the name of a result: with the model, but for TransFusion, and with parameters that were changed."""
    parts = [] if options.model == DEFAULT_MODEL else [options.model]
    return "-".join([*parts, name, *(f"{key}{value}" for key, value in options.network or [])])


def parameter(text: str) -> tuple[str, Any]:
    """Return name and value of a parameter, typed as NAME=VALUE."""
    name, _, value = text.partition("=")
    return name, yaml.safe_load(value)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def options_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--size", choices=("tiny", "small", "full"), default="small")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="whose speed is measured: TransFusion or DiffusionAD")
    parser.add_argument("--network", type=parameter, nargs="+", metavar="NAME=VALUE", help="parameters of the model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--minutes", type=float, default=math.inf, help="no round is started after this time")
    parser.add_argument("--output", type=Path, default=record.RESULTS, help="folder of the results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    parser.add_argument(
        "--clock",
        choices=("wall", "processor"),
        default="wall",
        help="processor: time on the CPU, for --threads 1 on a machine that others use as well",
    )
    parser.add_argument("--rounds", type=int, help="rounds, at most")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders beside the baseline; * stands for any")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="contenders with torch.compile")
    parser.add_argument("--textures", type=Path, help="folder of texture photographs; scikit-image's by default")
    return parser
