# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The quality benchmark as a person starts it, at tiny size, and its metrics against independent arithmetic."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from anomalib.models import Patchcore
from anomalib.pre_processing import PreProcessor
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_transfusion import DemoSurface
from paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from defects import ALL, Found, denormalize, measure, read_batches


def test_metrics_of_each_kind_against_scikit_learn():
    random = torch.Generator().manual_seed(0)
    kinds = np.array(["good"] * 6 + ["hole"] * 5 + ["crack"] * 4)
    masks = torch.rand(15, 16, 16, generator=random) > 0.8
    masks[:6] = False
    maps = torch.rand(15, 16, 16, generator=random) + 0.3 * masks
    scores = torch.rand(15, generator=random) + 0.2 * torch.from_numpy(kinds == "hole")
    found = Found(torch.zeros(15, 3, 16, 16), masks, kinds, maps, scores, None, 1.0)
    results = measure(found)
    assert list(results) == [ALL, "crack", "hole"]
    for kind, chosen in (("hole", kinds != "crack"), ("crack", kinds != "hole"), (ALL, kinds != "")):
        labels, values = kinds[chosen] != "good", scores[chosen].numpy()
        assert results[kind]["images"] == chosen.sum()
        assert results[kind]["image_AUROC"] == pytest.approx(roc_auc_score(labels, values), abs=1e-5)
        best = max(f1_score(labels, values >= value) for value in values)
        assert results[kind]["image_F1Max"] == pytest.approx(best, abs=1e-5)
        pixels = roc_auc_score(masks[chosen].numpy().ravel(), maps[chosen].numpy().ravel())
        assert results[kind]["pixel_AUROC"] == pytest.approx(pixels, abs=1e-4)
        assert 0 <= results[kind]["pixel_AUPRO"] <= 1


def test_units_of_a_model_do_not_matter():
    random = torch.Generator().manual_seed(0)
    kinds = np.array(["good"] * 6 + ["hole"] * 5)
    masks = torch.rand(11, 16, 16, generator=random) > 0.8
    masks[:6] = False
    maps, scores = torch.rand(11, 16, 16, generator=random) + 0.3 * masks, torch.rand(11, generator=random)
    found = Found(torch.zeros(11, 3, 16, 16), masks, kinds, maps, scores, None, 1.0)
    # Distances as Patchcore's, of which a sigmoid would leave nothing.
    distances = found._replace(maps=30 + 20 * maps, scores=30 + 20 * scores)
    assert measure(distances)[ALL] == pytest.approx(measure(found)[ALL], abs=1e-4)
    assert 0 < measure(found)[ALL]["image_AUROC"] < 1


def test_images_are_shown_as_they_are_not_as_a_model_normalises_them(tmp_path):
    DemoSurface(root=tmp_path, category="brick", image_size=64, num_train_images=2, num_test_images=2).prepare_data()

    def images(*normalize):
        transform = Compose([Resize((64, 64)), *normalize])
        model = Patchcore("resnet18", ["layer1"], pre_trained=False, pre_processor=PreProcessor(transform))
        data = DemoSurface(root=tmp_path, category="brick", image_size=64, num_train_images=2, num_test_images=2)
        return denormalize(model, torch.cat([batch.image for batch in read_batches(model, data)]))

    plain = images()
    assert plain.std() > 0.05
    assert torch.allclose(images(Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))), plain, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A category in MVTec AD's layout and a folder of textures."""
    folder = tmp_path_factory.mktemp("quality")
    DemoSurface(
        root=folder / "data",
        category="brick",
        image_size=64,
        num_train_images=8,
        num_test_images=4,
        num_defect_images=3,
    ).prepare_data()
    (folder / "textures/some").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    for number, texture in enumerate(pixels):
        Image.fromarray(texture).save(folder / f"textures/some/{number}.jpg")
    return folder


def run(folder, *arguments):
    """Run the benchmark where no backbone can be downloaded, and return its result, its page and what it printed."""
    command = [sys.executable, str(ROOT / "benchmarks/quality.py"), "--root", "data", "--category", "brick"]
    command += ["--textures", "textures", "--size", "tiny", "--device", "cpu", "--workers", "0", "--output", "out"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "no_hub")}
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (folder / "out").glob("brick-tiny-*.json")
    return json.loads(path.read_text()), path.with_suffix(".md").read_text(), done.stdout


def test_a_run_that_goes_on(folder):
    """One model trains, another lacks its backbone; the same again, with one, keeps the first and adds the second."""
    arguments = ("--minutes", "0.5", "--models", "TransFusion", "Patchcore")
    result, page, printed = run(folder, *arguments)
    ours, theirs = result["rows"]
    assert (ours["model"], ours["status"]) == ("TransFusion", "done")
    assert (theirs["model"], theirs["status"]) == ("Patchcore", "failed")
    # 36 % of 30 seconds, and the step that was running.
    assert 10.8 <= ours["training_seconds"] < 30
    assert ours["steps"] > 0
    kinds = {path.name for path in (folder / "data/brick/test").iterdir()} - {"good"}
    assert set(ours["metrics"]) == {"all", *kinds}
    assert ours["metrics"]["all"]["images"] == sum(1 for _ in (folder / "data/brick/test").rglob("*.png"))
    assert "| TransFusion |" in page
    assert "LocalEntryNotFoundError" in theirs["error"]
    assert "Patchcore, seed 0, failed: " in page
    picture = folder / "out" / ours["pictures"]
    assert picture.name in page
    assert Image.open(picture).format == "JPEG"
    assert "TransFusion, seed 0:" in printed
    again, page, printed = run(folder, *arguments, "--no-pretrained")
    assert again["rows"][0] == ours
    assert [(row["model"], row["status"]) for row in again["rows"]] == [("TransFusion", "done"), ("Patchcore", "done")]
    assert "TransFusion, seed 0:" not in printed
    assert "| Patchcore   |" in page
    for row in again["rows"]:
        line = f"    # {row['model']} 0; threads: {torch.get_num_threads()}\n    {row['command']}\n"
        assert line in page
    assert again["rows"][1]["command"].endswith("--no-pretrained")
