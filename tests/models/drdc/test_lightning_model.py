# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""DRDC in anomalib's engine: categories and their checkpoints, standardized maps, parts, rates and clipping."""

import warnings

import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging

from anomalib_transfusion import DemoSurface, Drdc, MultiCategory
from conftest import SURFACE
from exports import run_onnx

from .networks import build

NAMES = ("brick", "grass", "gravel")
DATA = {name: value for name, value in SURFACE.items() if name != "category"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with three small demo surfaces."""
    root = tmp_path_factory.mktemp("surfaces")
    for name in NAMES:
        DemoSurface(root=root, category=name, **{**DATA, "num_train_images": 4}).prepare_data()
    return root


def several(root, categories=NAMES):
    """Return a data module over several categories."""
    sizes = {name: DATA[name] for name in ("image_size", "num_test_images", "num_defect_images")}
    return MultiCategory(
        dataset="DemoSurface",
        root=root,
        categories=categories,
        train_batch_size=4,
        eval_batch_size=4,
        num_workers=0,
        dataset_args={**sizes, "num_train_images": 4},
    )


def single(root, category):
    return DemoSurface(root=root, category=category, **{**DATA, "num_train_images": 4})


def engine(folder, **arguments):
    settings = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, **arguments}
    return Engine(default_root_dir=folder, **settings)


def checkpoint_of(run):
    return run.trainer.checkpoint_callback.best_model_path


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """Return the checkpoint of a training on three categories, and the model."""
    seed_everything(0)
    model = build()
    run = engine(tmp_path_factory.mktemp("run"))
    run.fit(model, datamodule=several(root))
    return checkpoint_of(run), model


def test_categories_are_those_of_the_data_and_in_the_checkpoint(trained):
    path, model = trained
    assert model.names.names == NAMES
    assert model.model.head.weight.shape[0] == 3
    assert model.model.refinement.denoiser.category_embedding.weight.shape[0] == 4
    # A model that knows neither the names nor the image size.
    loaded = Drdc.load_from_checkpoint(path)
    assert loaded.names.names == NAMES
    assert loaded.model.image_size == (32, 32)
    images = torch.rand(2, 3, 32, 32)
    for categories in (None, torch.tensor([2, 0])):
        wanted = model.eval().evaluate(images, categories)[0]
        found = loaded.eval().evaluate(images, categories)[0]
        assert torch.equal(found.anomaly_map, wanted.anomaly_map)


def test_maps_are_standardized_by_what_was_validated(trained, root):
    """Two images of each category by the weights of the checkpoint: the first and the third of four."""
    loaded = Drdc.load_from_checkpoint(trained[0])
    kept = loaded.model.statistics.clone()
    assert not torch.equal(kept[0], kept[1])
    assert (kept[:, [1, 3]] > 0).all()
    data = several(root)
    data.setup("fit")
    batches = []
    for index, name in enumerate(NAMES):
        rows = [row for row, category in enumerate(data.train_data.categories) if category == name]
        images = torch.stack([data.train_data[rows[position]].image for position in (0, 2)])
        batches.append((loaded.pre_processor.transform(images), torch.tensor([index, index])))
    loaded.model.statistics.fill_(1)
    loaded.model.measure(batches)
    torch.testing.assert_close(loaded.model.statistics, kept, rtol=1e-3, atol=1e-4)


def test_categories_reach_the_maps_from_batch_and_data(trained, root, tmp_path):
    """Of many categories, of one, and of images without any, whose category the head tells."""
    path, model = trained
    seen = []
    fresh = build()
    hook = fresh.evaluate
    fresh.evaluate = lambda images, categories=None: seen.append(categories) or hook(images, categories)
    engine(tmp_path).test(fresh, datamodule=several(root, ["gravel", "brick"]), ckpt_path=path)
    assert {index for categories in seen for index in categories.tolist()} == {0, 2}
    seen.clear()
    engine(tmp_path).test(fresh, datamodule=single(root, "grass"), ckpt_path=path)
    assert {index for categories in seen for index in categories.tolist()} == {1}
    seen.clear()
    engine(tmp_path).predict(fresh, dataset=PredictDataset(root / "grass/test/good"), ckpt_path=path)
    assert {index for categories in seen for index in categories.tolist()} == {-1}
    assert fresh.names.names == model.names.names


def test_an_unknown_category_is_tested_and_said_once(trained, root):
    data = several(root, ["brick"])
    data.setup()
    model = Drdc.load_from_checkpoint(trained[0]).eval()
    batch = next(iter(data.test_dataloader()))
    batch.image = model.pre_processor.transform(batch.image)
    batch.category = ["wall"] * len(batch.image)
    with pytest.warns(UserWarning, match="category 'wall' is none of the model's"):
        found, _ = model.evaluate_batch(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.evaluate_batch(batch)
    assert torch.equal(found.pred_score, model.evaluate(batch.image)[0].pred_score)


def test_other_categories_than_the_checkpoints(trained, root, tmp_path):
    path, _ = trained
    with pytest.raises(ValueError, match="checkpoint is of 3 categories, brick, grass, gravel, and the model of 2"):
        engine(tmp_path).test(build(categories=["brick", "grass"]), datamodule=several(root), ckpt_path=path)
    with pytest.raises(ValueError, match="brick, grass"):
        engine(tmp_path, max_epochs=2).fit(build(), datamodule=several(root, ["brick", "grass"]), ckpt_path=path)
    with pytest.raises(ValueError, match=r"has the category gravel.*expected brick, grass"):
        engine(tmp_path).fit(build(categories=["brick", "grass"]), datamodule=several(root))


def test_parameters_that_weights_were_trained_for(trained, root, tmp_path):
    for parameters, message in (
        ({"hidden_dim": 16}, "trained with hidden_dim=8, but this model has hidden_dim=16"),
        ({"process": "ddpm"}, "trained with process=shift"),
        ({"timesteps": (20,)}, "begin beyond those of the checkpoint, which was trained up to 12"),
    ):
        with pytest.raises(ValueError, match=message):
            engine(tmp_path).test(build(**parameters), datamodule=several(root), ckpt_path=trained[0])


def test_a_test_with_other_maps_measures_anew(trained, root, tmp_path):
    """Where the data has training images; else it is said."""
    path, model = trained
    kept = model.model.statistics.clone()
    same, other = build(), build(difference="gradient", timesteps=(4,))
    engine(tmp_path).test(same, datamodule=several(root), ckpt_path=path)
    assert torch.equal(same.model.statistics, kept)
    engine(tmp_path).test(other, datamodule=several(root), ckpt_path=path)
    assert torch.allclose(other.model.statistics[:, :2], kept[:, :2], rtol=1e-3)
    assert not torch.allclose(other.model.statistics[:, 2:], kept[:, 2:], rtol=1e-2)
    images = PredictDataset(root / "grass/test/good")
    with pytest.warns(UserWarning, match="measured with other parameters than timesteps=.4., difference=gradient"):
        engine(tmp_path).predict(build(difference="gradient", timesteps=(4,)), dataset=images, ckpt_path=path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The maps of normal images")
        engine(tmp_path).predict(build(difference="gradient", gamma=0.0), dataset=images, ckpt_path=path)


def test_another_grid_measures_the_base_models_maps_anew(trained, root, tmp_path):
    path, _ = trained
    fine = build(gamma=0.0, statistics_grid=4)
    engine(tmp_path).test(fine, datamodule=several(root), ckpt_path=path)
    # Not those of the whole image in each cell.
    assert fine.model.statistics[:, :2].flatten(2).std(dim=-1).min() > 0
    images = PredictDataset(root / "grass/test/good")
    with pytest.warns(UserWarning, match="measured with other parameters than statistics_grid=2, and"):
        engine(tmp_path).predict(build(gamma=0.0, statistics_grid=2), dataset=images, ckpt_path=path)
    with pytest.warns(UserWarning, match="measured with other parameters than statistics_images=1, and"):
        engine(tmp_path).predict(build(statistics_images=1), dataset=images, ckpt_path=path)


def test_another_number_of_images_measures_anew(trained, root, tmp_path):
    path, model = trained
    for gamma, measured in ((1.0, slice(None)), (0.0, slice(2))):
        fewer = build(statistics_images=1, gamma=gamma)
        engine(tmp_path).test(fewer, datamodule=several(root), ckpt_path=path)
        difference = (fewer.model.statistics - model.model.statistics)[:, measured]
        assert (difference.abs().flatten(2).amax(dim=-1) > 1e-4).all()


def test_weights_stay_where_the_number_of_categories_changes():
    """Those of the backbone may be one's own."""
    model = build()
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    model.names.learn(NAMES)
    model._fit_size()
    after = model.model.state_dict()
    changed = {name for name, value in before.items() if value.shape != after[name].shape}
    assert changed == {
        *("statistics", "base_scores", "head.weight", "head.bias"),
        "refinement.denoiser.category_embedding.weight",
    }
    assert all(torch.equal(after[name], value) for name, value in before.items() if name not in changed)


def test_one_category(root, tmp_path):
    """Without MultiCategory; and without a validation, before the last checkpoint is written."""
    model = build()
    run = engine(tmp_path, limit_val_batches=0)
    run.fit(model, datamodule=single(root, "grass"))
    assert model.names.names == ("grass",)
    state = torch.load(checkpoint_of(run), weights_only=True)["state_dict"]
    assert torch.equal(state["model.statistics"], model.model.statistics)
    assert state["model.statistics"][0].flatten().tolist() != [0, 1, 0, 1]
    assert torch.equal(state["model.statistics"][0], state["model.statistics"][1])


@pytest.mark.parametrize("validated", [True, False])
def test_averaged_weights_are_those_that_are_measured(root, tmp_path, validated):
    arguments = {} if validated else {"limit_val_batches": 0}
    run = engine(tmp_path, callbacks=[EMAWeightAveraging(decay=0.5)], **arguments)
    run.fit(build(), datamodule=several(root))
    loaded = Drdc.load_from_checkpoint(checkpoint_of(run))
    kept = loaded.model.statistics.clone()
    images = several(root)
    # With other maps, it would be measured anew in any case.
    loaded.measured_for = {**loaded.measured_for, "filter_size": 3}
    engine(tmp_path).test(loaded, datamodule=images)
    assert loaded.names.names == NAMES
    torch.testing.assert_close(loaded.model.statistics, kept, rtol=1e-3, atol=1e-4)


class Gradients(Callback):
    """Keeps the norms of both parts' gradients as the optimizer gets them."""

    def __init__(self):
        self.norms = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        """Take the norms; Lightning clears gradients before the next step."""
        del trainer
        parts = (pl_module.model.base, pl_module.model.refinement)
        self.norms.append([
            torch.stack([p.grad.norm() for p in part.parameters() if p.grad is not None]).norm().item()
            for part in parts
        ])


def test_rates_and_clipping_of_each_part(root, tmp_path):
    model = build(
        learning_rate=3e-4,
        denoiser_learning_rate=2e-4,
        weight_decay=0.25,
        gradient_clip=0.02,
        denoiser_gradient_clip=0.01,
    )
    gradients = Gradients()
    run = engine(tmp_path, callbacks=[gradients], limit_val_batches=0)
    run.fit(model, datamodule=single(root, "brick"))
    [optimizer] = run.trainer.optimizers
    assert [group["initial_lr"] for group in optimizer.param_groups] == [3e-4, 2e-4]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0]
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    frozen = {id(parameter) for parameter in model.model.base.backbone.parameters()}
    assert optimized == {id(parameter) for parameter in model.model.parameters()} - frozen
    # The head's gradient is a part of the first group's.
    for base, refinement in gradients.norms:
        assert 0 < base <= 0.02 * 1.001
        assert refinement == pytest.approx(0.01, rel=1e-3)


