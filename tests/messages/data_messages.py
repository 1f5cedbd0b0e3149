# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages about data sets and image files."""

import io
import logging
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.data.datamodules.image.mvtecad import DOWNLOAD_INFO
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from message_table import Message, in_module
from PIL import Image

from anomalib_transfusion import DemoSurface, MVTec
from anomalib_transfusion.data.demo_defects import crack
from anomalib_transfusion.models.transfusion.training_sample import TrainingSampler
from anomalib_transfusion.training.evaluation import AUROC, F1Score, check_metrics
from anomalib_transfusion.training.image_files import read_image_file
from anomalib_transfusion.training.mask_files import check_masks
from conftest import SURFACE
from parts import part

ARCHIVE = DOWNLOAD_INFO.url.rsplit("/", maxsplit=1)[-1]


def picture(path, size=(32, 32), mode="RGB"):
    """Write an image of one color, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)
    return path


def run_on(category, tiny, **arguments):
    """Test a model on a category."""
    run = Engine(default_root_dir=category.parent, accelerator="cpu", devices=1, logger=False)
    data = MVTec(root=category.parent, category=category.name, num_workers=0, **arguments)
    run.test(tiny(), datamodule=data)


def copied(surface_root, tmp_path):
    """Return a category of its own, to spoil."""
    return Path(shutil.copytree(surface_root / "brick", tmp_path / "data/brick"))


def mask_of_floats(surface_root, tmp_path, tiny):
    category = copied(surface_root, tmp_path)
    mask = category / "ground_truth/crack/000_mask.png"
    picture(mask.with_suffix(".tiff"), (64, 64), "F").rename(mask)
    run_on(category, tiny)


def mask_of_another_shape(surface_root, tmp_path, tiny):
    category = copied(surface_root, tmp_path)
    picture(category / "ground_truth/crack/000_mask.png", (64, 30), "L")
    run_on(category, tiny)


def mask_of_two_grays(tmp_path):
    mask = Image.new("L", (8, 8), 2)
    mask.putpixel((3, 3), 255)
    mask.save(tmp_path / "000_mask.png")
    check_masks([str(tmp_path / "000_mask.png")])


def batch_beyond_the_memory(surface_root, tmp_path, tiny):
    if not hasattr(os, "sysconf"):
        pytest.skip("this system does not tell how much memory it has")
    category = copied(surface_root, tmp_path)
    large = picture(category / "test/good/large.png", (9000, 9000), "1")
    for number in range(100, 1100):
        os.link(large, category / f"test/good/{number}.png")
    run_on(category, tiny, eval_batch_size=1000)


def folder_of_someone_else(tmp_path):
    picture(tmp_path / "brick/mine.png")
    DemoSurface(root=tmp_path, **SURFACE).prepare_data()


def folder_of_other_parameters(surface_root, tmp_path):
    category = copied(surface_root, tmp_path)
    DemoSurface(root=category.parent, **{**SURFACE, "num_train_images": 1}).prepare_data()


def surface_on_a_full_disk(tmp_path):
    """A limit of the operating system on the size of files stands for the disk."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        DemoSurface(root=tmp_path, **SURFACE).prepare_data()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def textures_without_a_network(tmp_path, monkeypatch):
    """Nothing listens there, also on a machine with internet."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    part(TrainingSampler, dtd_dir=tmp_path / "dtd").prepare()


def damaged_archive(tmp_path):
    (tmp_path / ARCHIVE).write_bytes(b"no archive")
    MVTec(root=tmp_path, category="bottle").prepare_data()


def archive_without_the_category(tmp_path):
    with tarfile.open(tmp_path / ARCHIVE, "w:xz") as archive:
        archive.addfile(tarfile.TarInfo("bottle/readme.txt"), io.BytesIO())
    MVTec(root=tmp_path, category="cable").prepare_data()


def no_training_image(surface_root, tmp_path):
    category = copied(surface_root, tmp_path)
    shutil.rmtree(category / "train")
    data = MVTec(root=category.parent, category="brick")
    data.prepare_data()
    data.setup()


def measure_without_defects():
    auroc = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    auroc.update(ImageBatch(image=torch.rand(2, 3, 8, 8), pred_score=torch.rand(2), gt_label=torch.zeros(2).bool()))
    auroc.compute()


def metric_without_labels(tiny):
    metric = F1Score(fields=["pred_label", "gt_label"], prefix="image_")
    check_metrics(tiny(post_processor=False, evaluator=Evaluator(test_metrics=[metric])))


def folder_beyond_ascii(surface_root, tmp_path, tiny):
    category = copied(surface_root, tmp_path)
    run_on(category.rename(category.parent / "Prüfung"), tiny)


def defect_without_a_mask(surface_root, tmp_path, tiny):
    category = copied(surface_root, tmp_path)
    (category / "ground_truth/crack/000_mask.png").unlink()
    run_on(category, tiny)


def validation_without_images(surface_root, tmp_path, tiny):
    run = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    run.validate(tiny(), datamodule=MVTec(surface_root, "brick", num_workers=0, val_split_mode="none"))


def training_without_validation(surface_root, tmp_path, tiny):
    run = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, max_epochs=1)
    run.fit(tiny(), datamodule=MVTec(surface_root, "brick", num_workers=0, val_split_mode="none"))


# fmt: off
DATA = [
    *in_module(
        "training/data_errors.py",
        Message("anomalib takes no folder", folder_beyond_ascii, ValueError,
                "Prüfung has 'ü'", "other characters than those of ASCII", "Rename the folder, or move the data"),
        Message("Images of defects and masks in {}", defect_without_a_mask, ValueError, "without a mask: 000.png",
                "anomalib expects a mask for each", "Rename or add masks, move the images without one"),
    ),
    *in_module(
        "training/without_validation.py",
        Message("{} has no validation images", validation_without_images, ValueError,
                "val_split_mode=none", "but they were asked for", "Choose same_as_test, from_test or from_train"),
        Message("There is no validation with", training_without_validation, UserWarning, "val_split_mode=none",
                "no threshold and no normalization of scores", "Choose same_as_test or from_test"),
    ),
    *in_module(
        "training/image_files.py",
        Message("There is no image {}", lambda: read_image_file("gone.png"), FileNotFoundError,
                "gone.png", "expected an image file", "Check the path"),
        Message("The image {} cannot be read", lambda: read_image_file(__file__), ValueError, Path(__file__).name,
                "cannot be read: cannot identify image file", "Replace it, or take it out of the data set"),
        Message("The image {} holds {}", lambda tmp_path: read_image_file(picture(tmp_path / "deep.png", mode="I;16")),
                ValueError, "deep.png holds 16-bit gray values", "8 bits a channel", "or take it out of the data set"),
        Message("The mask {} holds {}", mask_of_floats, ValueError,
                "000_mask.png holds floating point numbers", "8 bits: 0, and 255 on the defect", "Save it with"),
        Message("The mask {} has {}x{} pixels", mask_of_another_shape, ValueError, "000_mask.png has 64x30 pixels",
                "they do not cover each other", "Replace the mask by one of the image's size"),
        Message("With {} of {}x{} pixels", batch_beyond_the_memory, ValueError, "of 9000x9000 pixels, a batch of 1000",
                "GiB of this computer", "Choose a smaller batch size (--data.eval_batch_size"),
    ),
    *in_module(
        "training/mask_files.py",
        Message("{} {}. Metrics", mask_of_two_grays, ValueError, "000_mask.png: values 2, 255, 100.0% of the image",
                "without a pixel of 0, the value of the background", "Save them with 0 and 255", function="_refuse"),
        Message(
            "{} {}.",
            lambda tmp_path: check_masks([str(picture(tmp_path / "000_mask.png", mode="L"))]),
            UserWarning,
            "000_mask.png: value 0, 0.0% of the image",
            "without a defect",
            "Draw the defect, or move the image to the good ones",
            function="_doubt",
        ),
    ),
    *in_module(
        "training/evaluation.py",
        Message("{} is not a number", measure_without_defects, UserWarning,
                "image_AUROC is not a number: no image of the truth is defective", "the metric compares with such",
                "Add some to the data set"),
        Message("The metric {} needs {}", metric_without_labels, ValueError, "image_F1Score needs pred_label",
                "do not exist in the test: the model has no threshold", "strict=False to leave it out"),
    ),
    *in_module(
        "data/demo_surface.py",
        Message("DemoSurface has no category {}", lambda: DemoSurface(category="bricks"), ValueError,
                "'bricks'", "brick, gravel, grass", "Choose one of"),
        Message("image_size is {}", lambda: DemoSurface(image_size=32), ValueError,
                "image_size is 32", "64 to 512 pixels high and 64 to 160 wide", "Choose a size in between"),
        Message("{} is {}, but DemoSurface needs", lambda: DemoSurface(num_test_images=0), ValueError,
                "num_test_images is 0", "at least 1 image of each kind", "Pass a larger number"),
        Message("The folder {} was not made by DemoSurface", folder_of_someone_else, FileExistsError,
                str(Path("/brick")), "was not made by DemoSurface", "Pass another folder as root (--data.root)"),
        Message("The images in {} are incomplete", folder_of_other_parameters, logging.WARNING,
                str(Path("data/brick")), "incomplete or of other parameters", "they are made anew"),
        Message(
            "The folder {} does not hold",
            lambda tmp_path: DemoSurface(root=tmp_path, **SURFACE).setup(),
            RuntimeError,
            str(Path("/brick")),
            "does not hold the images of these parameters",
            "Call prepare_data() before setup()",
        ),
        Message("{} could not be written", surface_on_a_full_disk, OSError, "train/good/000.png",
                "could not be written (File too large)", "Check that the disk has space and the folder is writable"),
    ),
    *in_module(
        "data/demo_defects.py",
        Message(
            "No defect that covers",
            lambda: crack(np.zeros((4, 4), np.uint8), np.random.default_rng(0)),
            RuntimeError,
            "an image of shape (4, 4)",
            "covers between 0.5% and 6% of the image and can be seen",
            "Pass a larger image",
        ),
    ),
    *in_module(
        "data/download.py",
        Message("{} was not found in {}", textures_without_a_network, RuntimeError,
                "A folder of texture photographs was not found in", "downloading it from https://",
                "pass the folder of an unpacked Describable Textures Dataset"),
        Message("{} was not found in {}", damaged_archive, RuntimeError,
                "MVTec AD's category 'bottle' was not found in", f"{ARCHIVE} failed",
                "delete that archive to download it anew"),
    ),
    *in_module(
        "data/mvtec.py",
        Message("There is no category {}", lambda tmp_path: MVTec(root=tmp_path, category="botle").prepare_data(),
                ValueError, "'botle'", "bottle, cable, capsule", "Pass one of these as category (--data.category)"),
        Message("The archive unpacked into {}", archive_without_the_category, RuntimeError,
                "no folder 'cable'", "the folder that holds the unpacked MVTec AD data set", "Pass --data.root"),
        Message("There is no training image in {}", no_training_image, RuntimeError,
                str(Path("data/brick/train/good")), "with names that end in .png", "Put images without a defect there"),
    ),
]
# fmt: on
