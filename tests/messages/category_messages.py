# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages about several categories."""

import logging
import shutil

import torch
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.models import Padim
from anomalib.post_processing import PostProcessor
from message_table import Message, in_module
from PIL import Image

from anomalib_transfusion import MultiCategory
from anomalib_transfusion.categories import fix_category, fix_category_in_checkpoint
from anomalib_transfusion.categories.post_processing import load


def picture(path):
    """Write an image of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32)).save(path)


def padim():
    """Return a model of anomalib's own."""
    return Padim(
        backbone="resnet18",
        layers=["layer1"],
        pre_trained=False,
        n_features=9,
        pre_processor=Padim.configure_pre_processor((32, 32)),
        evaluator=Evaluator(test_metrics=AUROC(fields=["pred_score", "gt_label"], prefix="image_")),
        visualizer=False,
    )


def engine(folder):
    """Return an engine on the CPU."""
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)


def surfaces(surface_root, folder, *names):
    """Copy a surface to categories of other names."""
    for name in names:
        shutil.copytree(surface_root / "brick", folder / name)
    return folder


def data(root, categories="all", **arguments):
    """Return a data module over the surfaces of a folder."""
    sizes = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0}
    return MultiCategory("MVTec", root, categories, **{**sizes, **arguments})


def category_without_training_images(surface_root, tmp_path):
    root = surfaces(surface_root, tmp_path, "bolt", "nut")
    shutil.rmtree(root / "nut/train/good")
    (root / "nut/train/good").mkdir()
    MultiCategory("MVTecAD", root, num_workers=0).setup()


def category_of_another_format(surface_root, tmp_path):
    root = surfaces(surface_root, tmp_path, "bolt", "nut")
    for path in [*root.glob("nut/t*/*/*.png")]:
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    MultiCategory("MVTecAD", root, num_workers=0).setup()


def categories_of_two_tasks(tmp_path):
    for name in ("nut/good", "nut/defect", "bolt/good", "bolt/defect", "bolt/masks"):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png")
    MultiCategory("Folder", tmp_path, num_workers=0).setup()


def equal_names_in_two_roots(surface_root, tmp_path):
    roots = [surfaces(surface_root, tmp_path / name, "bolt") for name in ("old", "new")]
    data(roots)


def checkpoint_of_other_categories(surface_root, tmp_path):
    root = surfaces(surface_root, tmp_path, "bolt", "nut", "nail")
    run, model = engine(tmp_path), padim()
    run.fit(model, datamodule=data(root, ["bolt", "nut"]))
    engine(tmp_path).test(model, datamodule=data(root, ["bolt", "nail"]), ckpt_path=run.best_model_path)


def collated_without_categories(surface_root, tmp_path):
    run, model = engine(tmp_path), padim()
    several = data(surfaces(surface_root, tmp_path, "bolt", "nut"))
    run.fit(model, datamodule=several)
    several.external_collate_fn = lambda items: ImageBatch(image=torch.stack([item.image for item in items]))
    run.test(model, datamodule=several)


def category_without_defects(surface_root, tmp_path):
    root = surfaces(surface_root, tmp_path, "bolt", "nut")
    for kind in ("crack", "displaced", "hole", "scratch", "stain"):
        shutil.rmtree(root / "nut/test" / kind)
        shutil.rmtree(root / "nut/ground_truth" / kind)
    engine(tmp_path).train(padim(), datamodule=data(root))


def tested_without_validation(surface_root, tmp_path):
    run, model = engine(tmp_path), padim()
    root = surfaces(surface_root, tmp_path, "bolt", "nut")
    run.fit(model, datamodule=data(root, ["bolt"]))
    run.test(model, datamodule=data(root))


def other_post_processor():
    load(PostProcessor(), {"threshold": torch.tensor(1.0)})


def existing_output(tmp_path):
    for name in ("in.ckpt", "out.ckpt"):
        (tmp_path / name).touch()
    fix_category_in_checkpoint(tmp_path / "in.ckpt", "bolt", tmp_path / "out.ckpt")


