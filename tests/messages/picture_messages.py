# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages about film strips and pictures of the training, and those of the command ``anomalib-transfusion``."""

import sys
from pathlib import Path

import torch
from anomalib.engine import Engine
from contract_models import MODELS
from lightning.pytorch import Trainer
from message_table import Message, in_module
from PIL import Image

from anomalib_transfusion import visualize_reverse_process
from anomalib_transfusion.cli import convert, main
from anomalib_transfusion.visualization import TrainingGrid
from anomalib_transfusion.visualization.explain import explain_files

IMAGE = torch.rand(3, 32, 32)


def explain(folder, *names, output="out", checkpoint="model.ckpt", **options):
    """Explain images in a folder, which are made."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return explain_files([folder / name for name in names], folder / checkpoint, folder / output, **options)


def explain_over_a_file(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.gif").write_text("mine")
    explain(tmp_path, "a.png")


def explain_an_empty_folder(tmp_path):
    (tmp_path / "photographs").mkdir()
    explain_files([tmp_path / "photographs"], Path("model.ckpt"), tmp_path)


def explain_one_step_in_several(tmp_path):
    (diffusion_ad,) = (model for model in MODELS if model.class_name == "DiffusionAD")
    checkpoint(tmp_path / "model.ckpt", diffusion_ad.build())
    explain(tmp_path, "a.png", device="cpu", num_inference_steps=2)


def explain_what_belongs_to_no_model(tmp_path):
    content = {"pytorch-lightning_version": "2.5.0", "state_dict": {"backbone.weight": torch.zeros(1)}}
    torch.save(content, tmp_path / "other.ckpt")
    explain(tmp_path, "a.png", checkpoint="other.ckpt", device="cpu")


def checkpoint(path, model):
    """Write a checkpoint of a model that was not trained."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)


