# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Small models of DRDC, with random weights in the place of pretrained ones: nothing is looked up or downloaded."""

from typing import Any

import torch
from contract_models import DRDC

from anomalib_transfusion import Drdc

# One mean and deviation for a map; those of a grid have tests of their own.
TINY = {**DRDC.tiny, "backbone": "test_efficientnet", "statistics_grid": 1}


def build(image_size: tuple[int, int] = (32, 32), **parameters: Any) -> Drdc:
    """Build a small model whose denoiser paints something: the layers that begin at zero would paint nothing."""
    pre_processor = Drdc.configure_pre_processor(image_size)
    model = Drdc(**{"pre_processor": pre_processor, "visualizer": False, **TINY, **parameters})
    random = torch.Generator().manual_seed(0)
    for parameter in model.model.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.05, generator=random)
    backbone = model.model.base.backbone
    backbone.load(backbone.network.state_dict())
    return model
