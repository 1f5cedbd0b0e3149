# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""One row of a benchmark: train, test and measure a model on a data set."""

import gc
import logging
from datetime import datetime, timezone
from tempfile import TemporaryDirectory
from textwrap import shorten
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from anomalib.pipelines.components import Job
from anomalib.utils.logging import LoggerRedirectError, hide_output, redirect_logs
from lightning import seed_everything
from tqdm.auto import tqdm

from .config import Options
from .detection import Detections, columns_of
from .environment import environment
from .measure import PeakMemory, Throughput, complete_evaluator
from .metrics import by_category
from .pictures import draw_cases
from .results import picture_path, write_row
from .rows import Row, build, parse
from .training import Training

__all__ = ["BenchmarkJob", "first_line"]

logger = logging.getLogger(__name__)
# Tracebacks go to the log file only, which anomalib's pipelines add to each logger, and not to the terminal.
logger.propagate = False


class BenchmarkJob(Job):
    """Train, test and measure a model on a data set, and write the row.

    Nothing is built before :meth:`run`, so that a job can be sent to another process, and any error becomes a row with
    the status ``failed``.

    Args:
        row: The row to run.
        output_dir: Folder of the benchmark.
        log_file: Log file, if the job runs in a separate process.
        options: What all rows of the benchmark share.
    """

    name = "benchmark"

    def __init__(self, row: Row, output_dir: str, log_file: str, options: Options | None = None) -> None:
        self.row = row
        self.output_dir = output_dir
        self.log_file = log_file
        self.options = options or Options()

    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Run the row and write it, finished or failed.

        Args:
            task_id: Number of the GPU when several processes share the work.

        Returns:
            The row as it is on disk.
        """
        if task_id is not None:
            redirect_logs(self.log_file)
        # Frees the memory of the row before, which must not count for this one.
        gc.collect()
        device = torch.device("cuda", task_id or 0) if self.row.accelerator == "cuda" else torch.device("cpu")
        result = {"status": "failed", "error": None, **self.row.columns(), "started": _now()}
        start = perf_counter()
        try:
            result |= environment(device)
            result |= self._measure(device)
            result["status"] = "done"
        except Exception as error:
            cause = error.__cause__ if isinstance(error, LoggerRedirectError) and error.__cause__ else error
            logger.exception("The row %s failed; the others go on. The same command again repeats it.", self.row.label)
            result["error"] = f"{type(cause).__name__}: {cause}"
            tqdm.write(f"{self.row.label} failed: {first_line(result['error'])}")
        result |= {"job_duration": perf_counter() - start, "ended": _now()}
        write_row(self.output_dir, self.row, result)
        return result

    @hide_output
    def _measure(self, device: torch.device) -> dict[str, Any]:
        """Train and test, and return what was measured.

        Args:
            device: The device to use.
        """
        row, options = self.row, self.options
        parser, parsed = parse(row)
        # Before the model is built, as anomalib's command line does it: the same seed gives the same numbers there.
        seed_everything(row.seed, workers=True)
        throughput, detections = Throughput(), Detections()
        with PeakMemory(device) as memory, TemporaryDirectory() as folder:
            built = build(parser, parsed)
            model, data = built.model, built.data
            if options.kinds:
                # Its metrics are computed from the detections.
                model.evaluator = Evaluator()
            else:
                complete_evaluator(model)
            model.visualizer = None
            training = Training.of(row, self.output_dir, options.checkpoints and row.weights is None, folder)
            timer = training.timer()
            trainer: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
            trainer |= {"max_epochs": -1} if row.minutes is not None else {}
            trainer |= {name: built.trainer[name] for name in row.trainer}
            callbacks = trainer.pop("callbacks", None) or []
            engine = Engine(
                **trainer,
                callbacks=[
                    training.saver(model),
                    timer,
                    throughput,
                    *([detections] if options.kinds or options.pictures else []),
                    *_as_list(callbacks),
                ],
                logger=False,
                default_root_dir=folder,
                accelerator=row.accelerator,
                devices=[device.index] if row.accelerator == "cuda" else 1,
            )
            if row.weights is None:
                trained = training.run(engine, model, data, timer)
            else:
                trained = {}
                Training.of(row.weights, self.output_dir, kept=True, temporary=folder).load_weights(model)
                if trainer.get("limit_val_batches") != 0:
                    # Thresholds are those of this row's maps.
                    engine.validate(model, datamodule=data, verbose=False)
            start = perf_counter()
            metrics: dict[str, Any] = dict(engine.test(model, datamodule=data, verbose=False)[0])
            tested = perf_counter() - start
        if options.kinds:
            metrics |= columns_of(detections.found)
        if options.pictures:
            found = detections.found
            for category, part in (found.of_each_category() or {"": found}).items():
                path = draw_cases(part, picture_path(self.output_dir, row, category))
                column = by_category("picture", category) if category else "picture"
                metrics[column] = path.relative_to(self.output_dir).as_posix()
        return {
            **metrics,
            "images_per_second": throughput.images_per_second,
            **memory.columns(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            **trained,
            "test_duration": tested,
        }

    @staticmethod
    def collect(results: list[dict[str, Any]]) -> pd.DataFrame:
        """Gather the rows of this run; they may have different columns."""
        return pd.DataFrame(results)

    @staticmethod
    def save(results: pd.DataFrame) -> None:
        """Do nothing: every job has saved its row when it ended."""


def first_line(error: str) -> str:
    """Shorten an error to its first line and 200 characters; the row has all of it."""
    return shorten(next(iter(error.splitlines()), ""), 200, placeholder=" ...")


def _as_list(callbacks: Any) -> list[Any]:  # noqa: ANN401
    """Return one or several callbacks as a list."""
    return callbacks if isinstance(callbacks, list) else [callbacks]


def _now() -> str:
    """Return the time as text."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
