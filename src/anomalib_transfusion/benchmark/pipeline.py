# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's benchmark pipeline that saves each row: ``anomalib benchmark --config configs/benchmark/demo.yaml``.

A config with ``output_dir`` is run here. Any other one is anomalib's own and runs as without this plugin.
"""

from collections.abc import Generator
from pathlib import Path
from time import monotonic
from typing import Any

import anomalib.pipelines
import pandas as pd
import torch
from anomalib.pipelines.components import JobGenerator
from anomalib.pipelines.components.base import Runner
from anomalib.pipelines.components.base.pipeline import log_file
from anomalib.pipelines.components.runners import ParallelRunner, SerialRunner
from anomalib.pipelines.types import PREV_STAGE_RESULT
from jsonargparse import ArgumentParser, Namespace
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from .categories import categories_of
from .config import (
    CONFIG_KEYS,
    NEEDED_KEYS,
    Options,
    accelerators,
    check_config,
    check_keys,
    check_names,
    resolve,
    with_settings,
)
from .job import BenchmarkJob, first_line
from .metrics import METRICS, by_category, joins_categories
from .results import finished, read_row, write_table
from .rows import Row, check_rows, expand

__all__ = ["Benchmark", "BenchmarkJobGenerator"]


class BenchmarkJobGenerator(JobGenerator):
    """Generate the jobs of the rows that are not finished yet.

    Args:
        rows: All rows of the benchmark.
        accelerator: Accelerator whose jobs are generated, ``cpu`` or ``cuda``.
        output_dir: Folder of the benchmark.
        options: What all rows share.
    """

    def __init__(self, rows: list[Row], accelerator: str, output_dir: str, options: Options | None = None) -> None:
        self.rows = rows
        self.accelerator = accelerator
        self.output_dir = output_dir
        self.options = options or Options()
        self._start = monotonic()

    @property
    def job_class(self) -> type[BenchmarkJob]:
        """The class of the jobs."""
        return BenchmarkJob

    def generate_jobs(
        self,
        args: dict[str, Any] | None = None,
        prev_stage_result: PREV_STAGE_RESULT = None,
    ) -> Generator[BenchmarkJob, None, None]:
        """Generate a job for each row that is not finished, in the order of the grid.

        Args:
            args: Section ``benchmark`` of the config (unused, since the rows were made from it).
            prev_stage_result: Results of a stage before (unused).

        Yields:
            The jobs.
        """
        del args, prev_stage_result
        for number, row in enumerate(self.rows, start=1):
            if row.accelerator != self.accelerator:
                continue
            # The runners ask for a job only when they can start it, so the table is always up to date.
            write_table(self.output_dir, self.rows, self.options.baseline)
            skipped = self._skipped(row)
            tqdm.write(f"[{number}/{len(self.rows)}] {row.label}{skipped}")
            if not skipped:
                yield BenchmarkJob(row, self.output_dir, str(Path(log_file).absolute()), self.options)

    def _skipped(self, row: Row) -> str:
        """Return why a row is not run; an empty text if it is run."""
        if finished(self.output_dir, row):
            return ": finished before"
        if self.options.only and row.name not in self.options.only:
            return ": not asked for"
        minutes = self.options.minutes
        return ": no time was left" if minutes is not None and monotonic() - self._start > 60 * minutes else ""


class Benchmark(anomalib.pipelines.Benchmark):
    """Benchmarking pipeline for evaluating anomaly detection models.

    If the config has an ``output_dir``, each row is written there when it ends. A row that fails is marked and the
    others go on; the same command again repeats the rows that failed or are missing, and no others.
    """

    def run(self, args: Namespace | None = None) -> None:
        """Run the pipeline.

        Args:
            args: The arguments of the command line: ``config`` is the path of the config, ``set`` are other values of
                its variables, ``only`` names of models.

        Raises:
            SystemExit: If the config cannot be run, or a row failed or is missing at the end; says which.
        """
        args = args or self.get_parser().parse_args()
        try:
            config = self._get_args(args)
            if not _is_ours(config):
                super().run(args)
                return
            config, options, rows = _read(config)
            check_rows(rows)
        except ValueError as error:
            msg = f"anomalib benchmark: {error}"
            raise SystemExit(msg) from None
        output_dir = config["output_dir"]
        try:
            super().run(args)
        finally:
            results = write_table(output_dir, rows, options.baseline)
        _print(results)
        print(f"Wrote {Path(output_dir) / 'results.csv'}. Tables and plots: anomalib-transfusion report {output_dir}")
        _complain(output_dir, [row for row in rows if not options.only or row.name in options.only])

    def _get_args(self, args: Namespace | None) -> dict[str, Any]:
        """Read the config, and apply the changes of the command line."""
        config: dict[str, Any] = super()._get_args(args)
        settings, only = (getattr(args, name, None) or [] for name in ("set", "only"))
        if not settings and not only:
            return config
        if not _is_ours(config):
            msg = "--set and --only change a config with an output_dir; expected one. Leave them out for this config."
            raise ValueError(msg)
        return {**with_settings(config, settings), **({"only": list(only)} if only else {})}

    @staticmethod
    def get_parser(parser: ArgumentParser | None = None) -> ArgumentParser:
        """Make the parser of the command, with anomalib's ``--config``."""
        made = anomalib.pipelines.Benchmark.get_parser(parser)
        if parser is None:
            made.add_argument(
                "--set",
                nargs="+",
                action="extend",
                metavar="NAME=VALUE",
                help="Other values of the config's variables, as minutes=80 category=screw.",
            )
            made.add_argument(
                "--only",
                nargs="+",
                action="extend",
                metavar="NAME",
                help="Names of the models to run; all by default.",
            )
        return made

    @staticmethod
    def _setup_runners(args: dict[str, Any]) -> list[Runner]:
        """Choose anomalib's runners: one process, or one for each GPU where there are several."""
        if not _is_ours(args):
            return anomalib.pipelines.Benchmark._setup_runners(args)  # noqa: SLF001
        config, options, rows = _read(args)
        runners: list[Runner] = []
        for accelerator in accelerators(args):
            generator = BenchmarkJobGenerator(rows, accelerator, config["output_dir"], options)
            gpus = torch.cuda.device_count() if accelerator == "cuda" else 0
            runners.append(ParallelRunner(generator, n_jobs=gpus) if gpus > 1 else SerialRunner(generator))
        return runners


