# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The ways to do the work that contenders of configs/benchmark/speed.yaml have, and the sizes at which they meet."""

import argparse
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage
import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anomalib_transfusion import TransFusion
from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from anomalib_transfusion.models.transfusion.training_sample import TrainingSampler
from anomalib_transfusion.networks.acceleration import Precision
from anomalib_transfusion.synthesis import TextureBank
from anomalib_transfusion.synthesis.sources import PHOTOGRAPHS
from measure import Built, Contender, Setting

# The reference implementation is the tests'.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from plain_path import plain_copy, plain_reverse_process, plain_synthesis, plain_training_step

CONFIG = Path(__file__).resolve().parents[1] / "configs/benchmark/speed.yaml"
# The networks: of the tests, of the demo, and of the paper.
NETWORKS: dict[str, dict[str, Any]] = {
    "tiny": {
        "timesteps": 4,
        "base_channels": 8,
        "channel_multipliers": (1, 2),
        "num_blocks": 1,
        "attention_levels": (-1,),
    },
    "small": {"base_channels": 8, "num_blocks": 1, "attention_levels": (-1,)},
    "full": {},
}
IMAGE_SIZES = {"tiny": 64, "small": 128, "full": 256}
# Of Patchcore: a tenth of the patches of 200 images at 256 px, and less.
MEMORY_BANKS = {"tiny": 64, "small": 5000, "full": 20_000}
# A pass of the full network takes seconds on a CPU, and any pass takes as long as another.
PASSES_ON_CPU = 2
# The plain path takes one image at a time, so that a few stand for many.
PLAIN_IMAGES = 2
# About the size of the photographs of DTD.
TEXTURE_SIZE = 500


