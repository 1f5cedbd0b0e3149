# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Bad input: a clear error that names the value, what was expected and what to do, or the correct result."""

import numpy as np
import pytest
import torch
from anomalib.data import Folder, PredictDataset
from anomalib.engine import Engine
from anomalib.models import Padim
from contract_models import MODELS, each_model
from lightning.pytorch import Trainer, seed_everything
from PIL import Image

from anomalib_transfusion import TransFusion


def engine(folder, **arguments):
    """Return an engine that trains a moment."""
    settings = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    return Engine(default_root_dir=folder, **{**settings, **arguments})


def picture(path, size=(48, 40), mode="RGB", seed=0):
    """Write a random picture in one of PIL's modes."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode=mode).save(path)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of own images: six normal ones, two defective ones, in different modes."""
    for number, mode in enumerate(("RGB", "L", "RGBA", "RGB", "L", "RGBA")):
        picture(tmp_path / "own/good" / f"{number}.png", mode=mode, seed=number)
    picture(tmp_path / "own/bad/0.png", mode="L", seed=10)
    picture(tmp_path / "own/bad/1.png", mode="RGBA", seed=11)
    return tmp_path / "own"


def own_data(folder, **arguments):
    """Return a data module whose training and validation read every image, however they are split."""
    settings = {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0, "normal_dir": "good", **arguments}
    settings["val_split_mode"] = "same_as_test"
    return Folder(name="own", root=folder, abnormal_dir="bad", **settings)


def test_gray_and_rgba_images(tiny, folder, tmp_path):
    """They train, and predict what their RGB versions predict."""
    model = tiny()
    run = engine(tmp_path)
    run.train(model, datamodule=own_data(folder))
    picture(tmp_path / "gray/0.png", mode="L")
    with Image.open(tmp_path / "gray/0.png") as image:
        (tmp_path / "color").mkdir()
        image.convert("RGB").save(tmp_path / "color/0.png")
        (tmp_path / "alpha").mkdir()
        image.convert("RGBA").save(tmp_path / "alpha/0.png")
    maps = [
        run.predict(model, dataset=PredictDataset(tmp_path / name))[0].anomaly_map
        for name in ("color", "gray", "alpha")
    ]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_corrupt_image_in_the_training_set(tiny, folder, tmp_path, num_workers):
    """PIL says "image file is truncated"; the file has to be named."""
    broken = folder / "good/3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{broken} cannot be read.*Replace it, or take it out"):
        engine(tmp_path).fit(tiny(), datamodule=own_data(folder, num_workers=num_workers))


def test_corrupt_image_in_prediction(tiny, folder, tmp_path):
    broken = folder / "good/3.png"
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{broken} cannot be read"):
        engine(tmp_path).predict(tiny(), dataset=PredictDataset(folder / "good"))


def test_folder_without_an_image(tiny, folder, tmp_path):
    (folder / "empty").mkdir()
    with pytest.raises(RuntimeError, match=rf"Found 0 .* images in {folder / 'empty'}"):
        engine(tmp_path).fit(tiny(), datamodule=own_data(folder, normal_dir="empty"))
    with pytest.raises(ValueError, match=f"Found 0 images in {folder / 'empty'}"):
        engine(tmp_path).predict(tiny(), dataset=PredictDataset(folder / "empty"))


def test_images_smaller_than_the_stride_of_the_network(tiny, tmp_path):
    """The pre-processor enlarges them, so they give a result like any other."""
    picture(tmp_path / "small/0.png", size=(1, 1))
    picture(tmp_path / "small/1.png", size=(3, 2))
    batches = engine(tmp_path).predict(tiny(), dataset=PredictDataset(tmp_path / "small"))
    assert all(torch.isfinite(batch.anomaly_map).all() for batch in batches)
    with pytest.raises(ValueError, match=r"1x1 pixels .* nearest sizes are 2x2"):
        tiny().model.eval()(torch.rand(1, 3, 1, 1))


def test_checkpoint_of_another_model(tiny, surface, tmp_path):
    other = Padim(backbone="resnet18", pre_trained=False)
    run = engine(tmp_path)
    run.fit(other, datamodule=surface)
    path = run.trainer.checkpoint_callback.best_model_path
    with pytest.raises(ValueError, match=r"checkpoint of another model.*Pass a checkpoint of TransFusion"):
        TransFusion.load_from_checkpoint(path)
    with pytest.raises(ValueError, match="checkpoint of another model"):
        engine(tmp_path / "test").test(tiny(), datamodule=surface, ckpt_path=path)


@each_model
def test_checkpoint_of_another_model_of_ours(model, surface, tmp_path):
    """Each refuses those of all others, loaded alone or by the engine."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for other in (other for other in MODELS if other is not model):
        trainer.strategy.connect(other.build())
        trainer.save_checkpoint(path := tmp_path / f"{other.name}.ckpt")
        message = rf"checkpoint of another model: none of its weights belongs to {model.class_name}'s network"
        with pytest.raises(ValueError, match=message):
            model.model_class.load_from_checkpoint(path)
        with pytest.raises(ValueError, match=message):
            engine(tmp_path / "test").test(model.build(), datamodule=surface, ckpt_path=path)


def test_checkpoint_with_other_parameters(tiny, surface, tmp_path):
    run = engine(tmp_path, limit_val_batches=0)
    run.fit(tiny(), datamodule=surface)
    path = run.trainer.checkpoint_callback.best_model_path
    for parameters, message in (
        ({"base_channels": 16}, "trained with base_channels=8, but this model has base_channels=16"),
        # These two would load without an error from torch, and give other results in silence.
        ({"timesteps": 10}, "trained with timesteps=4, but this model has timesteps=10"),
        ({"schedule": "root"}, "trained with schedule=linear, but this model has schedule=root"),
    ):
        with pytest.raises(ValueError, match=message):
            engine(tmp_path / "test").test(tiny(**parameters), datamodule=surface, ckpt_path=path)
    engine(tmp_path / "same").test(tiny(attention_levels=(1,), filter_size=3), datamodule=surface, ckpt_path=path)


def test_not_a_number_in_a_loss(tiny, surface, tmp_path):
    """The step and the term are named, and no checkpoint of the spoilt weights is written."""
    seed_everything(0)
    run = engine(tmp_path, max_epochs=3)
    with pytest.raises(FloatingPointError, match=r"not finite at step 1: .*train_loss_normal=.*smaller learning_rate"):
        run.fit(tiny(learning_rate=1e30), datamodule=surface)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_texture_folder_that_is_not_there(tiny, surface, tmp_path, monkeypatch):
    """Building, predicting and loading do not need it; training says what to pass, and leaves nothing half made."""
    # Nothing listens there, also on a machine with internet: a real download would take 600 MB.
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    model = tiny(texture_source="folder", dtd_dir=tmp_path / "dtd")
    assert engine(tmp_path).predict(model, datamodule=surface)
    with pytest.raises(RuntimeError, match=r"--model.dtd_dir.*--model.texture_source photographs"):
        engine(tmp_path).fit(model, datamodule=surface)
    assert not (tmp_path / "dtd").exists()


def test_texture_folder_without_images(tiny, surface, tmp_path):
    (tmp_path / "dtd").mkdir()
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "dtd")):
        engine(tmp_path).fit(tiny(texture_source="folder", dtd_dir=tmp_path / "dtd"), datamodule=surface)


def test_foreground_folder_that_is_not_there(tiny, surface, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "masks")):
        engine(tmp_path).fit(tiny(foreground=tmp_path / "masks"), datamodule=surface)
