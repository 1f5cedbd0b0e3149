# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Weights and trainers in other precisions than 32 bits: they work, or are refused before the run."""

import pytest
import torch
from anomalib.deploy import TorchInferencer
from anomalib.engine import Engine
from lightning.pytorch import seed_everything

from anomalib_transfusion import TransFusion
from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from conftest import NETWORK, TINY
from parts import part

# How far results may be from those in single precision: some steps of the type at 1.
TOLERANCES = {torch.float16: 6e-3, torch.bfloat16: 5e-2, torch.float64: 1e-5}
PRECISIONS = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}


def make_engine(folder, **arguments):
    """Return an engine on the CPU with as little around it as possible."""
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "max_epochs": 1}
    return Engine(default_root_dir=folder, **{**defaults, **arguments})


@pytest.fixture(scope="module")
def images():
    """Return images in [0, 1] on a grid of bfloat16, so that they are the same in each precision."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 128, (3, 3, 32, 32), generator=generator) / 128


@pytest.fixture(scope="module")
def trained(tmp_path_factory, surface_root):
    """Return a model with a threshold, its checkpoint and data."""
    from anomalib_transfusion import DemoSurface
    from conftest import SURFACE

    seed_everything(5)
    model = TransFusion(
        pre_processor=TransFusion.configure_pre_processor((32, 32)),
        visualizer=False,
        **TINY,
    )
    engine = make_engine(tmp_path_factory.mktemp("trained"))
    engine.fit(model, datamodule=DemoSurface(root=surface_root, **SURFACE))
    return engine.best_model_path


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("of_images", [torch.bfloat16, torch.float32, torch.float64])
def test_maps_are_those_of_single_precision(images, dtype, of_images):
    torch.manual_seed(0)
    model = part(TransFusionModel, **NETWORK, timesteps=4, precision="single").eval()
    # Masks far from 0.5: at it, rounding would turn the steps of single pixels.
    model.network.mask_head.conv.bias.data.fill_(3.0)
    expected, process = model.predict(images)
    model.to(dtype)
    found, converted = model.predict(images.to(of_images))
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    assert {weight.dtype for weight in model.network.parameters()} == {dtype}
    for mine, other in ((found.anomaly_map, expected.anomaly_map), (converted.reconstruction, process.reconstruction)):
        assert mine.dtype == precise
        torch.testing.assert_close(mine.float(), other, rtol=0, atol=TOLERANCES[dtype])
    assert not torch.equal(found.anomaly_map.float(), expected.anomaly_map)
    # The schedule is exact, also after the way back.
    assert torch.equal(model.float().beta, torch.linspace(0, 1, 4))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_evaluates_in_the_precision_of_the_trainer(trained, surface, tiny, tmp_path, precision):
    """In validate, test and predict; a checkpoint is read in any precision."""
    single, model = make_engine(tmp_path / "single", precision=32), tiny()
    others = single.predict(tiny(), datamodule=surface, ckpt_path=trained)
    engine = make_engine(tmp_path / "other", precision=precision)
    [validated] = engine.validate(model, datamodule=surface, ckpt_path=trained)
    assert {weight.dtype for weight in model.model.network.parameters()} == {PRECISIONS[precision]}
    [tested] = engine.test(model, datamodule=surface, ckpt_path=trained)
    assert all(0 <= value <= 1 for value in (*validated.values(), *tested.values()))
    assert set(tested) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"}
    for batch, other in zip(engine.predict(model, datamodule=surface, ckpt_path=trained), others, strict=True):
        torch.testing.assert_close(batch.anomaly_map, other.anomaly_map, rtol=0, atol=0.02)
        torch.testing.assert_close(batch.pred_score.float(), other.pred_score, rtol=0, atol=0.15)


@pytest.mark.parametrize(
    ("convert", "precision", "value"),
    [
        (None, "16-true", "precision='16-true'"),
        (None, "bf16-true", "precision='bf16-true'"),
        (torch.float16, 32, "weights of torch.float16"),
        (torch.bfloat16, "bf16-mixed", "weights of torch.bfloat16"),
    ],
)
def test_training_in_16_bits_is_refused_before_it_begins(surface, tiny, tmp_path, convert, precision, value):
    model = tiny() if convert is None else tiny().to(convert)
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(ValueError, match=rf"{value} cannot be trained: .* 32 or 64 bits. Use .*'bf16-mixed'"):
        make_engine(tmp_path, precision=precision).fit(model, datamodule=surface)
    assert all(torch.equal(old.float(), new.float()) for old, new in zip(before, model.parameters(), strict=True))
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("by_trainer", [True, False])
def test_training_in_double_precision_draws_the_same_samples(surface, tiny, tmp_path, by_trainer):
    """By the trainer, and of a model that was converted; other anomalies would change the loss by far more."""
    losses, engine = {}, None
    for dtype in (torch.float32, torch.float64):
        seed_everything(1)
        model = tiny(texture_source="photographs", rotation_probability=1.0).to(torch.float32 if by_trainer else dtype)
        precision = {torch.float32: "32-true", torch.float64: "64-true"}[dtype if by_trainer else torch.float32]
        engine = make_engine(tmp_path / str(dtype), precision=precision)
        engine.fit(model, datamodule=surface)
        assert {weight.dtype for weight in model.parameters()} == {dtype}
        losses[dtype] = engine.trainer.callback_metrics["train_loss_epoch"].item()
    assert losses[torch.float64] == pytest.approx(losses[torch.float32], rel=1e-4)
    # Not its loss in single precision.
    assert losses[torch.float64] != losses[torch.float32]
    again = TransFusion.load_from_checkpoint(engine.best_model_path)
    for mine, other in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, other.float())
    threshold = model.post_processor._image_threshold
    assert again.post_processor._image_threshold.item() == pytest.approx(threshold.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_threshold_is_not_rounded(trained, dtype):
    model = TransFusion.load_from_checkpoint(trained)
    expected = {name: buffer.clone() for name, buffer in model.post_processor.named_buffers()}
    assert expected["_image_threshold"].isfinite()
    model.to(dtype)
    assert all(torch.equal(buffer, expected[name]) for name, buffer in model.post_processor.named_buffers())
    assert {weight.dtype for weight in model.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_export_to_torch(trained, tmp_path, images, dtype, monkeypatch):
    """The weights are written as they are."""
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = TransFusion.load_from_checkpoint(trained).eval().to(dtype)
    expected = model(images[:1])
    inferred = TorchInferencer(model.to_torch(tmp_path), device="cpu").predict(images[:1])
    torch.testing.assert_close(
        inferred.anomaly_map.flatten(),
        expected.anomaly_map.float().flatten(),
        rtol=0,
        atol=1e-4,
    )
