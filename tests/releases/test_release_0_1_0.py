# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that version 0.1.0 wrote, and its public names: they load, go on and exist for ever after.

``model.ckpt`` is from the end of the second of three epochs of the tiny model on the small demo surface, ``model.pt``
its export to torch; ``expected.npz`` has what 0.1.0 made of them: the predictions for some images, and the norm of each
tensor at the end of the training that was not interrupted. ``public_names.json`` is written by ``public_names.py``.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.deploy import TorchInferencer
from anomalib.engine import Engine

from anomalib_transfusion import TransFusion
from releases.public_names import public_names

RELEASE = Path(__file__).parent / "0.1.0"


@pytest.fixture
def expected():
    return dict(np.load(RELEASE / "expected.npz"))


def test_checkpoint_predicts_the_same(expected):
    model = TransFusion.load_from_checkpoint(RELEASE / "model.ckpt").eval()
    predictions = model(torch.from_numpy(expected["images"]))
    np.testing.assert_allclose(predictions.anomaly_map.numpy(), expected["anomaly_map"], atol=1e-5)
    np.testing.assert_allclose(predictions.pred_score.numpy(), expected["pred_score"], atol=1e-5)


def test_exported_model_predicts_the_same(expected, monkeypatch):
    # anomalib asks for it: the file holds a whole module.
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = TorchInferencer(RELEASE / "model.pt", device="cpu").model
    predictions = model(torch.from_numpy(expected["images"]))
    np.testing.assert_allclose(predictions.anomaly_map.numpy(), expected["anomaly_map"], atol=1e-5)


def test_training_goes_on_as_if_it_had_never_stopped(expected, surface, tiny, tmp_path):
    model = tiny()
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=3, logger=False)
    engine.fit(model, datamodule=surface, ckpt_path=RELEASE / "model.ckpt")
    assert engine.trainer.current_epoch == 3
    state = model.model.state_dict()
    assert list(state) == expected["names"].tolist()
    norms = [tensor.double().norm().item() for tensor in state.values()]
    # Bit for bit on one machine; another processor sums in another order.
    np.testing.assert_allclose(norms, expected["resumed_norms"], rtol=1e-4, atol=1e-6)


def test_public_names():
    recorded = json.loads((RELEASE / "public_names.json").read_text())
    present = public_names(recorded["modules"])
    gone = {
        kind: {
            name: missing
            for name, names in recorded[kind].items()
            if (missing := set(names) - set(present[kind][name]))
        }
        for kind in recorded
    }
    assert gone == {kind: {} for kind in recorded}
