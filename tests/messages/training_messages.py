# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages of what every model does in anomalib's engine."""

import math

import torch
from anomalib.data.utils.tiler import Tiler
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Trainer
from message_table import Message, in_module
from PIL import Image
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_transfusion import DemoSurface
from anomalib_transfusion.models.transfusion.loss import LossTerms
from anomalib_transfusion.models.transfusion.training_sample import TrainingSampler
from anomalib_transfusion.training.hyper_parameters import check_readable
from anomalib_transfusion.training.numerics import LossGuard
from conftest import SURFACE
from parts import part

IMAGES = torch.rand(1, 3, 32, 32)
BETA = torch.linspace(0, 1, 4)


def set_tiler(model, tiler):
    model.tiler = tiler


def loss_that_is_not_finite():
    terms = dict.fromkeys(LossTerms._fields, torch.tensor(1.0)) | {"mask": torch.tensor(math.nan)}
    LossGuard().watch(LossTerms(**terms), step=3)


def batch_without_paths(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.new("L", (32, 32), 255).save(tmp_path / "masks/000.png")
    part(TrainingSampler, texture_source="none", foreground=tmp_path / "masks")(IMAGES, BETA)


def more_processes_than_images(tiny, surface):
    """Only the processes that a trainer is told of count here; none is started."""
    surface.setup()
    trainer = Trainer(accelerator="cpu", devices=8, strategy="ddp", logger=False, enable_checkpointing=False)
    model = tiny()
    trainer.strategy.connect(model)
    trainer._data_connector.attach_data(model, datamodule=surface)
    model.trainer = trainer
    model.setup("test")


class Unreadable:
    """Something that ``torch.load`` does not read."""


def normalized_data(tiny, surface_root, tmp_path):
    data = DemoSurface(root=surface_root, **SURFACE, augmentations=Normalize([0.5], [0.5]))
    Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False).test(tiny(), datamodule=data)


# fmt: off
TRAINING = [
    *in_module(
        "training/hyper_parameters.py",
        Message("The hyper-parameter {}={} is of", lambda: check_readable({"extra": Unreadable()}, []), TypeError,
                "extra=", "expected numbers, texts, flags and sequences of them",
                'save_hyperparameters(ignore=["extra"])'),
    ),
    *in_module(
        "training/transforms.py",
        Message("The {} of {} normalize images", normalized_data, ValueError,
                "to values from -1 to 1", "expected [0, 1]", "Remove Normalize"),
    ),
    *in_module(
        "training/learning_rate.py",
        Message("{}={} is impossible; expected a number", lambda tiny: tiny(full_rate_share=1.5), ValueError,
                "full_rate_share=1.5", "a number from 0 to 1", "Leave it out for the default"),
    ),
    *in_module(
        "training/transforms.py",
        Message(
            "The pre-processor {} normalizes",
            lambda tiny: tiny(pre_processor=PreProcessor(transform=Compose([Resize((32, 32)), Normalize([0.5], [1])]))),
            ValueError,
            "Normalize(mean=[0.5]",
            "expects images in [0, 1]",
            "Remove Normalize from the transforms",
        ),
    ),
    *in_module(
        "training/tiling.py",
        Message("tile_size={} does not fit", lambda tiny: set_tiler(tiny().model, Tiler(15, 15)), ValueError,
                "tile_size=(15, 15)", "both sides must be multiples of 2",
                "Choose such sides in the TilerConfigurationCallback"),
        Message(
            "remove_border_count={} would",
            lambda tiny: set_tiler(tiny().model, Tiler(16, 8, remove_border_count=2)),
            ValueError,
            "remove_border_count=2",
            "leave the border of the image without a prediction",
            "Use 0 in the TilerConfigurationCallback",
        ),
    ),
    *in_module(
        "training/numerics.py",
        Message("The loss is not finite", loss_that_is_not_finite, FloatingPointError,
                "train_loss_mask=nan", "not finite at step 3", "Try a smaller learning_rate"),
    ),
    *in_module(
        "training/distributed.py",
        Message("{} images cannot be evaluated", more_processes_than_images, ValueError,
                "7 images cannot be evaluated on 8 processes", "each has two images or more", "use fewer devices"),
    ),
    *in_module(
        "training/anomalies.py",
        Message("foreground={} needs", batch_without_paths, ValueError,
                "masks'", "needs the file of each image", "Use a data module that gives it"),
    ),
    *in_module(
        "checks.py",
        Message("{}={} is unknown", lambda tiny: tiny(texture_source="dtd"), ValueError,
                "texture_source='dtd'", "folder, photographs, none", "choose one of"),
    ),
]
# fmt: on
