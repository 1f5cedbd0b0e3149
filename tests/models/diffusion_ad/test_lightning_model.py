# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DiffusionAD in anomalib's engine, where it differs from other models: two rates, panels, its files."""

import math

import pytest
import torch
from contract_models import MODELS

from anomalib_transfusion import DiffusionAD
from anomalib_transfusion.cli import convert
from anomalib_transfusion.models.diffusion_ad.official import export_official

[TINY] = [model for model in MODELS if model.class_name == "DiffusionAD"]


def rates(schedule, steps, **limits):
    """Return the rate of each network after each of some steps, as torch's optimizer has it."""
    from lightning.pytorch import Trainer

    model = TINY.build(segmentation_learning_rate=1e-4, segmentation_schedule=schedule)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **limits)
    trainer.strategy.connect(model)
    model.trainer = trainer
    configured = model.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    seen = []
    for _ in range(steps):
        seen.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    assert type(optimizer) is torch.optim.Adam
    return zip(*seen, strict=True)


def test_published_rates_swing_every_twenty_steps():
    """As CosineAnnealingLR(T_max=10, eta_min=0), stepped after every iteration."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.Adam([parameter], lr=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=10, eta_min=0)
    expected = []
    for _ in range(45):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    unet, segmentation = rates("swing", 45, max_steps=45)
    assert set(unet) == {1e-3}
    assert segmentation == pytest.approx(expected, abs=1e-9)


def test_cosine_ends_with_the_training():
    _, segmentation = rates("cosine", 10, max_steps=10)
    assert segmentation == pytest.approx([1e-4 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)])


def test_constant_rate():
    assert [set(each) for each in rates("constant", 5, max_steps=5)] == [{1e-3}, {1e-4}]


def test_panels_show_both_scales():
    model = TINY.build().eval()
    predictions, panels = model.evaluate(torch.rand(2, 3, 32, 32))
    assert list(panels) == ["Reconstruction", "Little noise", "Much noise"]
    assert all(panel.shape == (2, 3, 32, 32) and 0 <= panel.min() <= panel.max() <= 1 for panel in panels.values())
    assert predictions.anomaly_map.shape == (2, 1, 32, 32)
    assert list(TINY.build(noise_scales="small").eval().evaluate(torch.rand(1, 3, 32, 32))[1]) == ["Reconstruction"]


def test_convert_recognizes_the_authors_file(tmp_path, capsys):
    model = TINY.build(num_heads=4)
    torch.save(export_official(model.model), tmp_path / "params-best.pt")
    convert(tmp_path / "params-best.pt", tmp_path / "model.ckpt")
    assert "anomalib test --model DiffusionAD" in capsys.readouterr().out
    loaded = DiffusionAD.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.hparams["base_channels"] == 32
    for name, weight in model.model.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name]), name
