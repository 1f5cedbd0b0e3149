# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The models that the contract tests run with; a new model needs an entry in MODELS."""

from typing import NamedTuple

import anomalib.models
import pytest

from conftest import TINY


class Model(NamedTuple):
    """A model as a test builds it: a network that trains in a moment on 32x32 pixels.

    Attributes:
        class_name: Name of the class, as typed on the command line.
        name: Name that ``get_model()`` takes.
        tiny: Parameters of the smallest network.
        terms: Names of the terms of its loss.
        prefix: Prefix of the names of the networks' weights.
    """

    class_name: str
    name: str
    tiny: dict
    terms: tuple[str, ...]
    prefix: str

    @property
    def model_class(self):
        """The class, as anomalib has it."""
        return getattr(anomalib.models, self.class_name)

    def build(self, image_size=(32, 32), **parameters):
        """Build the smallest network, without pictures."""
        pre_processor = self.model_class.configure_pre_processor(image_size)
        return self.model_class(**{"pre_processor": pre_processor, "visualizer": False, **self.tiny, **parameters})

    @property
    def arguments(self):
        """The smallest network on anomalib's command line."""
        given = [
            (f"--model.{name}", str(list(value) if isinstance(value, tuple) else value))
            for name, value in self.tiny.items()
        ]
        return [
            *(part for argument in given for part in argument),
            *["--model.pre_processor", "anomalib.pre_processing.PreProcessor"],
            *["--model.pre_processor.transform", "torchvision.transforms.v2.Resize"],
            *["--model.pre_processor.transform.size", "[32,32]"],
        ]


# Parameters that are the same for all models.
SHARED = {name: value for name, value in TINY.items() if name not in {"timesteps", "base_channels"}}

MODELS = [
    Model(
        "TransFusion",
        "trans_fusion",
        TINY,
        ("normal", "mask", "anomaly", "consistency"),
        "model.network.",
    ),
    Model(
        "DiffusionAD",
        "diffusion_ad",
        {"base_channels": 32, "segmentation_width": 2, **SHARED},
        ("noise", "focal", "smooth_l1"),
        "model.unet.",
    ),
]

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
"""Runs a test once for each model of the list."""
