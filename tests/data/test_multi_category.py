# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The data module that joins categories: what it finds, how it splits, what its batches know."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from anomalib.data import BTech, Folder, MVTecAD2, Visa, get_datamodule
from anomalib.data.utils import ValSplitMode
from lightning.fabric.utilities import move_data_to_device
from PIL import Image

from anomalib_transfusion.categories import CategoryBatch
from anomalib_transfusion.data import MultiCategory, MVTec
from anomalib_transfusion.data.category_dataset import BalancedSampler, CategoryBatchSampler
from anomalib_transfusion.data.demo_surface import CATEGORIES
from conftest import SURFACE

IMAGES = {key: value for key, value in SURFACE.items() if key.endswith("_images") or key == "image_size"}
LOADING = {"num_workers": 0, "train_batch_size": 4, "eval_batch_size": 4}


def pictures(folder, number=2, size=(40, 32), mode="RGB"):
    """Write images of one color into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        Image.new(mode, size, 255).save(folder / f"{index:03}.png")


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory):
    """Return the root of three small surfaces."""
    root = tmp_path_factory.mktemp("surfaces")
    MultiCategory("DemoSurface", root, dataset_args=IMAGES).prepare_data()
    return root


@pytest.fixture
def joined(surfaces):
    """Return a data module over three surfaces, set up."""
    data = MultiCategory("DemoSurface", surfaces, dataset_args=IMAGES, **LOADING)
    data.setup()
    return data


def paths(dataset):
    return sorted(dataset.samples.image_path)


def test_all_categories_are_made_and_joined(joined, surfaces):
    assert joined.categories == CATEGORIES
    assert Counter(joined.train_data.categories) == dict.fromkeys(CATEGORIES, 16)
    assert Counter(joined.test_data.categories) == dict.fromkeys(CATEGORIES, 7)
    for index in (0, 20, 47):
        item = joined.train_data[index]
        assert Path(item.image_path).relative_to(surfaces).parts[0] == item.category
        assert item.image_path == joined.train_data.samples.image_path[index]


@pytest.mark.parametrize("mode", ["from_test", "from_train", "same_as_test"])
def test_each_category_splits_as_it_does_alone(surfaces, mode):
    arguments = {"val_split_mode": mode, "val_split_ratio": 0.4, "seed": 3}
    data = MultiCategory("MVTec", surfaces, ["grass", "brick"], **arguments, **LOADING)
    data.setup()
    alone = [MVTec(surfaces, category, **arguments) for category in ("brick", "grass")]
    for subset in ("train_data", "val_data", "test_data"):
        expected = []
        for child in alone:
            child.setup()
            expected += paths(getattr(child, subset))
        assert paths(getattr(data, subset)) == sorted(expected), subset


def test_synthetic_validation_images_know_their_category_and_live_as_long_as_the_data(surfaces):
    data = MultiCategory("MVTec", surfaces, val_split_mode=ValSplitMode.SYNTHETIC, val_split_ratio=0.25, **LOADING)
    data.setup()
    assert Counter(data.val_data.categories) == dict.fromkeys(CATEGORIES, 4)
    assert [item.category for item in data.val_data] == data.val_data.categories
    masks = [batch.gt_mask.any(dim=(1, 2)) for batch in data.val_dataloader()]
    assert torch.cat(masks).sum() == 6


def test_batch_knows_its_categories(joined):
    batch = CategoryBatch.collate([joined.test_data[index] for index in (0, 7, 14, 1)])
    assert batch.category == [joined.test_data.categories[index] for index in (0, 7, 14, 1)]
    assert len(set(batch.category)) == 3
    batch.update(pred_score=torch.rand(4))
    assert len(set(batch.category)) == 3
    assert [item.category for item in batch] == batch.category
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.image.is_meta
    assert moved.category == batch.category
    assert batch.to_numpy().category == batch.category
    assert [item.category for item in batch.to_numpy()] == batch.category
    assert joined.test_data[7].to_numpy().category == batch.category[1]


def test_subset_knows_its_categories(joined):
    subset = joined.train_data.subsample([0, 40])
    assert [item.category for item in subset] == [joined.train_data.categories[index] for index in (0, 40)]
    assert [item.image_path for item in subset] == [joined.train_data[index].image_path for index in (0, 40)]


def test_sizes_may_differ_and_an_evaluation_batch_has_one_category(tmp_path):
    for category, size in {"large": (60, 48), "small": (40, 32)}.items():
        for folder in ("train/good", "test/good", "test/hole"):
            pictures(tmp_path / category / folder, 3, size)
        pictures(tmp_path / category / "ground_truth/hole", 3, size, "L")
    data = MultiCategory("MVTec", tmp_path, **{**LOADING, "eval_batch_size": 4})
    data.setup()
    shapes = [(batch.category[0], len(batch), batch.image.shape[2:]) for batch in data.test_dataloader()]
    assert shapes == [
        *[("large", 4, (48, 60)), ("large", 2, (48, 60))],
        *[("small", 4, (32, 40)), ("small", 2, (32, 40))],
    ]
    assert all(len(set(batch.category)) == 1 for batch in data.val_dataloader())
    # Training mixes them: anomalib resizes the images of a batch to the largest.
    mixed = CategoryBatch.collate([data.train_data[0], data.train_data[5]])
    assert mixed.image.shape == (2, 3, 48, 60)
    assert mixed.gt_mask.shape == (2, 48, 60)


CATEGORY_OF = ["a"] * 10 + ["b"] * 3 + ["c"] * 2


def drawn(epoch=0, num_replicas=1, seed=5):
    samplers = [BalancedSampler(CATEGORY_OF, num_replicas, rank, seed) for rank in range(num_replicas)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_balanced_draws_categories_equally_often(num_replicas):
    parts = drawn(num_replicas=num_replicas)
    assert len({len(part) for part in parts}) == 1
    together = [position for part in parts for position in part]
    counts = Counter(CATEGORY_OF[position] for position in together)
    assert set(counts) == {"a", "b", "c"}
    assert len(set(counts.values())) == 1
    # Five of each at least; the ten of a at most once, the others as often as each other, or once more.
    times = Counter(together)
    assert max(times[position] for position in range(10)) == 1
    for members in (range(10, 13), range(13, 15)):
        assert max(times[position] for position in members) - min(times[position] for position in members) <= 1


def test_balanced_is_reproducible_and_differs_between_epochs_and_seeds():
    assert drawn() == drawn()
    assert drawn() != drawn(epoch=1)
    assert drawn() != drawn(seed=6)
    first, second = drawn(num_replicas=2)
    assert first != second


def test_balanced_loader(surfaces):
    data = MultiCategory("DemoSurface", surfaces, ["brick", "grass"], balanced=True, dataset_args=IMAGES, **LOADING)
    data.setup()
    # As if most images of grass were missing.
    data.train_data = data.train_data.subsample([*range(16), 20, 30])
    counts = Counter(category for batch in data.train_dataloader() for category in batch.category)
    assert counts == {"brick": 9, "grass": 9}


@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 4), (2, 2), (3, 5)])
def test_evaluation_on_several_processes_repeats_no_image(ranks, batch_size):
    seen = []
    for rank in range(ranks):
        given = torch.utils.data.DistributedSampler(CATEGORY_OF, ranks, rank, shuffle=False)
        sampler = CategoryBatchSampler(given, batch_size, categories=CATEGORY_OF)
        batches = list(sampler)
        assert len(sampler) == len(batches)
        assert all(len({CATEGORY_OF[position] for position in batch}) == 1 for batch in batches)
        assert all(len(batch) <= batch_size for batch in batches)
        seen += [position for batch in batches for position in batch]
    assert sorted(seen) == list(range(15))


def btech(root):
    for category in ("01", "03"):
        for folder in ("train/ok", "test/ok", "test/ko"):
            pictures(root / category / folder)
        pictures(root / category / "ground_truth/ko", mode="L")


def visa(root):
    for category in ("candle", "pcb1"):
        for folder in ("train/good", "test/good", "test/bad"):
            pictures(root / "visa_pytorch" / category / folder)
        pictures(root / "visa_pytorch" / category / "ground_truth/bad", mode="L")


def mvtecad2(root):
    for category in ("can", "vial"):
        for folder in ("train/good", "validation/good", "test_public/good", "test_public/bad"):
            pictures(root / category / folder)
        for folder in ("test_private", "test_private_mixed"):
            pictures(root / category / folder)
        pictures(root / category / "test_public/ground_truth/bad", mode="L")
        for mask in (root / category / "test_public/ground_truth/bad").iterdir():
            mask.rename(mask.with_name(f"{mask.stem}_mask.png"))


@pytest.mark.parametrize(
    ("dataset", "build", "categories"),
    [
        (BTech, btech, ("01", "03")),
        (Visa, visa, ("candle", "pcb1")),
        (MVTecAD2, mvtecad2, ("can", "vial")),
    ],
)
def test_published_layouts(dataset, build, categories, tmp_path):
    build(tmp_path)
    data = MultiCategory(dataset.__name__, tmp_path, **LOADING)
    assert data.categories == categories
    # Nothing is downloaded: all of them are there.
    data.prepare_data()
    data.setup()
    for subset in ("train_data", "val_data", "test_data"):
        expected = []
        for category in categories:
            alone = dataset(root=tmp_path, category=category, num_workers=0)
            alone.setup()
            # MVTecAD2 keeps three test sets, and its test_data loses the normal images.
            loader = getattr(alone, f"{subset.removesuffix('_data')}_dataloader")()
            expected += [(path, category) for path in paths(loader.dataset)]
        samples = getattr(data, subset).samples
        assert sorted(zip(samples.image_path, samples.category, strict=True)) == sorted(expected), subset
    masks = torch.cat([batch.gt_mask.any(dim=(1, 2)) for batch in data.test_dataloader()])
    assert masks.sum() == 4
    assert len(masks) == 8


def test_tree_of_folders(tmp_path):
    for category in ("bolt", "nut"):
        for folder in ("good", "rust", "crack"):
            pictures(tmp_path / category / folder, 4)
        for folder in ("rust", "crack"):
            pictures(tmp_path / category / "ground_truth" / folder, 4, mode="L")
    (tmp_path / "notes").mkdir()
    data = MultiCategory("Folder", tmp_path, seed=1, test_split_ratio=0.5, **LOADING)
    assert data.categories == ("bolt", "nut")
    data.setup()
    alone = Folder(
        "bolt",
        root=tmp_path / "bolt",
        normal_dir="good",
        abnormal_dir=["crack", "rust"],
        mask_dir=["ground_truth/crack", "ground_truth/rust"],
        seed=1,
        test_split_ratio=0.5,
    )
    alone.setup()
    for subset in ("train_data", "val_data", "test_data"):
        ours = getattr(data, subset).samples
        assert sorted(ours[ours.category == "bolt"].image_path) == paths(getattr(alone, subset)), subset
    assert all(batch.gt_mask is not None for batch in data.test_dataloader())
    assert {item.category for item in data.test_data} == {"bolt", "nut"}


def test_tree_of_folders_without_masks(tmp_path):
    for category in ("bolt", "nut"):
        for folder in ("good", "defect"):
            pictures(tmp_path / category / folder, 4)
    data = MultiCategory("Folder", tmp_path, **LOADING)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    assert batch.gt_mask is None
    assert batch.gt_label is not None


def test_data_set_that_is_not_there_yet_has_all_its_categories(tmp_path):
    data = MultiCategory("Visa", tmp_path / "visa")
    assert len(data.categories) == 12
    data = MultiCategory("MVTecAD", tmp_path / "mvtec")
    assert len(data.categories) == 15
    assert MultiCategory("MVTecAD", tmp_path / "mvtec", "zipper").categories == ("zipper",)


def test_two_roots(surfaces, tmp_path):
    pictures(tmp_path / "mine/bolt/train/good")
    pictures(tmp_path / "mine/bolt/test/good")
    data = MultiCategory("MVTec", [surfaces, tmp_path / "mine"], ["bolt", "brick"])
    assert data.children["bolt"].root == tmp_path / "mine"
    assert data.children["brick"].root == surfaces


def test_name_is_the_folder_above_the_categories(surfaces, monkeypatch):
    assert MultiCategory("DemoSurface", surfaces).name == surfaces.name
    monkeypatch.chdir(surfaces)
    data = MultiCategory("DemoSurface", ".", dataset_args=IMAGES)
    assert data.name == surfaces.name
    data.setup()
    assert all(surfaces.name in Path(path).parts for path in data.test_data.samples.image_path)


def test_known_to_anomalib_by_name_and_from_a_dictionary(surfaces):
    config = {
        "data": {
            "class_path": "MultiCategory",
            "init_args": {"dataset": "DemoSurface", "root": str(surfaces), "categories": ["grass"]},
        },
    }
    data = get_datamodule(config)
    assert type(data) is MultiCategory
    assert data.categories == ("grass",)
