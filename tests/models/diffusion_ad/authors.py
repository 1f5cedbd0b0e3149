# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DiffusionAD with the authors' weights, and how close numbers are to theirs."""

import torch

from anomalib_transfusion.models.diffusion_ad.official import import_official, infer_architecture
from anomalib_transfusion.models.diffusion_ad.torch_model import DiffusionADModel
from parts import part


def build(checkpoint, **parameters) -> DiffusionADModel:
    model = part(DiffusionADModel, **{**infer_architecture(checkpoint), "precision": "single", **parameters})
    import_official(checkpoint, model)
    return model.eval()


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=tolerance)
