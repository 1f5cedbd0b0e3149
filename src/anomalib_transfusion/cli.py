# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The command ``anomalib-transfusion``: what anomalib's own command line has no place for."""

from pathlib import Path

__all__ = ["convert", "main"]


def convert(official: Path, output: Path, overwrite: bool = False) -> None:
    """Convert a checkpoint of the authors' code to one that anomalib loads.

    Args:
        official: Checkpoint of the authors' code, a pickled state dict or safetensors.
        output: Checkpoint to write, for ``anomalib test --model TransFusion --ckpt_path OUTPUT``.
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

    from anomalib_transfusion import TransFusion
    from anomalib_transfusion.models.transfusion.checkpoint_io import WholeCheckpointIO

    model = TransFusion.from_official_checkpoint(official)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, plugins=[WholeCheckpointIO()])
    trainer.strategy.connect(model)
    trainer.save_checkpoint(output)
    print(f"Wrote {output}. To test it: anomalib test --model TransFusion --ckpt_path {output} --data ...")


def main() -> None:
    """Run the command line; an error of the user's is a line on the terminal, not a traceback."""
    from jsonargparse import CLI

    try:
        CLI({"convert": convert})
    except (OSError, ValueError) as error:
        msg = f"anomalib-transfusion: {error}"
        raise SystemExit(msg) from None
