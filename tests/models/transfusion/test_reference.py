# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Every number of the authors' implementation, in both memory formats."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from anomalib_transfusion.models.transfusion.loss import Target, TransFusionLoss, ssim_loss
from anomalib_transfusion.models.transfusion.official import export_official, import_official, infer_architecture
from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from anomalib_transfusion.models.transfusion.transparency import forward_process, reverse_step, transparency_schedule
from parts import part
from paths import REFERENCE, needs_reference

pytestmark = needs_reference


@pytest.fixture(scope="module")
def reference():
    """The authors' numbers, as tensors."""
    with np.load(REFERENCE / "official_tiny.npz") as arrays:
        return SimpleNamespace(**{name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files})


@pytest.fixture(scope="module")
def state():
    """The authors' state dict."""
    return load_file(REFERENCE / "official_tiny.safetensors")


@pytest.fixture(
    scope="module",
    params=product((torch.contiguous_format, torch.channels_last), (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION)),
    ids=str,
)
def model(request, state):
    """The authors' tiny network, evaluated as they do, in each memory format and by each way of computing attention."""
    memory_format, attention = request.param
    model = part(TransFusionModel, **infer_architecture(state), start_timestep=18, mask_divisor=19, precision="single")
    model.eval()
    import_official(state, model.network)
    with sdpa_kernel(attention):
        yield model.to(memory_format=memory_format)


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=tolerance)


def test_architecture(state):
    assert infer_architecture(state) == {
        "base_channels": 32,
        "channel_multipliers": (1, 2, 2, 2),
        "num_blocks": 2,
        "attention_levels": (2, 3),
    }


@pytest.mark.parametrize("group", ["fwd", "rect"])
def test_network(model, reference, group):
    values = vars(reference)
    with torch.no_grad():
        prediction = model.network(values[f"{group}_image"], values[f"{group}_mask_in"], values[f"{group}_t"])
    for name in ("anomaly", "normal", "mask_logits"):
        close(getattr(prediction, name), values[f"{group}_{name}"], 1e-4)


def test_forward_process(reference):
    beta = transparency_schedule(20, "linear")[reference.q_t].view(-1, 1, 1, 1)
    close(forward_process(reference.q_x0, reference.q_anomaly, reference.q_mask, beta), reference.q_xt, 1e-6)


def test_reverse_step(reference):
    beta = transparency_schedule(20, "linear")
    actual = reverse_step(
        reference.q_xt,
        reference.step_mask_prob,
        reference.step_anomaly,
        reference.step_normal,
        beta[reference.q_t].view(-1, 1, 1, 1),
        beta[reference.q_t - 1].view(-1, 1, 1, 1),
    )
    close(actual, reference.step_prev, 1e-6)


def test_reverse_process_and_final_map(model, reference):
    images = (reference.rev_image[None] + 1) / 2
    process = model.reverse_process(images)
    close(process.mask, reference.rev_mask_mean, 1e-3)
    close(process.reconstruction, reference.rev_x0, 1e-3)
    with torch.no_grad():
        predictions = model(images)
    close(predictions.anomaly_map[0, 0], reference.final_map, 1e-3)
    close(predictions.pred_score[0], reference.final_score, 1e-3)
    # The map is small: also hold it against its own size.
    largest = reference.final_map.max()
    close(predictions.anomaly_map[0, 0] / largest, reference.final_map / largest, 1e-3)


def test_ssim_loss(reference):
    close(ssim_loss(reference.ssim_a, reference.ssim_b), reference.ssim_loss, 1e-4)


def test_losses(model, reference):
    beta = transparency_schedule(20, "linear")
    beta_t = beta[reference.loss_t].view(-1, 1, 1, 1)
    x_t = forward_process(reference.loss_x0, reference.loss_anomaly, reference.loss_mask, beta_t)
    with torch.no_grad():
        losses = part(TransFusionLoss)(
            model.network(x_t, reference.loss_mask_in, reference.loss_t),
            Target(reference.loss_x0, reference.loss_anomaly, reference.loss_mask),
            x_t,
            beta_t,
            beta[reference.loss_t - 1].view(-1, 1, 1, 1),
        )
    close(losses.total, reference.loss_total, 1e-4)
    for name in ("normal", "mask", "anomaly", "consistency"):
        close(getattr(losses, name), vars(reference)[f"loss_{name}_term"], 1e-4)


def test_state_dict_and_back(model, state):
    exported = export_official(model.network)
    assert set(exported) == set(state)
    assert len(state) == 322
    assert all(
        torch.equal(exported[key], tensor) and exported[key].dtype == tensor.dtype for key, tensor in state.items()
    )


def test_full_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = part(TransFusionModel)
    assert sum(parameter.numel() for parameter in model.network.parameters()) == 54_559_431
