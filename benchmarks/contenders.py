# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Builders of the contenders in configs/benchmark/speed.yaml, and the sizes at which they are compared."""

import argparse
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import skimage
import torch
import yaml

from anomalib_transfusion.synthesis.sources import PHOTOGRAPHS
from measure import Built, Contender, Setting

# The plain, unoptimized implementations are in the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from subject import Subject
from subject_diffusion_ad import DiffusionADSubject
from subject_transfusion import TransFusionSubject

CONFIG = Path(__file__).resolve().parents[1] / "configs/benchmark/speed.yaml"
SUBJECTS: dict[str, Subject] = {"TransFusion": TransFusionSubject(), "DiffusionAD": DiffusionADSubject()}
IMAGE_SIZES = {"tiny": 64, "small": 128, "full": 256}
# Rows of Patchcore's memory bank: at full size a tenth of the patches of 200 images at 256 px.
MEMORY_BANKS = {"tiny": 64, "small": 5000, "full": 20_000}
# A pass of the full network takes seconds on a CPU, and all passes take equally long.
PASSES_ON_CPU = 2
# The plain path takes one image at a time, so that a few stand for many.
PLAIN_IMAGES = 2
# About the size of the photographs of DTD.
TEXTURE_SIZE = 500


def make_setting(options: argparse.Namespace, batch: int, textures: Path, image_size: int | None = None) -> Setting:
    """Return the setting for the options of the command line."""
    on_gpu = options.device == "cuda"
    torch.set_num_threads(options.threads)
    if options.model not in SUBJECTS:
        msg = f"--model {options.model} is unknown; choose one of {', '.join(SUBJECTS)}."
        raise SystemExit(msg)
    subject = SUBJECTS[options.model]
    network = {**subject.networks[options.size], **dict(options.network or [])}
    all_passes = subject.passes(network)
    compiled = options.size != "tiny" if options.compile is None else options.compile
    return Setting(
        model=options.model,
        size=options.size,
        device=options.device,
        batch=batch,
        image_size=image_size or IMAGE_SIZES[options.size],
        network=network,
        passes=min(PASSES_ON_CPU, all_passes) if options.size == "full" and not on_gpu else all_passes,
        all_passes=all_passes,
        memory_bank=MEMORY_BANKS[options.size],
        textures=str(options.textures or textures),
        compiled=compiled,
        threads=options.threads,
    )


def write_textures(folder: Path) -> None:
    """Write scikit-image's photographs as JPEGs of DTD's size, so that every contender draws from the same files."""
    for name in PHOTOGRAPHS:
        image = cv2.imread(str(Path(skimage.__file__).parent / "data" / name))
        if image is not None:
            scale = TEXTURE_SIZE / max(image.shape)
            cv2.imwrite(str(folder / f"{Path(name).stem}.jpg"), cv2.resize(image, None, fx=scale, fy=scale))


def _images(setting: Setting, batch: int | None = None) -> torch.Tensor:
    return torch.rand(batch or setting.batch, 3, setting.image_size, setting.image_size, device=setting.device)


def _compile(setting: Setting, model: Any) -> None:  # noqa: ANN401
    """Compile networks in place; for a single image on a GPU as a CUDA graph, since the host limits the speed."""
    for network in SUBJECTS[setting.model].to_compile(model):
        network.compile(mode="reduce-overhead" if setting.device == "cuda" and setting.batch == 1 else "default")


def _flops(setting: Setting, training: bool) -> float:
    """Return the floating point operations of a unit."""
    return _count_flops(setting.model, tuple(sorted(setting.network.items())), setting.image_size, training)


@lru_cache
def _count_flops(model: str, network: tuple[tuple[str, Any], ...], image_size: int, training: bool) -> float:
    return SUBJECTS[model].flops(dict(network), image_size, training)


# Synthesis: a unit is an anomalous sample.


