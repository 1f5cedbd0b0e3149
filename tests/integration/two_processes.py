# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""A training as a user writes it, run by test_distributed.py with one process or with several.

python two_processes.py ROOT_OF_DATA FOLDER MODEL [PARAMETERS]
"""

import json
import sys
from pathlib import Path

import torch
from anomalib.engine import Engine
from contract_models import MODELS
from lightning import seed_everything

from anomalib_transfusion import DemoSurface
from conftest import SURFACE


def main(root, folder, name, parameters):
    seed_everything(7)
    # Seven test images: they do not divide among two processes, and leave a batch with one image alone.
    surface = DemoSurface(root=root, **{**SURFACE, "train_batch_size": 2, "eval_batch_size": 3})
    [model] = [model.build(**parameters) for model in MODELS if model.class_name == name]
    engine = Engine(
        default_root_dir=folder,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
    )
    drawn = []
    hook = model.model.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0]))
    engine.fit(model, datamodule=surface)
    hook.remove()
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    metrics = engine.test(model, datamodule=surface)
    torch.save({"drawn": drawn, "trained": trained}, folder / f"process_{engine.trainer.global_rank}.pt")
    if engine.trainer.is_global_zero:
        (folder / "metrics.json").write_text(json.dumps([metrics, engine.trainer.checkpoint_callback.best_model_path]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]) if len(sys.argv) > 4 else {})
