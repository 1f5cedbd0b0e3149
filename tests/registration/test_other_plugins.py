# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Other packages register by the same entry points; names of anomalib's own are left alone."""

from interpreter import SAME_EVERYWHERE, make_distribution, python

MODEL = """
from anomalib import LearningType
from anomalib.models.components import AnomalibModule
from torch import nn

class {name}(AnomalibModule):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.model = nn.Linear(size, 1)

    @property
    def trainer_arguments(self) -> dict:
        return {{}}

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS
"""

DATA = """
from anomalib.data.datamodules.image.folder import Folder

class {name}(Folder):
    pass
"""

LOOK = """
import anomalib.data, anomalib.models
from anomalib.models import get_model
model = get_model("thimble_net", size=5)
assert type(model) is anomalib.models.ThimbleNet is anomalib.models.image.ThimbleNet
assert type(model).__module__ == "thimble" and model.model.in_features == 5
assert type(get_model({"class_path": "ThimbleNet"})) is anomalib.models.ThimbleNet
assert "thimble_net" in anomalib.models.list_models()
data = anomalib.data.get_datamodule({"class_path": "Thimbles", "init_args": {"name": "x", "normal_dir": "y"}})
assert type(data) is anomalib.data.Thimbles and type(data).__module__ == "thimble"
"""


def _make_thimble(folder):
    make_distribution(
        folder,
        "thimble",
        MODEL.format(name="ThimbleNet") + DATA.format(name="Thimbles"),
        {"anomalib.models": {"ThimbleNet": "ThimbleNet"}, "anomalib.data": {"Thimbles": "Thimbles"}},
    )


def test_another_package_is_registered_and_replaces_nothing(tmp_path):
    _make_thimble(tmp_path)
    make_distribution(
        tmp_path,
        "usurper",
        MODEL.format(name="Padim") + MODEL.format(name="Fuvas") + DATA.format(name="Folder3D"),
        {"anomalib.models": {"Padim": "Padim", "Fuvas": "Fuvas"}, "anomalib.data": {"Folder3D": "Folder3D"}},
    )
    program = """
import sys
assert anomalib.models.Padim is anomalib.models.image.Padim
for owner, name in ((anomalib.models, "Padim"), (anomalib.models, "Fuvas"), (anomalib.data, "Folder3D")):
    assert getattr(owner, name).__module__.startswith("anomalib."), name
assert not hasattr(anomalib.models.image, "Fuvas")
# get_model looks for names among these.
named = [model for model in anomalib.models.AnomalibModule.__subclasses__() if model.__name__ in {"Padim", "Fuvas"}]
assert set(named) == {anomalib.models.Padim, anomalib.models.Fuvas}
assert "usurper" not in sys.modules
"""
    # anomalib.models imports torch, whose autoload finds it half imported; anomalib.data does the same.
    python(LOOK + program + SAME_EVERYWHERE, {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)


def test_another_package_whose_module_is_imported_first(tmp_path):
    """Its module imports anomalib, which asks for the class before it exists: that is no fault of the plugin."""
    _make_thimble(tmp_path)
    program = """
import thimble
import anomalib.models
assert anomalib.models.ThimbleNet is thimble.ThimbleNet
assert not hasattr(anomalib.models, "NoSuchName")
assert hasattr(anomalib.models, "Padim")
"""
    python(program + LOOK + SAME_EVERYWHERE, {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
