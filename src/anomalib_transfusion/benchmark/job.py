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
from anomalib.callbacks import ModelCheckpoint
from anomalib.engine import Engine
from anomalib.pipelines.components import Job
from anomalib.utils.logging import LoggerRedirectError, hide_output, redirect_logs
from lightning import seed_everything
from tqdm.auto import tqdm

from .measure import PeakMemory, Throughput, complete_evaluator, environment
from .results import write_row
from .rows import Row, build, parse

__all__ = ["BenchmarkJob", "first_line"]

logger = logging.getLogger(__name__)
# A traceback belongs into the log file, which anomalib's pipelines give to each logger, and not between the progress.
logger.propagate = False


class BenchmarkJob(Job):
    """Train, test and measure a model on a data set, and write the row.

    Nothing is built before :meth:`run`: a job can be sent to another process, and what goes wrong becomes a row that
    says so.

    Args:
        row: What to run.
        output_dir: Folder of the benchmark.
        log_file: Where a process of its own writes its log.
    """

    name = "benchmark"

    def __init__(self, row: Row, output_dir: str, log_file: str) -> None:
        self.row = row
        self.output_dir = output_dir
        self.log_file = log_file

    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Run the row and write it, finished or failed.

        Args:
            task_id: Number of the GPU when several processes share the work.

        Returns:
            The row as it is on disk.
        """
        if task_id is not None:
            redirect_logs(self.log_file)
        # What a row before has left behind counts neither for this one's memory nor for its chance to run.
        gc.collect()
        result = {"status": "failed", "error": None, **self.row.columns(), "started": _now()}
        start = perf_counter()
        try:
            result |= self._measure(task_id or 0)
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
    def _measure(self, gpu: int) -> dict[str, Any]:
        """Train and test, and return what was measured.

        Args:
            gpu: Number of the GPU, where one is used.
        """
        row = self.row
        device = torch.device("cuda", gpu) if row.accelerator == "cuda" else torch.device("cpu")
        parser, parsed = parse(row)
        # Before the model is built, as anomalib's command line does it: the same seed gives the same numbers there.
        seed_everything(row.seed, workers=True)
        throughput = Throughput()
        with PeakMemory(device) as memory, TemporaryDirectory() as folder:
            built = build(parser, parsed)
            model, datamodule = built.model, built.data
            complete_evaluator(model)
            model.visualizer = None
            trainer: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
            trainer |= {name: built.trainer[name] for name in row.trainer}
            callbacks = trainer.pop("callbacks", None) or []
            engine = Engine(
                **trainer,
                # Takes the place of anomalib's, which would write gigabytes that nobody reads.
                callbacks=[ModelCheckpoint(folder, save_top_k=0), throughput, *_as_list(callbacks)],
                logger=False,
                default_root_dir=folder,
                accelerator=row.accelerator,
                devices=[gpu] if row.accelerator == "cuda" else 1,
            )
            start = perf_counter()
            engine.fit(model, datamodule=datamodule)
            fitted = perf_counter()
            metrics = engine.test(model, datamodule=datamodule, verbose=False)[0]
            tested = perf_counter()
        return {
            **metrics,
            "images_per_second": throughput.images_per_second,
            **memory.columns(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "fit_duration": fitted - start,
            "test_duration": tested - fitted,
            **environment(device),
        }

    @staticmethod
    def collect(results: list[dict[str, Any]]) -> pd.DataFrame:
        """Gather the rows of this run; they may have different columns."""
        return pd.DataFrame(results)

    @staticmethod
    def save(results: pd.DataFrame) -> None:
        """Do nothing: every job has saved its row when it ended."""


def first_line(error: str) -> str:
    """Shorten an error to what fits on a terminal; the row has all of it."""
    return shorten(next(iter(error.splitlines()), ""), 200, placeholder=" ...")


def _as_list(callbacks: Any) -> list[Any]:  # noqa: ANN401
    """Return one or several callbacks as a list."""
    return callbacks if isinstance(callbacks, list) else [callbacks]


def _now() -> str:
    """Return the time as text."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
