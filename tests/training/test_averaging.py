# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Lightning's average of weights, with this package's models: threshold, checkpoint, resuming, frozen weights."""

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging

from anomalib_transfusion import TransFusion

DECAY = 0.75


class Average(Callback):
    """Averages weights and statistics by its own arithmetic."""

    def __init__(self):
        self.state = None

    def on_train_batch_end(self, trainer, pl_module, *_):
        """Take the weights after a step; the first are the average of one."""
        del trainer
        state = {name: tensor.detach().clone() for name, tensor in pl_module.model.state_dict().items()}
        if self.state is not None:
            state = {name: DECAY * self.state[name] + (1 - DECAY) * tensor for name, tensor in state.items()}
        self.state = state


def train(model, surface, folder, epochs, checkpoint=None, **arguments):
    """Train with averaged weights; its own arithmetic beside them."""
    seed_everything(0)
    average = Average()
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "check_val_every_n_epoch": 1, **arguments}
    callbacks = [average, EMAWeightAveraging(decay=DECAY)]
    engine = Engine(default_root_dir=folder, max_epochs=epochs, callbacks=callbacks, **settings)
    engine.fit(model, datamodule=surface, ckpt_path=checkpoint)
    return engine, average.state


@pytest.fixture
def small(tiny):
    """Return a function that builds a model with a backbone, whose random weights stand for pretrained ones."""

    def build():
        seed_everything(1)
        model = tiny(full_rate_share=1.0, backbone="test_efficientnet")
        backbone = model.model.network.features.backbone
        backbone.load(backbone.network.state_dict())
        return model

    return build


def test_averaged_model_is_what_is_kept_and_tested(small, surface, tmp_path):
    model = small()
    frozen = {name: tensor.clone() for name, tensor in model.model.network.features.backbone.state_dict().items()}
    engine, expected = train(model, surface, tmp_path, 2)
    learned = {name for name, parameter in model.model.named_parameters() if parameter.requires_grad}
    statistics = {"network.mask_head.norm.running_mean", "network.mask_head.norm.running_var"}
    for name in learned | statistics:
        torch.testing.assert_close(model.model.state_dict()[name], expected[name], rtol=1e-4, atol=1e-6)
    loaded = TransFusion.load_from_checkpoint(engine.best_model_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    # Averaged with what it is before the first validation, the threshold would be no number.
    assert torch.isfinite(loaded.post_processor._image_threshold)
    for name, tensor in model.model.network.features.backbone.state_dict().items():
        assert torch.equal(tensor, frozen[name]), name
    [before] = engine.test(model, datamodule=surface)
    [after] = engine.test(small(), datamodule=surface, ckpt_path=engine.best_model_path)
    assert before == after
    [again] = engine.validate(model, datamodule=surface)
    assert again["image_AUROC"] == before["image_AUROC"]


def test_resuming_is_exact(small, surface, tmp_path):
    whole = small()
    train(whole, surface, tmp_path / "whole", 2)
    engine, _ = train(small(), surface, tmp_path / "first", 1)
    resumed = small()
    train(resumed, surface, tmp_path / "second", 2, engine.best_model_path)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