def make_setting(options: argparse.Namespace, batch: int, textures: Path, image_size: int | None = None) -> Setting:
    """Return what the command line asks for."""
    on_gpu = options.device == "cuda"
    torch.set_num_threads(options.threads)
    network = NETWORKS[options.size]
    all_passes = network.get("timesteps", 20) - 1
    compiled = options.size != "tiny" if options.compile is None else options.compile
    return Setting(
        size=options.size,
        device=options.device,
        batch=batch,
        image_size=image_size or IMAGE_SIZES[options.size],
        network=network,
        passes=PASSES_ON_CPU if options.size == "full" and not on_gpu else all_passes,
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


def _transfusion(setting: Setting, precision: Precision = "auto", channels_last: bool | None = None) -> TransFusion:
    size = (setting.image_size, setting.image_size)
    model = TransFusion(
        pre_processor=TransFusion.configure_pre_processor(size),
        visualizer=False,
        dtd_dir=setting.textures,
        precision=precision,
        channels_last=channels_last,
        **setting.network,
    )
    return model.to(setting.device)


def _compile(setting: Setting, network: nn.Module) -> None:
    """Compile a network in place; a single image on a GPU as a CUDA graph, since there the host is what takes time."""
    network.compile(mode="reduce-overhead" if setting.device == "cuda" and setting.batch == 1 else "default")


def _shorten(setting: Setting, model: TransFusionModel) -> float:
    """Let a model run as many passes as the setting has, and return the share of the whole process."""
    model.inference_timesteps = model.inference_timesteps[: setting.passes]
    return setting.passes / setting.all_passes


@lru_cache
def _flops(network: str, image_size: int, training: bool) -> float:
    """Count the operations of a network pass on one image, and of its gradients, without running it."""
    with torch.device("meta"):
        model = TransFusion(**NETWORKS[network]).model.to("meta").train()
        inputs = (torch.zeros(1, 3, image_size, image_size), torch.zeros(1, 1, image_size, image_size), torch.ones(1))
        with FlopCounterMode(display=False) as counter:
            prediction = model(*inputs)
            if training:
                torch.stack([head.sum() for head in prediction]).sum().backward()
    return float(counter.get_total_flops())


def _flops_of_inference(setting: Setting) -> float:
    return setting.all_passes * _flops(setting.size, setting.image_size, training=False)


def _flops_of_training(setting: Setting) -> float:
    return _flops(setting.size, setting.image_size, training=True)


# Synthesis: a unit is an anomalous sample.


def _sampler(setting: Setting) -> TrainingSampler:
    """Return the sampler of a training with the setting's textures."""
    return TransFusion(dtd_dir=setting.textures, **NETWORKS["tiny"]).sampler


def _our_generator(setting: Setting) -> Built:
    size = (setting.image_size, setting.image_size)
    generator = _sampler(setting).make_generator(TextureBank.from_folder(setting.textures, size))
    return Built(partial(generator, _images(setting)), setting.batch // 2)


def _our_sampler(setting: Setting, per: int = 2) -> Built:
    sampler = _sampler(setting)
    sampler.prepare()
    beta = torch.linspace(0, 1, 20, device=setting.device)
    return Built(partial(sampler, _images(setting), beta), setting.batch // per)


def _plain_sampler(setting: Setting) -> Built:
    textures = sorted(Path(setting.textures).rglob("*.jpg"))
    beta = torch.linspace(0, 1, 20, device=setting.device)
    call = partial(plain_synthesis, _images(setting), beta, textures, np.random.default_rng(0))
    return Built(call, setting.batch // 2)


def _anomalib_perlin(setting: Setting) -> Built:
    from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator

    generator = PerlinAnomalyGenerator(setting.textures, probability=1.0)
    return Built(partial(generator, _images(setting, setting.batch // 2)), setting.batch // 2)


# Training: a unit is a sample.


def _our_training(
    setting: Setting,
    precision: Precision = "auto",
    channels_last: bool | None = None,
    compiled: bool = False,
) -> Built:
    """Train as ``TransFusion.training_step`` and its optimiser do."""
    lightning = _transfusion(setting, precision, channels_last)
    model, images = lightning.model.train(), _images(setting)
    if compiled:
        _compile(setting, model.network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lightning.learning_rate)

    def step() -> None:
        sample = lightning.sampler(images, model.beta)
        beta, next_beta = (model.beta[sample.timestep - back].view(-1, 1, 1, 1) for back in (0, 1))
        prediction = model(sample.x_t, sample.previous_mask, sample.timestep)
        terms = lightning.loss(prediction, sample.target, sample.x_t, beta, next_beta)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()

    return Built(step, setting.batch)


def _plain_training(setting: Setting) -> Built:
    lightning = _transfusion(setting)
    model, images = plain_copy(lightning.model).train(), _images(setting)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lightning.learning_rate)
    textures = sorted(Path(setting.textures).rglob("*.jpg"))
    random = np.random.default_rng(0)

    def step() -> None:
        sample = plain_synthesis(images, model.beta, textures, random)
        terms = plain_training_step(model, lightning.loss, sample)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()

    return Built(step, setting.batch)


# Inference: a unit is an image.


def _our_inference(
    setting: Setting,
    precision: Precision = "auto",
    channels_last: bool | None = None,
    compiled: bool = False,
) -> Built:
    """Run the reverse process on a batch."""
    model, images = _transfusion(setting, precision, channels_last).model.eval(), _images(setting)
    share = _shorten(setting, model)
    if compiled:
        _compile(setting, model.network)

    @torch.no_grad()
    def predict() -> None:
        model(images)

    return Built(predict, setting.batch * share)


def _plain_inference(setting: Setting) -> Built:
    model = plain_copy(_transfusion(setting).model).eval()
    images = _images(setting, min(setting.batch, PLAIN_IMAGES))
    return Built(partial(plain_reverse_process, model, images), len(images) * _shorten(setting, model))


def _model(
    setting: Setting,
    class_path: str,
    init_args: dict[str, Any] | None = None,
    tiny: dict[str, Any] | None = None,
) -> Built:
    """Run another network with weights drawn at random, which take as long as any."""
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


# Ways to do the work, and the operations that each needs for a unit.
BUILDERS: dict[str, tuple[Callable[..., Built], Callable[[Setting], float] | None]] = {
    "anomalib_perlin": (_anomalib_perlin, None),
    "our_generator": (_our_generator, None),
    "our_sampler": (_our_sampler, None),
    "plain_sampler": (_plain_sampler, None),
    "plain_training": (_plain_training, _flops_of_training),
    "our_training": (_our_training, _flops_of_training),
    "plain_inference": (_plain_inference, _flops_of_inference),
    "our_inference": (_our_inference, _flops_of_inference),
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
            lists[benchmark].append(Contender(entry["name"], partial(build, **arguments), flops, compiled))
    return lists


SYNTHESIS, TRAINING, INFERENCE = (read_contenders()[name] for name in ("synthesis", "training", "inference"))
