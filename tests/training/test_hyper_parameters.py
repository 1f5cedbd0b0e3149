# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Parameters of any class become plain values, so that a checkpoint can be read back."""

import enum
import pathlib
from collections import UserList, UserString, namedtuple

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from omegaconf import OmegaConf

from anomalib_transfusion import TransFusion, TransFusionModel
from anomalib_transfusion.checks import plain
from parts import part

Pair = namedtuple("Pair", "first second")


class Name(str, enum.Enum):
    """A choice as an enumeration of texts."""

    QUADRATIC = "quadratic"


class Number(enum.IntEnum):
    """A number as a member of an enumeration."""

    FOUR = 4


class Text(str):
    """A text of a class of its own, which says something else of itself."""

    __slots__ = ()

    def __str__(self):
        """Say another text."""
        return "linear"


class Folder(pathlib.PosixPath):
    """A path of a class of its own."""


GIVEN = [
    ("channel_multipliers", OmegaConf.create([1, 2]), (1, 2)),
    ("channel_multipliers", range(1, 3), (1, 2)),
    ("channel_multipliers", UserList([1, 2]), (1, 2)),
    ("channel_multipliers", Pair(1, 2), (1, 2)),
    ("channel_multipliers", np.array([1, 2]), [1, 2]),
    ("channel_multipliers", torch.tensor([1, 2]), [1, 2]),
    ("channel_multipliers", [np.int64(1), Number.FOUR], [1, 4]),
    ("schedule", Name.QUADRATIC, "quadratic"),
    ("schedule", np.str_("quadratic"), "quadratic"),
    ("schedule", UserString("quadratic"), "quadratic"),
    ("schedule", Text("quadratic"), "quadratic"),
    ("timesteps", Number.FOUR, 4),
    ("timesteps", np.int32(4), 4),
    ("timesteps", torch.tensor(4), 4),
    ("learning_rate", np.float32(0.5), 0.5),
    ("learning_rate", np.float64(0.5), 0.5),
    ("previous_mask", np.True_, True),
    ("dtd_dir", Folder("textures"), "textures"),
    ("dtd_dir", pathlib.Path("textures"), "textures"),
]


def identity(value):
    """Return the types of a value, at every depth, beside the value."""
    return type(value), value, [identity(item) for item in value] if isinstance(value, list | tuple) else None


@pytest.mark.parametrize(("name", "given", "expected"), GIVEN, ids=lambda value: type(value).__name__)
def test_hyper_parameters_are_plain(tiny, name, given, expected):
    model = tiny(**{name: given})
    assert identity(model.hparams[name]) == identity(expected)
    assert identity(plain(given)) == identity(expected)


@pytest.mark.parametrize(
    "parameters",
    [
        {"channel_multipliers": OmegaConf.create([1, 2])},
        {"schedule": Name.QUADRATIC, "timesteps": Number.FOUR, "learning_rate": np.float64(1e-3)},
    ],
)
def test_a_trained_checkpoint_is_read_back(tiny, surface, tmp_path, parameters):
    model = tiny(**parameters)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1, logger=False)
    engine.fit(model, datamodule=surface)
    loaded = TransFusion.load_from_checkpoint(engine.best_model_path)
    assert loaded.hparams == model.hparams
    assert torch.equal(loaded.model.beta, model.model.beta)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded.eval()(images).anomaly_map, model.eval()(images).anomaly_map)


def test_the_network_alone_takes_them_as_well():
    schedule = part(TransFusionModel, base_channels=8, timesteps=4, schedule="quadratic").beta
    assert torch.equal(
        part(TransFusionModel, base_channels=8, timesteps=Number.FOUR, schedule=Name.QUADRATIC).beta,
        schedule,
    )


@pytest.mark.parametrize("value", [b"12", bytearray(b"12"), {1, 2}, "12", 12, [1, 2.5], object()])
def test_what_is_no_sequence_of_whole_numbers_is_refused(tiny, value):
    with pytest.raises(TypeError, match=r"channel_multipliers=.* is of type \w+; expected a sequence"):
        tiny(channel_multipliers=value)


class Unreadable:
    """Something that ``torch.load`` does not read."""


class Extended(TransFusion):
    """A subclass with a parameter of its own."""

    def __init__(self, extra, **parameters):
        super().__init__(**parameters)
        self.extra = extra


def test_a_parameter_of_a_subclass_that_cannot_be_read_back(tiny, surface, tmp_path):
    parameters = {name: value for name, value in tiny().hparams.items() if name != "extra"}
    pre_processor = TransFusion.configure_pre_processor((32, 32))
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1, logger=False)
    with pytest.raises(TypeError, match=r"hyper-parameter extra=.*Unreadable.*expected numbers.*ignore=\[\"extra\"\]"):
        engine.fit(Extended(Unreadable(), pre_processor=pre_processor, **parameters), datamodule=surface)
    assert not list(tmp_path.rglob("*.ckpt"))
    engine.fit(Extended(np.int64(3), pre_processor=pre_processor, **parameters), datamodule=surface)
    assert Extended.load_from_checkpoint(engine.best_model_path).extra == 3


def test_a_refused_checkpoint_names_the_type(tmp_path, tiny, surface):
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1, logger=False)
    engine.fit(tiny(), datamodule=surface)
    checkpoint = torch.load(engine.best_model_path, weights_only=False)
    checkpoint["hyper_parameters"]["channel_multipliers"] = OmegaConf.create([1, 2])
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"old.ckpt cannot be read \(it holds [\w.]+, which is neither") as refused:
        TransFusion.load_from_checkpoint(tmp_path / "old.ckpt")
    assert "omegaconf" in str(refused.value)
    assert "\x1b" not in str(refused.value)