def _our_generator(setting: Setting) -> Built:
    return Built(partial(SUBJECTS[setting.model].generator(setting), _images(setting)), setting.batch // 2)


def _our_sampler(setting: Setting, per: int = 2) -> Built:
    return Built(partial(SUBJECTS[setting.model].make_samples(setting), _images(setting)), setting.batch // per)


def _plain_sampler(setting: Setting) -> Built:
    return Built(partial(SUBJECTS[setting.model].plain_samples(setting), _images(setting)), setting.batch // 2)


def _anomalib_perlin(setting: Setting) -> Built:
    from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator

    generator = PerlinAnomalyGenerator(setting.textures, probability=1.0)
    return Built(partial(generator, _images(setting, setting.batch // 2)), setting.batch // 2)


# Training: a unit is a sample.


def _our_training(setting: Setting, compiled: bool = False, **parameters: Any) -> Built:  # noqa: ANN401
    """Train as ``training_step`` of the model and its optimizer do."""
    subject, images = SUBJECTS[setting.model], _images(setting)
    lightning = subject.build(setting, **parameters)
    lightning.model.train()
    lightning.sampler.prepare()
    if compiled:
        _compile(setting, lightning.model)
    optimizer = subject.optimizer(lightning)

    def step() -> None:
        loss = subject.loss(lightning, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Built(step, setting.batch)


def _plain_training(setting: Setting) -> Built:
    return Built(SUBJECTS[setting.model].plain_step(setting, _images(setting)), setting.batch)


# Inference: a unit is an image.


def _our_inference(setting: Setting, compiled: bool = False, **parameters: Any) -> Built:  # noqa: ANN401
    """Predict a batch."""
    subject, images = SUBJECTS[setting.model], _images(setting)
    model = subject.build(setting, **parameters).model.eval()
    share = subject.shorten(model, setting)
    if compiled:
        _compile(setting, model)

    @torch.no_grad()
    def predict() -> None:
        model(images)

    return Built(predict, setting.batch * share)


def _plain_inference(setting: Setting) -> Built:
    images = _images(setting, min(setting.batch, PLAIN_IMAGES))
    predict, share = SUBJECTS[setting.model].plain_prediction(setting, images)
    return Built(predict, len(images) * share)


def _model(
    setting: Setting,
    class_path: str,
    init_args: dict[str, Any] | None = None,
    tiny: dict[str, Any] | None = None,
) -> Built:
    """Run another network with random weights, which do not affect the time."""
    module, name = class_path.rsplit(".", 1)
    arguments = {**(init_args or {}), **((tiny or {}) if setting.size == "tiny" else {})}
    model = getattr(import_module(module), name)(**arguments)
    if hasattr(model, "memory_bank"):
        with torch.no_grad():
            channels = model(_images(setting, 1).cpu()).shape[1]
        model.memory_bank = torch.rand(setting.memory_bank, channels)
    model, images = model.to(setting.device).eval(), _images(setting)

    @torch.no_grad()
    def predict() -> None:
        model(images)

    return Built(predict, setting.batch)


# Builders of contenders by name, with the function that counts the floating point operations of a unit.
BUILDERS: dict[str, tuple[Callable[..., Built], Callable[[Setting], float] | None]] = {
    "anomalib_perlin": (_anomalib_perlin, None),
    "our_generator": (_our_generator, None),
    "our_sampler": (_our_sampler, None),
    "plain_sampler": (_plain_sampler, None),
    "plain_training": (_plain_training, partial(_flops, training=True)),
    "our_training": (_our_training, partial(_flops, training=True)),
    "plain_inference": (_plain_inference, partial(_flops, training=False)),
    "our_inference": (_our_inference, partial(_flops, training=False)),
    "model": (_model, None),
}


def read_contenders(path: Path = CONFIG) -> dict[str, list[Contender]]:
    """Read the contenders of each benchmark from a config."""
    lists: dict[str, list[Contender]] = {}
    for benchmark, entries in yaml.safe_load(path.read_text("utf-8")).items():
        lists[benchmark] = []
        for entry in entries:
            build, flops = BUILDERS[entry["build"]]
            arguments = entry.get("arguments", {})
            compiled = arguments.get("compiled", False)
            built = partial(build, **arguments)
            lists[benchmark].append(Contender(entry["name"], built, flops, compiled, entry.get("models")))
    return lists


SYNTHESIS, TRAINING, INFERENCE = (read_contenders()[name] for name in ("synthesis", "training", "inference"))
