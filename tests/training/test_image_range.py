# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Images out of [0, 1] are refused, with the range that was found, wherever they come from."""

import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from anomalib.engine import Engine
from contract_models import each_model
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import resize

from anomalib_transfusion import DemoSurface, TransFusion
from anomalib_transfusion.checks import check_range
from anomalib_transfusion.training.numerics import ImageGuard
from conftest import SURFACE

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# (0 - 0.485) / 0.229 and (1 - 0.406) / 0.225.
IMAGENET = r"from -2\.118 to 2\.64; expected \[0, 1\]"


@pytest.fixture
def engine(tmp_path):
    """Return an engine that writes to a folder of its own."""
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=tmp_path, max_epochs=1, **settings)


class Own(v2.Transform):
    """A transform that holds another one under a name of its own."""

    def __init__(self, inner):
        super().__init__()
        self.anything = inner

    def forward(self, *inputs):
        """Apply it."""
        return self.anything(*inputs)


@pytest.mark.parametrize(
    "nest",
    [
        lambda one: one,
        lambda one: v2.Compose([v2.RandomHorizontalFlip(), v2.Compose([one])]),
        lambda one: v2.RandomApply([one], p=0.5),
        lambda one: v2.RandomChoice([v2.Identity(), one]),
        Own,
        lambda one: nn.Sequential(v2.Identity(), one),
    ],
    ids=["alone", "nested", "at_random", "one_of", "own", "sequential"],
)
@pytest.mark.parametrize("where", ["train_augmentations", "val_augmentations", "test_augmentations", "augmentations"])
def test_normalize_among_the_augmentations(tiny, surface_root, engine, tmp_path, nest, where):
    """Before the first step, whichever part of the data has it."""
    data = DemoSurface(root=surface_root, **SURFACE, **{where: nest(v2.Normalize(MEAN, STD))})
    with pytest.raises(ValueError, match=rf"augmentations of .* normalize images to values {IMAGENET}.*Remove Normal"):
        engine.train(tiny(), datamodule=data)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_normalize_of_the_first_version_and_in_predictions(tiny, surface_root, engine):
    transform = v1.Compose([v1.Resize(32), v1.Normalize(MEAN, STD)])
    images = PredictDataset(surface_root / "brick/test/good", transform=transform)
    with pytest.raises(ValueError, match=rf"transform of PredictDataset normalize images to values {IMAGENET}"):
        engine.predict(tiny(), dataset=images)


def test_normalize_that_changes_nothing_is_taken(tiny, surface_root, engine):
    data = DemoSurface(root=surface_root, **SURFACE, augmentations=v2.Normalize([0.0], [1.0]))
    engine.fit(tiny(), datamodule=data)


@pytest.mark.parametrize("nest", [lambda one: v2.Compose([one]), lambda one: v2.Compose([v2.Compose([one])])])
def test_normalize_in_the_pre_processor(nest):
    from anomalib.pre_processing import PreProcessor

    with pytest.raises(ValueError, match="normalizes, but TransFusion expects"):
        TransFusion(pre_processor=PreProcessor(transform=nest(v2.Normalize(MEAN, STD))))


def hidden(images):
    """Normalize where nobody can see it."""
    return (images - 0.5) / 0.25


@pytest.mark.parametrize("where", ["train_augmentations", "test_augmentations"])
def test_range_of_what_cannot_be_seen(tiny, surface_root, engine, where):
    """A function may do anything: the values tell."""
    data = DemoSurface(root=surface_root, **SURFACE, **{where: v2.Lambda(hidden, object)})
    run = engine.fit if where.startswith("train") else engine.test
    step = " of step 0" if where.startswith("train") else ""
    with pytest.raises(ValueError, match=rf"The images{step} have values from -[\d.]+ to [\d.]+; expected \[0, 1\]"):
        run(tiny(), datamodule=data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 255 * x, r"from 0 to 255; expected \[0, 1\].*divide values up to 255"),
        (lambda x: (x - 0.45) / 0.225, r"from -2 to 2\.444"),
        (lambda x: 2 * x - 1, "from -1 to 1;"),
        (lambda x: torch.where(x == 1, float("nan"), x), "from nan to nan;.*replace what is not a number"),
        (lambda x: torch.where(x == 1, float("inf"), x), "from 0 to inf;"),
        (lambda x: (255 * x).half(), "from 0 to 255;"),
    ],
    ids=["bytes", "imagenet", "symmetric", "nan", "inf", "half"],
)
@each_model
def test_tensors_in_evaluation(model, change, message):
    images = torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    model = model.build().eval()
    network = model.model
    for call in (model, model.evaluate, network, network.predict, getattr(network, "reverse_process", network)):
        with pytest.raises(ValueError, match=f"The images have values {message}"):
            call(change(images))
    model.model(images)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [48, 100, 23])
def test_overshoot_of_a_resize_is_taken(size, antialias):
    """Edges and corners of the greatest contrast."""
    images = torch.zeros(1, 3, 32, 32)
    images[..., 8:24, 8:24] = 1
    resized = resize(images, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=antialias)
    assert antialias or size < 32 or resized.max() > 1.1
    check_range(resized)


def test_training_is_stopped_at_the_first_step(tiny, surface, engine):
    """Weights are those of before."""
    model = tiny()
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    surface.setup()
    items = [surface.train_data[index] for index in range(4)]
    for item in items:
        item.image = 255 * item.image
    loader = torch.utils.data.DataLoader(items, batch_size=2, collate_fn=ImageBatch.collate)
    with pytest.raises(ValueError, match=r"images of step 0 have values from [\d.]+ to [12]\d\d"):
        engine.fit(model, train_dataloaders=loader)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


@each_model
def test_export_has_no_check(model):
    """What is exported holds no check: its graph would have to choose by a value."""
    model = model.build().model.eval()
    exported = torch.export.export(model, (torch.rand(1, 3, 32, 32),))
    assert not [node for node in exported.graph.nodes if "aminmax" in str(node.target)]
    assert torch._dynamo.explain(lambda x: model(x).anomaly_map)(torch.rand(1, 3, 32, 32)).graph_break_count == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_training_does_not_wait_for_the_gpu():
    images = torch.rand(2, 3, 32, 32, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    guard = ImageGuard()
    try:
        guard.watch(images, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    guard.watch(255 * images, 1)
    with pytest.raises(ValueError, match="of step 1 have values"):
        guard.check()
