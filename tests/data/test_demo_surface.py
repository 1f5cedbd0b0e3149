# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The data module that makes its own data."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import get_datamodule
from anomalib.data.utils import ValSplitMode
from lightning.pytorch import seed_everything

from anomalib_transfusion.data import DemoSurface
from anomalib_transfusion.data.demo_surface import CATEGORIES, photograph

KINDS = ("crack", "displaced", "hole", "scratch", "stain")


def read(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image


def contents(folder):
    """Map each file below a folder to its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=CATEGORIES)
def built(request, tmp_path_factory):
    """Make a category with the default parameters; return its folder."""
    root = tmp_path_factory.mktemp("demo")
    DemoSurface(root=root, category=request.param).prepare_data()
    assert [path.name for path in root.iterdir()] == [request.param]
    return root / request.param


def small(root, **parameters):
    return DemoSurface(root=root, **{"num_train_images": 9, "num_test_images": 3, "num_defect_images": 2, **parameters})


def test_every_kind_is_present(built):
    assert len(list(built.glob("train/good/*.png"))) == 160
    assert len(list(built.glob("test/good/*.png"))) == 30
    assert sorted(path.name for path in (built / "test").iterdir()) == sorted((*KINDS, "good"))
    assert sorted(path.name for path in (built / "ground_truth").iterdir()) == sorted(KINDS)
    for kind in KINDS:
        names = sorted(path.stem for path in built.glob(f"test/{kind}/*.png"))
        assert len(names) == 10
        assert [f"{name}_mask" for name in names] == sorted(path.stem for path in built.glob(f"ground_truth/{kind}/*"))


def test_images_are_the_crops_that_the_manifest_names(built):
    """The clean images are found again in the photograph; outside of its mask a defect changes nothing."""
    surface = photograph(built.name)
    crops = json.loads((built / "demo_surface.json").read_text())["crops"]
    assert len(crops) == 160 + 30 + 5 * 10
    for name, (top, left) in crops.items():
        image, clean = read(built / name), surface[top : top + 128, left : left + 128]
        kind, stem = name.split("/")[1], name.split("/")[2].removesuffix(".png")
        if kind == "good":
            assert np.array_equal(image, clean), name
            continue
        inside = read(built / f"ground_truth/{kind}/{stem}_mask.png") == 255
        assert 0.005 <= inside.mean() <= 0.06, name
        assert np.array_equal(image[~inside], clean[~inside]), name
        assert (image[inside] != clean[inside]).mean() > 0.75, name


def test_train_and_test_share_no_pixel(built):
    crops = json.loads((built / "demo_surface.json").read_text())["crops"]
    seen = {split: np.zeros((512, 512), bool) for split in ("train", "test")}
    for name, (top, left) in crops.items():
        seen[name.split("/")[0]][top : top + 128, left : left + 128] = True
    assert not (seen["train"] & seen["test"]).any()
    # And both use most of what they may: 352 and 160 of the 512 columns.
    assert seen["train"].mean() > 0.9 * 352 / 512
    assert seen["test"].mean() > 0.9 * 160 / 512


def test_train_crops_cannot_be_found_in_the_test_columns():
    """Independent of the manifest: no row of a training image occurs in the middle of the photograph."""
    surface = photograph("gravel")
    middle = np.lib.stride_tricks.sliding_window_view(surface[:, 176:336], 24, axis=1).reshape(-1, 24)
    known = {row.tobytes() for row in middle}
    train = np.concatenate([surface[:, :176], surface[:, 336:]], axis=1)
    assert surface[300, 200:224].tobytes() in known
    assert not any(
        train[row, start : start + 24].tobytes() in known for row in range(512) for start in (0, 40, 180, 300)
    )


def test_two_builds_are_byte_identical(tmp_path):
    seed_everything(1)
    small(tmp_path / "a", seed=1).prepare_data()
    seed_everything(2)
    small(tmp_path / "b", seed=2).prepare_data()
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert len(first) == 9 + 3 + 5 * 2 * 2 + 1
    assert first == second


def test_more_images_leave_the_first_ones_as_they_are(tmp_path):
    small(tmp_path / "a").prepare_data()
    small(tmp_path / "b", num_train_images=12, num_defect_images=4).prepare_data()
    few, many = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert all(many[name] == data for name, data in few.items() if name.endswith(".png"))


def test_finished_folder_is_kept_and_others_are_made_anew(tmp_path):
    small(tmp_path).prepare_data()
    first = tmp_path / "brick/train/good/000.png"
    made = first.stat().st_mtime_ns
    small(tmp_path, seed=7, train_batch_size=2).prepare_data()
    assert first.stat().st_mtime_ns == made

    small(tmp_path, image_size=96).prepare_data()
    assert read(first).shape == (96, 96)
    assert [path.name for path in tmp_path.iterdir()] == ["brick"]

    (tmp_path / "brick/ground_truth/hole/001_mask.png").unlink()
    small(tmp_path, image_size=96).prepare_data()
    assert (tmp_path / "brick/ground_truth/hole/001_mask.png").is_file()

    (tmp_path / "brick/demo_surface.json").write_text('{"parameters"')
    small(tmp_path, image_size=96).prepare_data()
    assert json.loads((tmp_path / "brick/demo_surface.json").read_text())["parameters"]["image_size"] == [96, 96]


def test_foreign_folder_is_never_touched(tmp_path):
    mine = tmp_path / "brick/train/good/mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"not made by DemoSurface.*another folder as root"):
        small(tmp_path).prepare_data()
    assert contents(tmp_path) == {"brick/train/good/mine.png": b"mine"}


def test_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    written = []
    encode = cv2.imencode

    def stop_in_the_middle(suffix, image):
        written.append(image)
        if len(written) == 20:
            raise KeyboardInterrupt
        return encode(suffix, image)

    monkeypatch.setattr(cv2, "imencode", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path).prepare_data()
    assert len(written) == 20
    assert list(tmp_path.iterdir()) == []

    monkeypatch.undo()
    small(tmp_path).prepare_data()
    assert len(list(tmp_path.glob("brick/train/good/*.png"))) == 9


def test_batches(tmp_path):
    datamodule = small(tmp_path, category="grass", train_batch_size=4, eval_batch_size=5, num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))
    assert batch.image.shape == (4, 3, 128, 128)
    assert batch.image.dtype == torch.float32
    assert batch.image.min() >= 0
    assert 0.5 < batch.image.max() <= 1
    assert not batch.gt_label.any()

    labels = [label for batch in datamodule.test_dataloader() for label in batch.gt_label.tolist()]
    assert (len(labels), sum(labels)) == (3 + 5 * 2, 5 * 2)
    assert len(datamodule.val_data) == len(datamodule.test_data)
    for batch in datamodule.test_dataloader():
        assert batch.gt_mask.shape == (len(batch.image), 128, 128)
        assert torch.equal(batch.gt_mask.flatten(1).any(dim=1), batch.gt_label.bool())


def test_splits_as_in_anomalib(tmp_path):
    datamodule = small(tmp_path, val_split_mode=ValSplitMode.FROM_TEST, val_split_ratio=0.5, seed=3)
    datamodule.prepare_data()
    datamodule.setup()
    assert len(datamodule.test_data) + len(datamodule.val_data) == 13
    assert not set(datamodule.test_data.samples.image_path) & set(datamodule.val_data.samples.image_path)


def test_anomalib_finds_it_by_name(tmp_path):
    # get_datamodule turns an image_size into a pair before the class sees it.
    init_args = {"root": str(tmp_path), "category": "gravel", "image_size": 96, "num_train_images": 2}
    datamodule = get_datamodule({"class_path": "DemoSurface", "init_args": init_args})
    assert type(datamodule) is DemoSurface
    assert (datamodule.category, datamodule.image_size, datamodule.num_train_images) == ("gravel", (96, 96), 2)
    assert (datamodule.train_batch_size, datamodule.eval_batch_size, datamodule.num_workers) == (8, 8, 2)


def test_setup_without_images_says_what_to_call(tmp_path):
    datamodule = small(tmp_path)
    with pytest.raises(RuntimeError, match=r"Call prepare_data\(\) before"):
        datamodule.setup()
    datamodule.prepare_data()
    shutil.rmtree(tmp_path / "brick/test/hole")
    with pytest.raises(RuntimeError, match=r"Call prepare_data\(\) before"):
        datamodule.setup()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"category": "sand"}, r"no category 'sand'.*brick, gravel, grass"),
        ({"image_size": 256}, r"image_size is 256.*64 to 160"),
        ({"image_size": (128, 161)}, r"image_size is \(128, 161\)"),
        ({"image_size": 63}, r"image_size is 63"),
        ({"num_train_images": 0}, r"num_train_images is 0"),
        ({"num_test_images": 0}, r"num_test_images is 0"),
        ({"num_defect_images": -1}, r"num_defect_images is -1"),
    ],
)
def test_impossible_parameters(tmp_path, parameters, message):
    with pytest.raises(ValueError, match=message):
        DemoSurface(root=tmp_path / "data", **parameters)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("image_size", [64, 160, (512, 160)])
def test_extreme_sizes(tmp_path, image_size):
    for category in CATEGORIES:
        small(tmp_path, category=category, image_size=image_size).prepare_data()
        shape = image_size if isinstance(image_size, tuple) else (image_size, image_size)
        assert {read(path).shape for path in (tmp_path / category).rglob("*.png")} == {shape}
