# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The authors' numbers, weights and networks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomalib_transfusion.models.diffusion_ad.official import read_official
from paths import REFERENCE

from .authors import build


@pytest.fixture(scope="module")
def reference():
    """The authors' numbers, as tensors; names of points are underscores."""
    with np.load(REFERENCE / "diffusionad_tiny.npz") as arrays:
        values = {name: np.asarray(arrays[name]) for name in arrays.files}
    return SimpleNamespace(**{
        name.replace(".", "_"): value.tolist() if value.dtype.kind == "U" else torch.from_numpy(value)
        for name, value in values.items()
    })


@pytest.fixture(scope="module")
def checkpoint():
    """The authors' weights."""
    return read_official(REFERENCE / "diffusionad_tiny.safetensors")


@pytest.fixture
def model(checkpoint):
    """The authors' tiny networks, evaluated as they do."""
    return build(checkpoint)