# fmt: off
CATEGORIES = [
    *in_module(
        "data/category_names.py",
        Message("dataset is {}", lambda: MultiCategory("MVTecADD"), ValueError,
                "dataset is 'MVTecADD'", "BTech, DemoSurface", "Choose one of these (--data.dataset)"),
        Message("There is no category {} of {}", lambda tmp_path: data(tmp_path, ["bottle", "botle"]), ValueError,
                "'botle' of MVTec", "bottle, cable, capsule", "Choose among these (--data.categories)"),
        Message("There is no category in {}", lambda tmp_path: MultiCategory("Folder", tmp_path / "nowhere"),
                ValueError, "nowhere", "expected a folder for each", "Check the root (--data.root)"),
        Message("categories is empty", lambda surface_root: data(surface_root, []), ValueError,
                "categories is empty", "one category at least", "Name some or pass all (--data.categories)"),
        Message("categories has {}", lambda surface_root: data(surface_root, ["brick", "brick"]), ValueError,
                "'brick' more than once", "each is trained on once", "Name each once"),
        Message("The category {} is in {}", equal_names_in_two_roots, ValueError,
                "'bolt' is in", "each name must be one category", "Rename one of the folders"),
    ),
    *in_module(
        "data/category_dataset.py",
        Message("The categories are of different tasks", categories_of_two_tasks, ValueError,
                "classification: nut; segmentation: bolt", "one model has one task",
                "Give the anomalous images of all categories masks"),
    ),
    *in_module(
        "data/multi_category.py",
        Message("The category {} has no training image", category_without_training_images, RuntimeError,
                "'nut' has no training image", "a model needs normal images of each",
                "leave the category out (--data.categories)"),
        Message("The category {} cannot be read", category_of_another_format, RuntimeError,
                "'nut' cannot be read", "Expected the layout of MVTecAD", "in PNG, or take MVTec for other formats"),
        Message("The checkpoint was trained on", checkpoint_of_other_categories, ValueError,
                "does not know nail", "trained on the categories bolt, nut",
                "Choose the categories that it was trained on (--data.categories)"),
        Message("{} does not take {}", lambda surface_root: data(surface_root, dataset_args={"image_size": 64}),
                TypeError, "MVTec does not take 'image_size'", "augmentations", "Leave it out"),
    ),
    *in_module(
        "categories/evaluation.py",
        Message("A batch of {} has no categories", collated_without_categories, TypeError,
                "ImageBatch has no categories", "a CategoryBatch was expected",
                "Leave the data module's collate function as it is"),
        Message("{} is the mean over {} of {} categories", category_without_defects, logging.WARNING,
                "nut has no value", "image_AUROC is the mean over 1 of 2 categories", "Add such images"),
    ),
    *in_module(
        "categories/post_processing.py",
        Message("There are no thresholds of their own", tested_without_validation, logging.WARNING,
                "the categories nut", "The pooled thresholds of all images serve them",
                "Validate the model on them first"),
        Message("The thresholds by category have", other_post_processor, ValueError, "have the values threshold",
                "PostProcessor has _image_threshold", "Use the post-processor that the model was trained with"),
    ),
    *in_module(
        "categories/fix.py",
        Message(
            "There is no checkpoint {}",
            lambda tmp_path: fix_category_in_checkpoint(tmp_path / "gone.ckpt", "bolt", tmp_path / "out.ckpt"),
            FileNotFoundError,
            "gone.ckpt",
            "the .ckpt file",
            "of a training with MultiCategory",
        ),
        Message("{} exists", existing_output, FileExistsError,
                "out.ckpt exists", "a new file was expected", "choose another name"),
        Message("{} has no thresholds of the category", lambda: fix_category(padim(), "bolt"), ValueError,
                "'bolt'", "but of none", "validate the model with MultiCategory first"),
    ),
]
# fmt: on
