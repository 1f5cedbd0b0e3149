# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages of DiffusionAD: its parameters, tensors, files and synthesis."""

import torch
from message_table import Message, in_module

from anomalib_transfusion import DiffusionAD
from anomalib_transfusion.models.diffusion_ad.loss import DiffusionADLoss
from anomalib_transfusion.models.diffusion_ad.official import (
    OfficialCheckpoint,
    export_official,
    import_official,
    infer_architecture,
    read_official,
)
from anomalib_transfusion.models.diffusion_ad.torch_model import DiffusionADModel
from anomalib_transfusion.networks.gaussian import linear_betas
from anomalib_transfusion.synthesis.blending import BlendedAnomalyGenerator
from parts import part

SMALL = {
    "base_channels": 32,
    "channel_multipliers": (1, 2),
    "num_blocks": 1,
    "attention_levels": (-1,),
    "segmentation_width": 2,
}


def build(**parameters):
    return part(DiffusionADModel, **{**SMALL, **parameters})


def with_parameter(start, value, expectation, remedy, **parameters):
    """Return a row about parameters of the model that are refused."""
    return Message(start, lambda: build(**parameters), ValueError, value, expectation, remedy)


def blended(start, value, expectation, remedy, **parameters):
    """Return a row about parameters of the synthesis that are refused."""
    return Message(
        start,
        lambda: part(BlendedAnomalyGenerator, None, **parameters),
        ValueError,
        value,
        expectation,
        remedy,
    )


def weighted(start, value, expectation, remedy, **parameters):
    """Return a row about parameters of the loss that are refused."""
    return Message(start, lambda: part(DiffusionADLoss, **parameters), ValueError, value, expectation, remedy)


def damaged_file(tmp_path):
    (tmp_path / "params.pt").write_bytes(b"no checkpoint")
    read_official(tmp_path / "params.pt")


def file_of_another_model(tmp_path):
    torch.save({"model.image_proj.weight": torch.zeros(1)}, tmp_path / "params.pt")
    read_official(tmp_path / "params.pt")


def official():
    """Return the weights of a small model as the authors store them."""
    content = export_official(build())
    return OfficialCheckpoint(content["unet_model_state_dict"], content["seg_model_state_dict"], 0, {})


def lacking_blocks():
    checkpoint = official()
    del checkpoint.unet["up.0.0.in_layers.0.weight"]
    infer_architecture(checkpoint)


