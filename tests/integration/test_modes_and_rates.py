# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Training what was evaluated or stopped before, and layers that tools hook or replace."""

import logging

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelPruning
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrize, prune


def run(folder, **arguments):
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False}
    return Engine(default_root_dir=folder, **{**defaults, **arguments})


class Rates(Callback):
    """Remembers rate and weight decay at the start of each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, pl_module):
        """Look at the only group of parameters."""
        del pl_module
        [group] = trainer.optimizers[0].param_groups
        self.seen.append((trainer.current_epoch, group["lr"], group["weight_decay"]))


@pytest.mark.parametrize("evaluate", [lambda model: model.eval(), lambda model: model.model.eval()])
def test_a_model_in_evaluation_mode_is_trained(tiny, surface, tmp_path, evaluate):
    model = tiny()
    evaluate(model)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    run(tmp_path).fit(model, datamodule=surface)
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.model.state_dict().items())


@pytest.fixture
def stopped(tiny, surface, tmp_path):
    """Return the checkpoint of a training of two epochs, the second of them at a tenth of the rate of 1e-3."""
    engine = run(tmp_path / "first", max_epochs=2)
    engine.fit(tiny(full_rate_share=0.5), datamodule=surface)
    return engine.best_model_path


def test_resuming_with_another_rate_and_decay(tiny, surface, tmp_path, stopped, caplog):
    caplog.set_level(logging.INFO)
    rates = Rates()
    engine = run(tmp_path / "second", max_epochs=6, callbacks=[rates])
    model = tiny(learning_rate=5e-4, weight_decay=0.5, full_rate_share=0.7)
    engine.fit(model, datamodule=surface, ckpt_path=stopped)
    # The drop is after round(0.7 * 6) = 4 epochs.
    assert rates.seen == [(2, 5e-4, 0.5), (3, 5e-4, 0.5), (4, pytest.approx(5e-5), 0.5), (5, pytest.approx(5e-5), 0.5)]
    assert "learning_rate=0.0005; the checkpoint was written with 0.001" in caplog.text
    assert "weight_decay=0.5; the checkpoint was written with 0.01" in caplog.text
    group = torch.load(engine.best_model_path, weights_only=True)["optimizer_states"][0]["param_groups"][0]
    assert (group["initial_lr"], group["weight_decay"]) == (5e-4, 0.5)


def test_resuming_for_longer_takes_the_rate_of_the_new_length(tiny, surface, tmp_path, stopped):
    rates = Rates()
    engine = run(tmp_path / "second", max_epochs=4, callbacks=[rates])
    engine.fit(tiny(full_rate_share=0.9), datamodule=surface, ckpt_path=stopped)
    assert [rate for _, rate, _ in rates.seen] == [1e-3, 1e-3]


def attention_of(model):
    return next(part for part in model.modules() if type(part).__name__ == "AttentionBlock")


def test_pruned_layers_train(tiny, surface, tmp_path):
    model = tiny()
    for part in list(model.model.modules()):
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            prune.l1_unstructured(part, "weight", amount=0.5)
    run(tmp_path, max_epochs=2).fit(model, datamodule=surface)
    projection = attention_of(model).projection
    assert (projection.weight[projection.weight_mask == 0] == 0).all()
    run(tmp_path, callbacks=[ModelPruning("l1_unstructured", amount=0.1)]).fit(tiny(), datamodule=surface)


def test_hooked_and_replaced_projections_are_called(tiny):
    attention = attention_of(tiny()).eval()
    channels = attention.output.in_features
    x = torch.randn(2, channels, 4, 4)
    plain = attention(x)
    calls = []
    handle = attention.projection.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(attention(x), plain)
    assert calls == [1]
    handle.remove()

    class Twice(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(attention.projection, "weight", Twice())
    with torch.no_grad():
        attention.projection.parametrizations.weight.original /= 2
    torch.testing.assert_close(attention(x), plain)


def test_dynamic_quantization(tiny):
    model = tiny().eval().model
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images).anomaly_map
        quantized = quantize_dynamic(model, {torch.nn.Linear})(images).anomaly_map
    torch.testing.assert_close(quantized, expected, atol=0.05, rtol=0)
    assert not torch.equal(quantized, expected)
