# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What every model promises to be equal: exported to itself, and a training that was resumed to one that was not."""

import numpy as np
import torch
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from contract_models import EXPORTED, each_model
from lightning.pytorch.callbacks import ModelCheckpoint

from exports import SINGLE_PRECISION, normalize_to_the_same, onnx_kept, run_onnx

# With others, the rectifiers of so small a network are off everywhere, and its map has one value.
SEED = 2


def build(model, size, post_processor):
    """Build a model whose map takes many values: the layers that begin at zero would hide what is behind them."""
    torch.manual_seed(SEED)
    built = model.build(image_size=size, post_processor=post_processor)
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


def export(model, built, export_type, folder):
    """Export a network from its checkpoint by the engine, as anomalib's command does, and check what was written."""
    engine = Engine(logger=False, default_root_dir=folder, devices=1, accelerator="cpu")
    checkpoint = folder / "model.ckpt"
    engine._setup_trainer(built)
    engine.trainer.strategy.connect(built)
    engine.trainer.save_checkpoint(checkpoint)
    other = model.build(post_processor=False)
    path = engine.export(other, export_type, export_root=folder / "exported", ckpt_path=str(checkpoint))
    assert path == folder / "exported/weights" / EXPORTED[export_type]
    # The weights of the network are in it, or beside it.
    written = sum(file.stat().st_size for file in path.parent.iterdir())
    assert written > 2 * sum(parameter.numel() for parameter in built.model.parameters())
    return path


@each_model
def test_onnx_runtime_gives_the_same(model, tmp_path):
    """Of a batch of square images, with the post-processor."""
    built = build(model, (64, 64), post_processor=True)
    normalize_to_the_same(built)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = built(images)
        raw = built.model(images)
    torch.testing.assert_close((wanted.anomaly_map, wanted.pred_score), (raw.anomaly_map, raw.pred_score))
    assert wanted.anomaly_map.shape[-2:] == (64, 64)
    given = run_onnx(export(model, built, ExportType.ONNX, tmp_path), images)
    assert_alike(given["anomaly_map"], given["pred_score"], wanted)
    for name, values in (("pred_label", "pred_score"), ("pred_mask", "anomaly_map")):
        certain = (wanted._asdict()[values] - 0.5).abs() > 1e-3
        assert torch.equal(given[name][certain], wanted._asdict()[name][certain])


@each_model
def test_openvino_gives_the_same(model, tmp_path):
    """Of an image that is not square; so does the ONNX model on the way there, of a batch."""
    size = (32, 96)
    built = build(model, size, post_processor=False)
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        wanted, of_one = built(images), built(images[:1])
    assert wanted.anomaly_map.shape[-2:] == size
    with onnx_kept(model.model_class, tmp_path / "onnx") as onnx_path:
        path = export(model, built, ExportType.OPENVINO, tmp_path)
    given = run_onnx(onnx_path, images)
    assert_alike(given["anomaly_map"], given["pred_score"], wanted)
    inferencer = OpenVINOInferencer(path, device="CPU", config=SINGLE_PRECISION)
    given = inferencer.predict(images[0].permute(1, 2, 0).numpy())
    assert_alike(given.anomaly_map, given.pred_score, of_one)


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