def _is_ours(config: Any) -> bool:  # noqa: ANN401
    """Tell whether a config asks for this pipeline rather than for anomalib's."""
    return isinstance(config, dict) and "output_dir" in config


def _read(config: dict[str, Any]) -> tuple[dict[str, Any], Options, list[Row]]:
    """Check a config, and return it with its variables in place, its options, and its rows for all accelerators."""
    check_keys("the config", config, CONFIG_KEYS, required=NEEDED_KEYS)
    resolved = [resolve(config, name) for name in accelerators(config)]
    rows: list[Row] = []
    for one in resolved:
        check_config(one)
        rows += expand(one["benchmark"], one["accelerator"], one.get("minutes"))
    options = Options.of(resolved[0])
    check_names(options, list(dict.fromkeys(row.name for row in rows)))
    absent = next((row for row in rows if row.weights is not None), None)
    if absent is not None and not options.checkpoints:
        msg = f"{absent.label} takes the weights of another row, which are not kept. Add 'checkpoints: true'."
        raise ValueError(msg)
    return resolved[0], options, rows


def _print(results: list[dict[str, Any]]) -> None:
    """Print a compact table."""
    columns = {
        "image AUROC": ("image_AUROC", "{:.3f}"),
        "AUPRO": ("pixel_AUPRO", "{:.3f}"),
        "img/s": ("images_per_second", "{:.3g}"),
        "MiB": ("peak_memory_mib", "{:.0f}"),
        "train s": ("fit_duration", "{:.0f}"),
    }
    table = Table(box=SIMPLE_HEAD)
    for name in ("model", "category", "seed"):
        table.add_column(name, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True)
    for row in (line for result in results for line in _lines(result)):
        numbers = ["" if pd.isna(row.get(key)) else form.format(row[key]) for key, form in columns.values()]
        table.add_row(row["name"], row["category"], str(row["seed"]), *numbers, row["status"])
    Console().print(table)


def _lines(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines to print for a row: one for each category if it has several, and the row as their mean."""
    categories = categories_of(result) if joins_categories(result["data.class_path"]) else []
    if result["status"] != "done" or len(categories) < 2:
        return [result]
    known = {"name": result["name"], "seed": result["seed"], "status": ""}
    each = [
        {**known, "category": name, **{metric: result.get(by_category(metric, name)) for metric in METRICS}}
        for name in categories
    ]
    return [*each, {**result, "category": "mean"}]


def _complain(output_dir: str, rows: list[Row]) -> None:
    """Exit with an error that names the rows without a result, if there are any."""
    complaints = []
    for row in rows:
        result = read_row(output_dir, row)
        if result is None:
            complaints.append(f"{row.label} did not run (no time was left, or see {log_file})")
        elif result["status"] != "done":
            complaints.append(f"{row.label} failed ({first_line(str(result['error']))})")
    if complaints:
        msg = (
            f"anomalib benchmark: {len(complaints)} of {len(rows)} rows have no result: {'; '.join(complaints)}. "
            "The same command again repeats only these."
        )
        raise SystemExit(msg)
