# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The command ``anomalib-transfusion``: subcommands ``convert``, ``report``, ``explain`` and ``fix-category``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["convert", "explain", "fix_category", "main", "report"]


def convert(official: Path, output: Path, overwrite: bool = False) -> None:
    """Convert a checkpoint of the authors' code to one that anomalib loads.

    Args:
        official: Checkpoint of the authors' code of TransFusion or DiffusionAD, pickled or safetensors.
        output: Checkpoint to write, for ``anomalib test --model ... --ckpt_path OUTPUT``.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileExistsError: If the output exists and must not be replaced.
        FileNotFoundError: If there is no such checkpoint, or no folder to write into.
        ValueError: If the checkpoint is not one of the authors' models; names the keys.
    """
    if output.exists() and not overwrite:
        msg = f"{output} exists; choose another name, or pass --overwrite true."
        raise FileExistsError(msg)
    if not output.absolute().parent.is_dir():
        msg = f"There is no folder {output.absolute().parent} to write {output.name} into; make it first."
        raise FileNotFoundError(msg)

    from lightning.pytorch import Trainer

    from anomalib_transfusion.training.checkpoints import WholeCheckpointIO

    model = _from_official(official)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, plugins=[WholeCheckpointIO()])
    trainer.strategy.connect(model)
    trainer.save_checkpoint(output)
    print(f"Wrote {output}. To test it: anomalib test --model {type(model).__name__} --ckpt_path {output} --data ...")


def _from_official(path: Path) -> Any:  # noqa: ANN401
    """Build the model whose authors' code saved a checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it belongs to no model; says why, for each of them.
    """
    from anomalib_transfusion import DiffusionAD, TransFusion

    refusals = []
    for model in (TransFusion, DiffusionAD):
        try:
            return model.from_official_checkpoint(path)
        except ValueError as error:  # noqa: PERF203
            refusals.append(f"Not for {model.__name__}: {error}")
    msg = f"{path} fits no model; expected a checkpoint of the authors' code. {' '.join(refusals)}"
    raise ValueError(msg)


def report(runs: list[Path], output: Path | None = None) -> None:
    """Make tables and plots from the results of benchmarks.

    Args:
        runs: Folders of benchmarks (their output_dir), or files results.csv, anomalib's own as well.
        output: Folder to write into; by default the folder report beside the first results.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder has no results.
        ValueError: If a file is no table of results, or there is no row in any of them.
    """
    from anomalib_transfusion.benchmark.report import report as write

    print(f"Wrote {write(runs, output)}, with its tables as CSV and its plots beside it.")


def explain(
    images: list[Path],
    ckpt: Path,
    output: Path = Path("explained"),
    columns: int = 6,
    timesteps: list[int] | None = None,
    rows: list[str] | None = None,
    panel_size: int = 160,
    duration: float = 5.0,
    num_inference_steps: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Show how a model comes to its result on images: at each timestep what it saw and what it predicted.

    Args:
        images: Images, and folders of images.
        ckpt: Checkpoint of a training with a model of this plugin, as anomalib writes it.
        output: Folder for a film strip (.png) and an animation (.gif) of each image, or for one image a file: .png or
            .jpg for the film strip, .gif or .webp for the animation.
        columns: Number of timesteps in the film strip, beside the result.
        timesteps: The timesteps themselves, e.g. [19, 10, 1], instead of their number.
        rows: Which rows, e.g. [image, mask] of TransFusion, [image, estimate, map] of DiffusionAD; by default all.
        panel_size: Longer side of each panel in pixels.
        duration: Seconds that the animation takes.
        num_inference_steps: Network passes of TransFusion; by default as many as in the checkpoint.
        device: Where the model runs: auto, cpu, cuda, ...
        overwrite: Whether existing files may be replaced.

    Raises:
        FileExistsError: If a file exists and must not be replaced.
        FileNotFoundError: If there is no such image or checkpoint, or no folder to write into.
        ValueError: If a value is impossible, or a file cannot be read.
    """
    from anomalib_transfusion.visualization.explain import explain_files

    options: dict[str, Any] = {
        "columns": columns,
        "timesteps": timesteps,
        "panel_size": panel_size,
        "duration": duration,
        "num_inference_steps": num_inference_steps,
        "device": device,
        "rows": rows,
        "overwrite": overwrite,
    }
    for path in explain_files(images, ckpt, output, **options):
        print(f"Wrote {path}")


def fix_category(ckpt: Path, category: str, output: Path) -> None:
    """Write a checkpoint whose thresholds are those of one category, to export a model for it.

    Args:
        ckpt: Checkpoint of a training with MultiCategory, of any model.
        category: Name of the category.
        output: Checkpoint to write, for ``anomalib export --ckpt_path OUTPUT``.

    Raises:
        FileExistsError: If the output exists.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint has no thresholds of this category; names those that it has.
    """
    from anomalib_transfusion.categories import fix_category_in_checkpoint

    fix_category_in_checkpoint(ckpt, category, output)
    print(f"Wrote {output}. To export it: anomalib export --model ... --ckpt_path {output} --export_type torch")


def main() -> None:
    """Run the command line; OSError and ValueError end it with a one-line message instead of a traceback."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="anomalib-transfusion", description="What anomalib's command line has no place for.")
    subcommands = parser.add_subcommands()
    converting = ArgumentParser(description="Convert a checkpoint of the authors' code to one that anomalib loads.")
    converting.add_function_arguments(convert, as_positional=True)
    subcommands.add_subcommand("convert", converting, help=converting.description)
    reporting = ArgumentParser(description="Make tables and plots from the results of benchmarks.")
    reporting.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUNS",
        help="output_dir of a benchmark or results.csv",
    )
    reporting.add_argument(
        "--output",
        type=Path,
        help="folder to write into (default: report, beside the first results)",
    )
    subcommands.add_subcommand("report", reporting, help=reporting.description)
    explaining = ArgumentParser(description="Show how a model comes to its result on images.")
    explaining.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="image or folder of images",
    )
    explaining.add_function_arguments(explain, skip={"images"})
    subcommands.add_subcommand("explain", explaining, help=explaining.description)
    fixing = ArgumentParser(description="Write a checkpoint whose thresholds are those of one category.")
    fixing.add_function_arguments(fix_category, as_positional=True)
    subcommands.add_subcommand("fix-category", fixing, help=fixing.description)
    arguments = parser.parse_args()
    commands: dict[str, Callable[..., None]] = {
        "convert": convert,
        "report": report,
        "explain": explain,
        "fix-category": fix_category,
    }
    try:
        commands[arguments.subcommand](**arguments[arguments.subcommand])
    except (OSError, ValueError) as error:
        msg = f"anomalib-transfusion: {error}"
        raise SystemExit(msg) from None