def train_without_a_folder(tiny, surface, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    Engine(
        callbacks=[TrainingGrid(output_dir=tmp_path / "file")],
        default_root_dir=tmp_path,
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        limit_val_batches=0,
        enable_progress_bar=False,
    ).fit(tiny(visualizer=True), datamodule=surface)


def type_report(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["anomalib-transfusion", "report", "gone"])
    main()


def convert_what_fits_no_model(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    convert(tmp_path / "weights.pt", tmp_path / "model.ckpt")


# fmt: off
PICTURES = [
    *in_module(
        "checks.py",
        Message("{}={} {} {}", lambda tiny: visualize_reverse_process(tiny(), IMAGE, columns=0),
                ValueError, "columns=0", "expected 1 to 100", "Leave it out for the default"),
        Message("{}={} {} {}", lambda tiny: visualize_reverse_process(tiny(), IMAGE, panel_size=8),
                ValueError, "panel_size=8", "expected 32 to 2048 pixels", "Leave it out for the default"),
    ),
    *in_module(
        "visualization/film_strip.py",
        Message("{} has the suffix", lambda tiny: visualize_reverse_process(tiny(), IMAGE, "strip.tiff"), ValueError,
                "strip.tiff has the suffix '.tiff'", "expected .png, .jpg, .jpeg for the film strip", "Rename it"),
        Message("There is no folder {}", lambda tiny: visualize_reverse_process(tiny(), IMAGE, "gone/strip.png"),
                FileNotFoundError, str(Path("/gone")), "to write strip.png into", "make it first"),
        Message(
            "rows={} is impossible",
            lambda tiny: visualize_reverse_process(tiny(), IMAGE, rows=["mask", "heatmap"]),
            ValueError,
            "rows=['mask', 'heatmap']",
            "some of image, mask, anomaly, normal, each of them once",
            "Leave it out for all",
        ),
        Message("duration={} is impossible", lambda tiny: visualize_reverse_process(tiny(), IMAGE, duration=0),
                ValueError, "duration=0", "more than 0 and at most 600 seconds", "Leave it out for the default"),
        Message("timesteps={} is impossible", lambda tiny: visualize_reverse_process(tiny(), IMAGE, timesteps=[9]),
                ValueError, "timesteps=[9]", "has the timesteps 3, 2, 1", "Choose some of them"),
        Message("model is a {}", lambda: visualize_reverse_process(torch.nn.Identity(), IMAGE), TypeError,
                "model is a Identity", "expected TransFusion, DiffusionAD or another model of this plugin",
                "Pass one of these"),
        Message("image is a {}", lambda tiny: visualize_reverse_process(tiny(), IMAGE.numpy()), TypeError,
                "image is a ndarray", "expected a file, a PIL image or a tensor",
                "Convert an array with PIL.Image.fromarray"),
        Message("image has shape {}", lambda tiny: visualize_reverse_process(tiny(), IMAGE[None]), ValueError,
                "shape (1, 3, 32, 32)", "expected one color image", "Take one of a batch with image[0]"),
    ),
    *in_module(
        "visualization/explain.py",
        Message("{} exists{}", explain_over_a_file, FileExistsError,
                str(Path("out/a.gif")), "choose another --output", "pass --overwrite true"),
        Message("There is no checkpoint {}", lambda tmp_path: explain(tmp_path, "a.png", checkpoint="gone.ckpt"),
                FileNotFoundError, "gone.ckpt", "the model.ckpt of a training", "with --ckpt"),
        Message("num_inference_steps={} is no parameter", explain_one_step_in_several, ValueError,
                "num_inference_steps=2 is no parameter of DiffusionAD", "expected a model that takes several passes",
                "Leave it out"),
        Message("{} belongs to none of {}", explain_what_belongs_to_no_model, ValueError,
                "other.ckpt belongs to none of", "its weights are named backbone.weight",
                "Pass the model.ckpt of a training with one of these models"),
        Message("device={} cannot be used", lambda tmp_path: explain(tmp_path, "a.png", device="toaster"), ValueError,
                "device='toaster'", "auto, cpu, cuda, mps or another that is there", "Choose"),
        Message("There is no image in the folder {}", explain_an_empty_folder, FileNotFoundError,
                str(Path("/photographs")), "a folder that holds some", "Pass an image"),
        Message(
            "There is no {}. Pass an image",
            lambda tmp_path: explain_files([tmp_path / "gone.png"], Path("model.ckpt"), tmp_path),
            FileNotFoundError,
            "gone.png",
            "an image, or a folder of images",
            "Pass",
        ),
        Message("--output {} is one file", lambda tmp_path: explain(tmp_path, "a.png", "b.png", output="out.png"),
                ValueError, "out.png is one file", "there are 2 images", "Pass a folder instead"),
    ),
    *in_module(
        "visualization/training_grid.py",
        Message("{}={} is impossible", lambda: TrainingGrid(num_samples=0), ValueError,
                "num_samples=0", "expected 1 or more", "pass visualizer=False"),
        Message("The training goes on without a picture", train_without_a_folder, UserWarning,
                "epoch_0001.png", "The training goes on without a picture",
                "Check that the disk has space and that the folder is writable"),
    ),
    *in_module(
        "cli.py",
        Message("{} fits no model", convert_what_fits_no_model, ValueError,
                "weights.pt fits no model", "expected a checkpoint of the authors' code", "Not for TransFusion"),
        Message("{} exists; choose", lambda: convert(Path("official.pkl"), Path(__file__)), FileExistsError,
                f"{Path(__file__).name} exists", "choose another name", "pass --overwrite true"),
        Message("There is no folder {}", lambda tmp_path: convert(Path("official.pkl"), tmp_path / "gone/model.ckpt"),
                FileNotFoundError, str(Path("/gone")), "to write model.ckpt into", "make it first"),
        Message("anomalib-transfusion: {}", type_report, SystemExit,
                "There is no gone", "a results.csv", "Pass the output_dir of a benchmark"),
    ),
]
# fmt: on
