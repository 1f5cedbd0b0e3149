# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The course of the learning rate over a training: the paper's drop, a cosine, and a warm-up before either."""

import math

import pytest
from anomalib.engine import Engine
from lightning.pytorch import Callback


class Rates(Callback):
    """Remembers the rate of each step, as shares of the full one."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *_):
        """Look at the only group of parameters."""
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"] / 1e-3)


def rates_of(model, surface, folder, **length):
    """Train in epochs of four steps, and return the rates."""
    rates = Rates()
    length = length or {"max_epochs": 2}
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, callbacks=[rates], **length)
    engine.fit(model, datamodule=surface)
    return rates.seen


def test_by_default_it_drops_once(tiny, surface, tmp_path):
    assert rates_of(tiny(full_rate_share=0.5), surface, tmp_path) == pytest.approx([1] * 4 + [0.1] * 4)


@pytest.mark.parametrize("length", [{"max_epochs": 2}, {"max_steps": 8}])
def test_cosine(tiny, surface, tmp_path, length):
    rates = rates_of(tiny(rate_schedule="cosine"), surface, tmp_path, **length)
    assert rates == pytest.approx([(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])


def test_warm_up_and_cosine(tiny, surface, tmp_path):
    rates = rates_of(tiny(rate_schedule="cosine", warmup_share=0.5), surface, tmp_path)
    falling = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert rates == pytest.approx([1 / 4, 2 / 4, 3 / 4, *falling[:1], *falling])


def test_warm_up_and_drop(tiny, surface, tmp_path):
    rates = rates_of(tiny(warmup_share=0.25, full_rate_share=0.5), surface, tmp_path)
    assert rates == pytest.approx([1 / 2, 1, 1, 1, 0.1, 0.1, 0.1, 0.1])


def test_a_resumed_cosine_goes_on(tiny, surface, tmp_path):
    """Also where the training that wrote the checkpoint counted its drop in epochs."""
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, max_epochs=2)
    engine.fit(tiny(), datamodule=surface)
    rates = Rates()
    longer = Engine(
        default_root_dir=tmp_path / "longer",
        accelerator="cpu",
        devices=1,
        logger=False,
        max_epochs=4,
        callbacks=[rates],
    )
    longer.fit(tiny(rate_schedule="cosine"), datamodule=surface, ckpt_path=engine.best_model_path)
    assert rates.seen == pytest.approx([(1 + math.cos(math.pi * step / 16)) / 2 for step in range(8, 16)])