# fmt: off
DIFFUSION_AD = [
    *in_module(
        "networks/gaussian.py",
        Message("timesteps={} gives noise", lambda: linear_betas(10), ValueError,
                "timesteps=10 gives noise of a variance of 2", "expected one below 1", "Take more than 20 timesteps"),
    ),
    *in_module(
        "models/diffusion_ad/checks.py",
        with_parameter("scale_split={}", "scale_split=1000", "expected 1 to 999", "300 of 1000", scale_split=1000),
        with_parameter(
            "{}={} is no timestep",
            "big_timestep=1000",
            "expected 0 to 999 with timesteps=1000",
            "Change one of them",
            big_timestep=1000,
        ),
        with_parameter(
            "small_timestep={} must be",
            "small_timestep=400",
            "below big_timestep=400",
            "Published are 200 and 400",
            small_timestep=400,
        ),
        Message("guidance_weight={} moves", lambda: build(guidance_weight=2.0), UserWarning,
                "guidance_weight=2.0 moves the reconstruction by 1.21 of the way", "expected at most 1",
                "Use 1.66 or less"),
    ),
    *in_module(
        "networks/unet.py",
        with_parameter(
            "attention_levels={}",
            "attention_levels=(2,)",
            "expected -2 to 1",
            "Count from 0",
            attention_levels=(2,),
        ),
    ),
    *in_module(
        "models/diffusion_ad/unet.py",
        with_parameter(
            "base_channels={} does not fit",
            "base_channels=40 does not fit num_groups=32",
            "expected a multiple of 32",
            "Use 32, or fewer groups",
            base_channels=40,
        ),
        with_parameter(
            "channel_multipliers={}",
            "channel_multipliers=(2, 4)",
            "the first 1",
            "A wider network has more base_channels",
            channel_multipliers=(2, 4),
        ),
        with_parameter(
            "base_channels={} with",
            "channel_multipliers=(1, 1000) gives 32000 channels",
            "expected at most 8192",
            "Lower one of them",
            channel_multipliers=(1, 1000),
        ),
        with_parameter(
            "num_heads={}",
            "num_heads=3 does not divide the 64 channels",
            "expected a divisor",
            "Use 4",
            num_heads=3,
        ),
    ),
    *in_module(
        "models/diffusion_ad/torch_model.py",
        Message("There is no {}", lambda: build().train()(torch.rand(2, 3, 32, 32)), ValueError,
                "no timestep and no noise", "needs timestep and noise beside the images",
                "Pass both, or call .eval() first"),
    ),
    *in_module(
        "models/diffusion_ad/loss.py",
        weighted(
            "All of {} are 0",
            "All of noise_weight, focal_weight, smooth_l1_weight are 0",
            "expected one above 0",
            "Keep a term",
            noise_weight=0,
            focal_weight=0,
            smooth_l1_weight=0,
        ),
        weighted("focal_alpha={}", "focal_alpha=0", "expected a factor above 0", "Use 0.5", focal_alpha=0),
    ),
    *in_module(
        "models/diffusion_ad/official.py",
        Message("There is no checkpoint {}", lambda: read_official("gone.pt"), FileNotFoundError,
                "no checkpoint gone.pt", "expected a file that the authors' code saved", "Check the path"),
        Message("{} could not be read", damaged_file, ValueError,
                "params.pt could not be read", "as a checkpoint of the authors' code", "Copy it again"),
        Message(
            "{} holds {}",
            file_of_another_model,
            ValueError,
            "holds model.image_proj.weight",
            "expected the state dicts unet_model_state_dict and seg_model_state_dict",
            "Pass a file params-best.pt",
        ),
        Message(
            "The checkpoint lacks the convolutions",
            lambda: infer_architecture(OfficialCheckpoint({"a": torch.zeros(1)}, {"b": torch.zeros(1)}, None, {})),
            ValueError,
            "its keys are a and b",
            "expected the authors' networks",
            "Pass a file of the authors' code",
        ),
        Message("The decoder of the checkpoint has {}", lacking_blocks, ValueError,
                "has 0 modules up.*", "expected as many modules in each level", "pass another file, or copy it again"),
        Message(
            "The checkpoint does not fit the networks",
            lambda: import_official(official(), build(channel_multipliers=(1, 1))),
            ValueError,
            "of another shape: ",
            "does not fit the networks",
            "Leave the parameters of the networks to the checkpoint",
        ),
        Message("The model has num_heads={}", lambda: export_official(build(num_heads=2)), ValueError,
                "num_heads=2 and num_groups=32", "expected 4 and 32", "Train a model with these numbers"),
    ),
    *in_module(
        "synthesis/blending.py",
        blended(
            "max_perlin_scale={}",
            "max_perlin_scale=1",
            "expected min_perlin_scale=2 to 5",
            "Use 5",
            min_perlin_scale=2,
            max_perlin_scale=1,
        ),
        blended("image_share={}", "image_share=(0.8, 0.2)", "in [0, 1]", "Use 0.2 and 0.8", image_share=(0.8, 0.2)),
    ),
    *in_module(
        "checks.py",
        with_parameter("{}={} {} {}", "timesteps=1 is", "expected 2 to 10000", "Use 1000", timesteps=1),
        with_parameter(
            "{}={} is unknown",
            "schedule='root'",
            "unknown",
            "choose one of linear, cosine",
            schedule="root",
        ),
        with_parameter(
            "{}={} {} {}",
            "guidance_weight=-1",
            "expected 0 (no guidance) to 1000",
            "Use 1, the published weight",
            guidance_weight=-1,
        ),
        with_parameter("{}={} {} {}", "noise_draws=0", "expected 1 to 1000", "Use 1", noise_draws=0),
        with_parameter(
            "{}={} {} {}",
            "noise_seed=-1",
            "expected a whole number from 0",
            "Use 0, or None",
            noise_seed=-1,
        ),
        with_parameter("{}={} {} {}", "score_pixels=2000", "expected 1 to 1024", "Use 50", score_pixels=2000),
        with_parameter("{}={} {} {}", "num_groups=0", "expected 1 to 8192", "Use 32", num_groups=0),
        with_parameter("{}={} {} {}", "num_blocks=0", "expected 1 to 64", "Use 2", num_blocks=0),
        with_parameter(
            "{}={} {} {}",
            "segmentation_width=0",
            "expected 1 to 1024 channels",
            "Use 64",
            segmentation_width=0,
        ),
        weighted("{}={} {} {}", "noise_weight=-1", "at least 0", "Use 0 to switch", noise_weight=-1),
        weighted("{}={} {} {}", "focal_gamma=11", "expected 0 (cross entropy) to 10", "Use 4", focal_gamma=11),
        blended(
            "{}={} {} {}",
            "anomalous_share=2",
            "expected 0 (no anomalies) to 1",
            "Use 0.5",
            anomalous_share=2,
        ),
        blended("{}={} {} {}", "mask_attempts=0", "expected 1 to 1000", "Use 50", mask_attempts=0),
        Message("{}={} is unknown", lambda: DiffusionAD(**SMALL, segmentation_schedule="step"), ValueError,
                "segmentation_schedule='step'", "constant, cosine, swing", "choose one of"),
        Message("{}={} is unknown", lambda: DiffusionAD(**SMALL, product_kind="fabric"), ValueError,
                "product_kind='fabric'", "auto, object, texture", "choose one of"),
    ),
]
# fmt: on
