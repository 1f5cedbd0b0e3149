# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What a model finds in a test, and its metrics, against independent arithmetic."""

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from anomalib.models import Patchcore
from anomalib.pre_processing import PreProcessor
from contract_models import each_model
from sklearn.metrics import f1_score, roc_auc_score
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_transfusion import DemoSurface
from anomalib_transfusion.benchmark.detection import ALL, Detections, Found, columns_of, measure


def test_metrics_of_each_kind_against_scikit_learn():
    random = torch.Generator().manual_seed(0)
    kinds = np.array(["good"] * 6 + ["hole"] * 5 + ["crack"] * 4)
    masks = torch.rand(15, 16, 16, generator=random) > 0.8
    masks[:6] = False
    maps = torch.rand(15, 16, 16, generator=random) + 0.3 * masks
    scores = torch.rand(15, generator=random) + 0.2 * torch.from_numpy(kinds == "hole")
    found = Found(torch.zeros(15, 3, 16, 16), masks, kinds, maps, scores, None)
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
    columns = columns_of(found)
    assert columns["image_AUROC"] == results[ALL]["image_AUROC"]
    assert columns["kind.hole.pixel_AUPRO"] == results["hole"]["pixel_AUPRO"]
    assert columns["kind.crack.images"] == results["crack"]["images"]


def test_each_category_alone_and_their_mean():
    """A category is worth what it is alone, in units of its own; one without defects has no value."""
    random = torch.Generator().manual_seed(1)
    kinds = np.array(["good", "good", "hole", "hole", "good", "hole", "good", "good", "crack", "good"])
    categories = np.array(["01", "wood", "wood", "01", "wood", "wood", "01", "01", "01", "grid"])
    masks = torch.zeros(10, 16, 16, dtype=torch.bool)
    masks[kinds != "good", 3:9, 4:8] = True
    scores = torch.rand(10, generator=random)
    maps = torch.rand(10, 16, 16, generator=random)
    # Scores of one category lie above all of the other's.
    scores[categories == "01"] += 5
    columns = columns_of(Found(torch.zeros(10, 3, 16, 16), masks, kinds, maps, scores, None, categories))
    expected = {}
    for name in ("01", "wood"):
        chosen = categories == name
        expected[name] = roc_auc_score(kinds[chosen] != "good", scores[chosen].numpy())
        assert columns[f"image_AUROC_{name}"] == pytest.approx(expected[name], abs=1e-6)
        pixels = roc_auc_score(masks[chosen].numpy().ravel(), maps[chosen].numpy().ravel())
        assert columns[f"pixel_AUROC_{name}"] == pytest.approx(pixels, abs=1e-5)
    assert columns["image_AUROC"] == pytest.approx((expected["01"] + expected["wood"]) / 2)
    assert columns["image_AUROC_num_categories"] == columns["pixel_AUPRO_num_categories"] == 2
    assert not [name for name in columns if "grid" in name]
    chosen = (categories == "01") & (kinds != "crack")
    alone = roc_auc_score(kinds[chosen] != "good", scores[chosen].numpy())
    assert columns["kind.01/hole.image_AUROC"] == pytest.approx(alone, abs=1e-6)
    assert {name.split(".")[1] for name in columns if name.startswith("kind.")} == {"01/crack", "01/hole", "wood/hole"}


def test_units_of_a_model_do_not_matter():
    random = torch.Generator().manual_seed(0)
    kinds = np.array(["good"] * 6 + ["hole"] * 5)
    masks = torch.rand(11, 16, 16, generator=random) > 0.8
    masks[:6] = False
    maps, scores = torch.rand(11, 16, 16, generator=random) + 0.3 * masks, torch.rand(11, generator=random)
    found = Found(torch.zeros(11, 3, 16, 16), masks, kinds, maps, scores, None)
    # Distances as Patchcore's, of which a sigmoid would leave nothing.
    distances = found._replace(maps=30 + 20 * maps, scores=30 + 20 * scores)
    assert measure(distances)[ALL] == pytest.approx(measure(found)[ALL], abs=1e-4)
    assert 0 < measure(found)[ALL]["image_AUROC"] < 1


def detections(model, data, tmp_path):
    """Test a model, and return what was gathered."""
    model.visualizer, gathered = None, Detections()
    engine = Engine(callbacks=[gathered], logger=False, default_root_dir=tmp_path, accelerator="cpu", devices=1)
    engine.test(model, datamodule=data, verbose=False)
    return gathered.found


def test_images_are_shown_as_they_are_not_as_a_model_normalizes_them(tmp_path):
    def images(*normalize):
        transform = Compose([Resize((64, 64)), *normalize])
        model = Patchcore("resnet18", ["layer1"], pre_trained=False, pre_processor=PreProcessor(transform))
        # A model that was fitted has some patches.
        model.model.memory_bank = torch.rand(4, 64)
        data = DemoSurface(tmp_path, "brick", image_size=64, num_train_images=2, num_test_images=2, num_workers=0)
        return detections(model, data, tmp_path).images

    plain = images()
    assert plain.std() > 0.05
    assert torch.allclose(images(Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))), plain, atol=1e-5)


@each_model
def test_what_is_gathered_is_the_models_own(model, surface, tmp_path):
    """Maps and scores before the post-processor, kinds by folder, reconstructions in [0, 1]."""
    torch.manual_seed(0)
    model = model.build()
    found = detections(model, surface, tmp_path)
    assert sorted(set(found.kinds)) == ["crack", "displaced", "good", "hole", "scratch", "stain"]
    assert (found.masks.flatten(1).any(dim=1).numpy() == (found.kinds != "good")).all()
    expected, panels = model.eval().evaluate(found.images)
    assert torch.allclose(found.maps, expected.anomaly_map[:, 0], atol=1e-5)
    assert torch.allclose(found.scores, expected.pred_score.flatten(), atol=1e-5)
    assert found.reconstructions.std() > 0.01
    assert torch.allclose(found.reconstructions, panels["Reconstruction"], atol=1e-5)
