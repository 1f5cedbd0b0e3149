# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Networks, process and predictions of the authors' implementation of DiffusionAD.

Tolerances are those that the page of the reference gives for a second implementation, or less.
"""

import json

import numpy as np
import pytest
import torch
from anomalib.metrics.aupro import _AUPRO
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from anomalib_transfusion.models.diffusion_ad.guidance import (
    clamp_reconstruction,
    guidance_share,
    guided_noise,
    guided_reconstruction,
)
from anomalib_transfusion.models.diffusion_ad.loss import noise_loss
from anomalib_transfusion.models.diffusion_ad.official import (
    OfficialCheckpoint,
    export_official,
    infer_architecture,
    segmentation_keys,
    unet_keys,
)
from anomalib_transfusion.models.diffusion_ad.torch_model import DiffusionADModel
from anomalib_transfusion.networks.gaussian import (
    add_noise,
    alpha_bar,
    ancestral_step,
    cosine_betas,
    linear_betas,
    posterior,
    predict_x_0,
    rates,
)
from parts import part
from paths import REFERENCE, needs_reference
from plain_diffusion_ad import published_aupro

from .authors import build, close

pytestmark = needs_reference


def test_architecture(checkpoint):
    assert infer_architecture(checkpoint) == {
        "base_channels": 32,
        "channel_multipliers": (1, 1, 2),
        "num_blocks": 2,
        "attention_levels": (1, 2),
        "num_heads": 4,
        "num_groups": 32,
        "segmentation_width": 8,
    }


def test_weights_come_back_under_the_authors_keys(model, checkpoint):
    exported = export_official(model)
    for name, state in (("unet_model_state_dict", checkpoint.unet), ("seg_model_state_dict", checkpoint.segmentation)):
        assert exported[name].keys() == state.keys()
        for key, tensor in state.items():
            assert torch.equal(exported[name][key], tensor), key


def test_schedules(reference):
    betas = linear_betas(1000)
    level = alpha_bar(betas)
    close(betas, reference.sched_betas, 1e-17)
    close(level, reference.sched_alphas_cumprod, 1e-15)
    table = rates(level)
    close(table.signal, reference.sched_sqrt_alphas_cumprod.float(), 0)
    close(table.noise, reference.sched_sqrt_one_minus_alphas_cumprod.float(), 0)
    for ours, theirs in (
        (1 / level.sqrt(), reference.sched_sqrt_recip_alphas_cumprod),
        ((1 / level - 1).sqrt(), reference.sched_sqrt_recipm1_alphas_cumprod),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    close(posterior(betas).variance, reference.sched_posterior_variance, 1e-15)
    close(linear_betas(500), reference.sched_betas_T500, 1e-17)
    close(cosine_betas(1000), reference.sched_betas_cosine, 1e-12)


def test_time_embedding(model, reference):
    embedding = model.unet.time_embedding
    close(embedding.sinusoids(reference.temb_t), reference.temb_sin_32, 1e-6)
    published = part(
        DiffusionADModel,
        base_channels=128,
        channel_multipliers=(1,),
        attention_levels=(),
        segmentation_width=1,
    )
    close(published.unet.time_embedding.sinusoids(reference.temb_t), reference.temb_sin_128, 1e-6)
    with torch.no_grad():
        close(embedding(reference.temb_t, torch.float32), reference.temb_mlp, 1e-6)


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_attention(model, reference, backend, memory_format):
    with torch.no_grad(), sdpa_kernel(backend):
        attended = model.unet.middle[0].attention(reference.attn_in.contiguous(memory_format=memory_format))
    close(attended, reference.attn_out, 1e-5)
    assert attended.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_residual_blocks(model, reference, memory_format):
    unet = model.unet
    time = F.silu(reference.res_emb)
    blocks = {
        "plain": unet.encoder[0].residual,
        "down": unet.encoder[2].residual,
        "up": unet.decoder[2].upsample,
    }
    with torch.no_grad():
        close(F.silu(unet.time_embedding(torch.tensor([321]), torch.float32)), time, 1e-6)
        for name, block in blocks.items():
            given = getattr(reference, f"res_{name}_in").contiguous(memory_format=memory_format)
            close(block(given, time), getattr(reference, f"res_{name}_out"), 1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("group", ["fwd", "rect"])
def test_reconstruction_network(model, reference, group, channels_last):
    values = vars(reference)
    x, t = values[f"{group}_x"], values[f"{group}_t"]
    with torch.no_grad():
        noise = model.unet(x, t, channels_last)
        exact = model.unet.double()(x.double(), t)
    close(exact, values[f"{group}_out"], 7e-5)
    # The authors' numbers are off by nearly all of that themselves.
    close(noise, exact, 1e-5)


def test_stages_of_the_reconstruction_network(model, reference):
    """Mean and spread of each module's output, so that a fault has a place."""
    unet = model.unet
    seen = {}

    def keep(name):
        return lambda _module, _inputs, output: seen.__setitem__(name, output)

    unet.input_projection.register_forward_hook(keep("down.0"))
    for index, stage in enumerate(unet.encoder):
        stage.register_forward_hook(keep(f"down.{index + 1}"))
    unet.middle[1].register_forward_hook(keep("middle"))
    for index, stage in enumerate(unet.decoder):
        stage.register_forward_hook(keep(f"up.{index}"))
    with torch.no_grad():
        unet(reference.fwd_x, reference.fwd_t)
    assert list(seen) == reference.fwd_stage_names
    # Stages write into their inputs in no memory format that is used here.
    close(torch.stack([seen[name].double().mean() for name in seen]), reference.fwd_stage_mean, 1e-5)
    deviations = torch.stack([seen[name].double().std(correction=0) for name in seen])
    close(deviations, reference.fwd_stage_std, 1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("group", ["seg", "segrect"])
def test_segmentation_network(model, reference, group, channels_last):
    values = vars(reference)
    with torch.no_grad():
        logits = model.segmentation(*values[f"{group}_x"].split(3, dim=1), channels_last)
    close(logits.sigmoid(), values[f"{group}_out"], 7e-6)


def test_forward_process_and_estimate(reference):
    chosen = rates(alpha_bar(linear_betas())).at(reference.q_t)
    assert torch.equal(add_noise(reference.q_x0, reference.q_noise, chosen), reference.q_xt)
    estimate = predict_x_0(reference.q_xt, reference.x0_eps, chosen)
    assert torch.equal(estimate, reference.x0_raw)
    assert torch.equal(clamp_reconstruction(estimate), reference.x0_clamped)


def test_ancestral_step(reference):
    betas = linear_betas()
    step = ancestral_step(reference.q_xt, reference.x0_clamped, reference.rev_noise, reference.q_t, betas)
    close(step, reference.rev_sample, 2e-6)
    mean = ancestral_step(reference.q_xt, reference.x0_clamped, 0 * reference.rev_noise, reference.q_t, betas)
    close(mean, reference.rev_mean, 2e-6)
    later = reference.q_t > 0
    close(betas[reference.q_t][later], reference.rev_variance.flatten()[later], 1e-9)


@pytest.mark.parametrize(("weight", "group"), [(1.0, "nod_x0_g"), (0.0, "nod_x0_g_w0"), (0.5, "nod_x0_g_w0_5")])
def test_both_forms_of_the_guidance(reference, weight, group):
    expected = getattr(reference, group)
    small, big = (rates(alpha_bar(linear_betas())).at(t) for t in (reference.nod_t_s, reference.nod_t_b))
    guide = clamp_reconstruction(predict_x_0(reference.nod_x_tb, reference.nod_eps_b, big))
    close(guide, reference.nod_x0_b, 5e-6)
    estimate = predict_x_0(reference.nod_x_ts, reference.nod_eps_s, small)
    close(clamp_reconstruction(estimate), reference.nod_x0_s, 5e-6)
    close(guided_reconstruction(estimate, guide, guidance_share(small, weight)), expected, 5e-6)

    corrected = guided_noise(reference.nod_x_ts, reference.nod_eps_s, guide, small, weight)
    published = predict_x_0(reference.nod_x_ts, corrected, small)
    close(clamp_reconstruction(published), expected, 5e-6)
    if weight == 1:
        close(add_noise(guide, reference.nod_eps_s, small), reference.nod_n_ts, 5e-6)
        close(corrected, reference.nod_eps_hat, 5e-6)
        close(published, reference.nod_x0_g_raw, 5e-6)
        assert guidance_share(small, 1.0).unique().item() == pytest.approx(0.343653, abs=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("group", ["nod", "nodrect"])
def test_prediction(checkpoint, reference, group, channels_last):
    values = vars(reference)
    model = build(checkpoint, channels_last=channels_last)
    noise = torch.stack((values[f"{group}_noise_s"], values[f"{group}_noise_b"]))
    predictions, denoised = model.predict(values[f"{group}_image"], noise)
    close(denoised.reconstruction, values[f"{group}_x0_g"], 1e-5)
    close(predictions.anomaly_map, values[f"{group}_map"], 1e-5)
    close(predictions.pred_score, values[f"{group}_score"], 1e-6)
    if group == "nod":
        close(denoised.noise, torch.stack((reference.nod_eps_s, reference.nod_eps_b)), 7e-5)
        close(denoised.estimates, torch.stack((reference.nod_x0_s, reference.nod_x0_b)), 5e-5)
        everyone_normal = noise_loss(denoised.noise, noise, torch.zeros(2))
        close(2 * everyone_normal, reference.nod_noise_loss, 3e-6)


@pytest.mark.parametrize(("weight", "group"), [(0.0, "nod_x0_g_w0"), (0.5, "nod_x0_g_w0_5"), (2.0, "nod_x0_g_w2")])
@pytest.mark.filterwarnings("ignore:guidance_weight=2.0 moves")
def test_prediction_by_weight(checkpoint, reference, weight, group):
    model = build(checkpoint, guidance_weight=weight)
    noise = torch.stack((reference.nod_noise_s, reference.nod_noise_b))[: 2 if weight else 1]
    close(model.predict(reference.nod_image, noise)[1].reconstruction, getattr(reference, group), 1e-5)


def test_layout_of_the_published_size():
    """Every key and shape of the published networks."""
    layout = json.loads((REFERENCE / "diffusionad_full_layout.json").read_text())
    model = part(DiffusionADModel)
    for network, keys, name in (
        (model.unet, unet_keys, "unet"),
        (model.segmentation, segmentation_keys, "seg"),
    ):
        assert sum(parameter.numel() for parameter in network.parameters()) == layout[name]["parameters"]
        assert sorted(keys(network).values()) == sorted(layout[name]["keys"])


def filled(layout, offset):
    """Fill a state dict by the formula on the reference's page."""
    state = {}
    for number, key in enumerate(sorted(layout["keys"])):
        shape = layout["keys"][key]
        count = int(np.prod(shape))
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
            continue
        drawn = (2 * np.random.RandomState(offset + number).random_sample(count) - 1).reshape(shape)
        if len(shape) > 1:
            drawn = drawn * np.sqrt(6 / np.prod(shape[1:]))
        elif key.endswith("running_var"):
            drawn = 1 + 0.5 * drawn
        elif key.endswith("weight"):
            drawn = 1 + 0.1 * drawn
        else:
            drawn = 0.1 * drawn
        state[key] = torch.from_numpy(drawn.astype(np.float32))
    return state


def test_published_size(reference):
    """The published networks, 160 million weights by a formula."""
    layout = json.loads((REFERENCE / "diffusionad_full_layout.json").read_text())
    checkpoint = OfficialCheckpoint(filled(layout["unet"], 0), filled(layout["seg"], 2500), None, {})
    model = build(checkpoint)
    assert infer_architecture(checkpoint)["attention_levels"] == (3, 4, 5)
    assert sum(parameter.numel() for parameter in model.parameters()) == 160_027_972
    with torch.no_grad():
        noise = model.unet(reference.full_unet_x, reference.full_unet_t)
        exact = model.unet.double()(reference.full_unet_x.double(), reference.full_unet_t)
        logits = model.segmentation(*reference.full_seg_x.split(3, dim=1))
    close(exact, reference.full_unet_out, 1e-5)
    close(noise, exact, 1.5e-5)
    close(logits.sigmoid(), reference.full_seg_out, 1e-5)


def test_aupro_is_another_than_that_of_anomalib(reference):
    """Theirs takes a thousand thresholds, fills holes of regions, and scales the false positive rates to [0, 1]."""
    maps, masks = reference.pro_maps, reference.pro_masks
    published = published_aupro(maps.numpy(), masks.numpy())
    assert published == pytest.approx(reference.pro_value.item(), abs=1e-12)
    metric = _AUPRO(fpr_limit=0.3)
    metric.update(maps, masks.int())
    assert metric.compute().item() == pytest.approx(published, abs=1e-3)
    assert metric.compute().item() != pytest.approx(published, abs=1e-4)
