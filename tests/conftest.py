# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Settings that every test shares."""

import os
import shutil
import sys
from pathlib import Path

import pytest

# Before torch is imported: the tests run in parallel, and more threads than cores only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

for folder in ("", "contract"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

TINY = {
    "timesteps": 4,
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "num_blocks": 1,
    "attention_levels": (-1,),
    "texture_source": "none",
    "learning_rate": 1e-3,
    # The same on every machine.
    "precision": "single",
}

NETWORK = {name: TINY[name] for name in ("base_channels", "channel_multipliers", "num_blocks", "attention_levels")}
"""The parameters in TINY of the network alone."""


@pytest.fixture(scope="session")
def surface_root(tmp_path_factory):
    """A folder with a small demo surface, made once for all tests."""
    from anomalib_transfusion import DemoSurface

    root = tmp_path_factory.mktemp("surface")
    DemoSurface(root=root, **SURFACE).prepare_data()
    return root


@pytest.fixture
def surface(surface_root):
    """Return a data module over the small demo surface: 16 training and 7 test images."""
    from anomalib_transfusion import DemoSurface

    return DemoSurface(root=surface_root, **SURFACE)


@pytest.fixture
def category(surface_root, tmp_path):
    """Return the folder of a category in MVTec AD's layout, to put odd files into."""
    return Path(shutil.copytree(surface_root / "brick", tmp_path / "data/brick"))


SURFACE = {
    "category": "brick",
    "num_workers": 0,
    "train_batch_size": 4,
    "eval_batch_size": 4,
    "image_size": 64,
    "num_train_images": 16,
    "num_test_images": 2,
    "num_defect_images": 1,
}


@pytest.fixture
def good_alone(surface_root, tmp_path):
    """Return a data module without any defect: 16 training and 2 test images."""
    from anomalib.data import Folder

    shutil.copytree(surface_root / "brick/train/good", tmp_path / "parts/good")
    shutil.copytree(surface_root / "brick/test/good", tmp_path / "parts/test")
    return Folder(
        name="parts",
        root=tmp_path / "parts",
        normal_dir="good",
        normal_test_dir="test",
        train_batch_size=4,
        eval_batch_size=4,
        num_workers=0,
        val_split_mode="same_as_test",
    )


@pytest.fixture
def tiny():
    """Return a function that builds a model which trains in a moment on 32x32 pixels."""
    from anomalib_transfusion import TransFusion

    def build(image_size=(32, 32), **parameters):
        pre_processor = TransFusion.configure_pre_processor(image_size)
        return TransFusion(**{"pre_processor": pre_processor, "visualizer": False, **TINY, **parameters})

    return build
