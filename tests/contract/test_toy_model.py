# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The model of docs/develop.md, added as the page says, has all that the mix-in promises."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from anomalib.models import list_models
from PIL import Image

from anomalib_transfusion import visualize_reverse_process
from anomalib_transfusion.visualization.explain import explain_files
from paths import ROOT

PAGE = (ROOT / "docs/develop.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def redraw(tmp_path_factory):
    """Return the model's class, from the page, in a module of its own."""
    folder = tmp_path_factory.mktemp("package")
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (folder / "redraw_of_the_page.py").write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("redraw_of_the_page").Redraw
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def build(redraw):
    """Return a function that builds the model."""

    def build(**parameters):
        return redraw(**{"pre_processor": redraw.configure_pre_processor((32, 32)), "visualizer": False, **parameters})

    return build


def train(model, surface, folder, **arguments):
    """Train a model, and return the engine."""
    engine = Engine(logger=False, default_root_dir=folder, devices=1, accelerator="cpu", **arguments)
    engine.fit(model=model, datamodule=surface)
    return engine


def test_it_is_short_and_listed(redraw):
    assert "Redraw" in list_models(case="pascal")
    assert redraw.__mro__[1].__name__ == "DetectorMixin"
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(code.splitlines()) < 100


def test_it_learns_and_draws(build, surface, tmp_path):
    engine = Engine(logger=False, default_root_dir=tmp_path, devices=1, accelerator="cpu", max_epochs=2)
    [metrics] = engine.train(model=build(visualizer=True), datamodule=surface)
    assert set(metrics) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"}
    images = next(tmp_path.rglob("index.html")).parent
    assert {path.name for path in (images / "training").iterdir()} == {"epoch_0001.png", "epoch_0002.png"}
    assert "Reconstruction" not in (images / "index.html").read_text(encoding="utf-8").split("<body")[0]
    assert len(list(images.rglob("*.png"))) == 2 + 7


def test_resumed_it_is_the_same_bit_for_bit(build, surface, tmp_path):
    torch.manual_seed(0)
    whole = build()
    begun = {name: weight.clone() for name, weight in whole.state_dict().items()}
    torch.manual_seed(1)
    train(whole, surface, tmp_path / "whole", max_epochs=3)
    half = build()
    half.load_state_dict(begun)
    torch.manual_seed(1)
    checkpoint = train(half, surface, tmp_path / "half", max_epochs=1).trainer.checkpoint_callback.best_model_path
    resumed = build()
    engine = Engine(logger=False, default_root_dir=tmp_path / "rest", devices=1, accelerator="cpu", max_epochs=3)
    engine.fit(model=resumed, datamodule=surface, ckpt_path=checkpoint)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_other_checkpoints_are_refused(build, redraw, tiny, surface, tmp_path):
    checkpoint = train(build(), surface, tmp_path, max_epochs=1).trainer.checkpoint_callback.best_model_path
    assert redraw.load_from_checkpoint(checkpoint).hparams["filter_size"] == 5
    engine = Engine(logger=False, default_root_dir=tmp_path / "other", devices=1, accelerator="cpu")
    with pytest.raises(ValueError, match="trained with filter_size=5, but this model has filter_size=3"):
        engine.test(model=build(filter_size=3), datamodule=surface, ckpt_path=checkpoint)
    with pytest.raises(ValueError, match=r"none of its weights belongs to TransFusion's network"):
        engine.test(model=tiny(), datamodule=surface, ckpt_path=checkpoint)
    with pytest.raises(ValueError, match=r"none of its weights belongs to TransFusion's network"):
        type(tiny()).load_from_checkpoint(checkpoint)


def test_it_is_explained_by_what_it_evaluates_to(build, surface, tmp_path):
    checkpoint = train(build(), surface, tmp_path, max_epochs=1).trainer.checkpoint_callback.best_model_path
    images = sorted(surface.root.glob("brick/test/good/*.png"))[:1]
    explain_files(images, Path(checkpoint), tmp_path / "all.png", device="cpu", panel_size=64)
    explain_files(images, Path(checkpoint), tmp_path / "one.gif", device="cpu", rows=["reconstruction"], panel_size=64)
    assert Image.open(tmp_path / "one.gif").n_frames == 1
    # One column; image, reconstruction and map.
    assert 3 * 64 < Image.open(tmp_path / "all.png").height < 4 * 64
    with pytest.raises(ValueError, match=r"rows=.* expected some of image, reconstruction, map"):
        visualize_reverse_process(build(), torch.rand(3, 32, 32), rows=["mask"])
    with pytest.raises(ValueError, match=r"has the timesteps \(none\)"):
        visualize_reverse_process(build(), torch.rand(3, 32, 32), timesteps=[1])


def test_wrong_values_are_refused(build, surface, tmp_path):
    with pytest.raises(TypeError, match="filter_size='five' is of type str; expected a whole number"):
        build(filter_size="five")
    with pytest.raises(TypeError, match="unexpected keyword argument 'filter'"):
        build(filter=5)
    diverging = build(learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="train_loss_redrawing="):
        train(diverging, surface, tmp_path, max_epochs=5)
