# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What every model promises to be equal: exported to itself, and a training that was resumed to one that was not."""

import numpy as np
import onnxruntime
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from contract_models import each_model
from lightning.pytorch.callbacks import ModelCheckpoint

# With others, the rectifiers of so small a network are off everywhere, and its map has one value.
SEED = 2
# OpenVINO rounds to bfloat16 by itself on processors that are faster with it.
SINGLE_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


def build(model, size):
    """Build a model whose map takes many values: the layers that begin at zero would hide what is behind them."""
    torch.manual_seed(SEED)
    built = model.build(image_size=size, post_processor=False)
    for parameter in built.model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return built.eval()


def assert_alike(anomaly_map, score, wanted):
    """Assert that maps and scores are equal within 1e-3, and within a small part of what maps differ in themselves."""
    atol = min(1e-3, 0.05 * wanted.anomaly_map.std().item())
    assert atol > 1e-5
    for given, expected in ((anomaly_map, wanted.anomaly_map), (score, wanted.pred_score)):
        np.testing.assert_allclose(np.squeeze(given), np.squeeze(expected.numpy()), rtol=0, atol=atol)


@each_model
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_onnx_runtime_gives_the_same(model, size, tmp_path):
    """Of a batch, square or not."""
    built = build(model, size)
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        wanted = built(images)
    assert wanted.anomaly_map.shape[-2:] == size
    session = onnxruntime.InferenceSession(built.to_onnx(tmp_path))
    names = [output.name for output in session.get_outputs()]
    given = dict(zip(names, session.run(names, {session.get_inputs()[0].name: images.numpy()}), strict=True))
    assert_alike(given["anomaly_map"], given["pred_score"], wanted)


@each_model
def test_openvino_gives_the_same(model, tmp_path):
    built = build(model, (64, 32))
    image = torch.rand(3, 64, 32)
    with torch.no_grad():
        wanted = built(image[None])
    inferencer = OpenVINOInferencer(built.to_openvino(tmp_path), device="CPU", config=SINGLE_PRECISION)
    given = inferencer.predict(image.permute(1, 2, 0).numpy())
    assert_alike(given.anomaly_map, given.pred_score, wanted)


class EachEpoch(ModelCheckpoint):
    """Beside the engine's own, which there may be one of its class alone."""


@each_model
def test_a_resumed_training_is_the_same_bit_for_bit(model, surface, tmp_path):
    """Three epochs straight against one and two more: weights, statistics and what the optimizers keep."""

    def train(name, seed, **arguments):
        torch.manual_seed(seed)
        built = model.build()
        # Of each epoch: a shorter training would have another course of the learning rate.
        checkpoints = EachEpoch(tmp_path / name, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
        engine = Engine(
            logger=False,
            default_root_dir=tmp_path,
            devices=1,
            accelerator="cpu",
            max_epochs=3,
            callbacks=[checkpoints],
        )
        engine.fit(model=built, datamodule=surface, **arguments)
        return torch.load(tmp_path / name / "epoch=2.ckpt", weights_only=True)

    straight = train("straight", 1)
    resumed = train("resumed", 99, ckpt_path=tmp_path / "straight/epoch=0.ckpt")
    assert straight["global_step"] == resumed["global_step"] == 12
    for name, weight in straight["state_dict"].items():
        assert torch.equal(weight, resumed["state_dict"][name]), name
    [ours], [theirs] = straight["optimizer_states"], resumed["optimizer_states"]
    assert all(
        torch.equal(value, theirs["state"][index][key])
        for index, state in ours["state"].items()
        for key, value in state.items()
    )