def test_one_part_after_the_other(root, tmp_path):
    """The base model first; the refinement goes on from its checkpoint, and leaves it as it is."""
    run = engine(tmp_path / "base")
    model = build(train="base")
    fresh = {name: value.clone() for name, value in model.model.refinement.state_dict().items()}
    run.fit(model, datamodule=single(root, "brick"))
    first = torch.load(path := checkpoint_of(run), weights_only=True)["state_dict"]
    assert all(torch.equal(first[f"model.refinement.{name}"], value) for name, value in fresh.items())
    again = engine(tmp_path / "refinement", max_epochs=2)
    again.fit(build(train="refinement"), datamodule=single(root, "brick"), ckpt_path=path)
    second = torch.load(checkpoint_of(again), weights_only=True)["state_dict"]
    for name, value in first.items():
        if name.startswith(("model.base.", "model.head.")):
            assert torch.equal(second[name], value), name
    assert not torch.equal(
        second["model.refinement.denoiser.output.weight"],
        first["model.refinement.denoiser.output.weight"],
    )


def test_backbone_without_weights(root, tmp_path):
    """It says which to install; evaluating needs none."""
    parameters = {"backbone": "mobilenetv2_035", "feature_stride": 8, "visualizer": False}
    model = Drdc(pre_processor=Drdc.configure_pre_processor((32, 32)), cell_sizes=(4,), **parameters)
    with pytest.raises(OSError, match=r"backbone='mobilenetv2_035'.*anomalib-transfusion\[backbone\]"):
        engine(tmp_path).fit(model, datamodule=single(root, "brick"))
    assert model.eval().evaluate(torch.rand(1, 3, 32, 32))[0].anomaly_map.shape == (1, 1, 32, 32)


def test_panels(trained):
    model = trained[1].eval()
    _, panels = model.evaluate(torch.rand(2, 3, 32, 32))
    assert {name: panel.shape[1] for name, panel in panels.items()} == {
        "Reconstruction": 3,
        "Base map": 1,
        "Refinement": 1,
    }
    assert all(0 <= panel.min() <= panel.max() <= 1 for panel in panels.values())
    assert model.evaluation_passes == 1 + 2 * 2 * 4


def test_maps_that_are_not_the_default_are_exported(tmp_path):
    """SSIM is kornia's, and a product of maps has another graph than a sum."""
    model = build(difference="structural", fusion="product", post_processor=False).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model(images)
    given = run_onnx(model.to_onnx(tmp_path), images)
    torch.testing.assert_close(given["anomaly_map"], wanted.anomaly_map, rtol=0, atol=1e-4)
