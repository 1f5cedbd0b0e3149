# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Names and indices of categories, and where the category of an image comes from."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import Folder, ImageBatch

from anomalib_transfusion import DemoSurface
from anomalib_transfusion.categories.batch import CategoryBatch
from anomalib_transfusion.models.drdc.category import UNKNOWN, CategoryNames, chosen_category, names_of_data

IMAGES = torch.rand(2, 3, 8, 8)


def batch(*categories):
    return CategoryBatch(image=IMAGES, category=list(categories))


@pytest.fixture
def names():
    return CategoryNames(["brick", "grass", "gravel"])


def test_batches_that_know_their_categories(names):
    """What the batch says comes before what the data says."""
    data = SimpleNamespace(category="brick")
    assert names.indices(batch("gravel", "brick"), data).tolist() == [2, 0]
    assert names.training_indices(batch("gravel", "brick"), data).tolist() == [2, 0]


def test_data_of_one_category(names, tmp_path):
    data = DemoSurface(tmp_path, "grass")
    assert names.indices(ImageBatch(image=IMAGES), data).tolist() == [1, 1]
    assert names.training_indices(ImageBatch(image=IMAGES), data).tolist() == [1, 1]


def test_images_of_which_nothing_is_known(names, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (None, Folder(name="parts", root=tmp_path, normal_dir="good")):
            assert names.indices(ImageBatch(image=IMAGES), data).tolist() == [UNKNOWN, UNKNOWN]


def test_an_unknown_category_is_said_once(names):
    with pytest.warns(UserWarning, match="category 'leather' is none of the model's, brick, grass, gravel"):
        assert names.indices(batch("leather", "grass"), None).tolist() == [UNKNOWN, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names.indices(batch("leather", "leather"), None).tolist() == [UNKNOWN, UNKNOWN]


def test_with_one_category_there_is_nothing_to_choose():
    names = CategoryNames(None)
    names.learn(["brick"])
    assert names.indices(batch("brick", "leather"), None).tolist() == [0, 0]
    assert names.training_indices(ImageBatch(image=IMAGES), None).tolist() == [0, 0]
    # The same surface under another name, in a training that goes on.
    names.learn(["wall"])
    assert names.names == ("brick",)


def test_training_images_must_be_of_a_known_category(names):
    with pytest.raises(ValueError, match="training image is of the category 'leather'"):
        names.training_indices(batch("brick", "leather"), None)
    with pytest.raises(ValueError, match="MultiCategory, whose batches know"):
        names.training_indices(ImageBatch(image=IMAGES), None)


def test_names_of_the_data(tmp_path):
    assert names_of_data(SimpleNamespace(categories=("a", "b"), category="")) == ("a", "b")
    assert names_of_data(DemoSurface(tmp_path, "grass")) == ("grass",)
    assert names_of_data(Folder(name="parts", root=tmp_path, normal_dir="good")) == ("parts",)
    assert names_of_data(None) == ("all",)


def test_names_are_learned_once(names):
    names.learn(["gravel", "brick"])
    assert names.names == ("brick", "grass", "gravel")
    with pytest.raises(ValueError, match="has the category leather, which is none of the model's"):
        names.learn(["brick", "leather"])
    empty = CategoryNames(None)
    assert len(empty) == 1
    empty.learn(["a", "b"])
    assert empty.names == ("a", "b")
    with pytest.raises(ValueError, match="has the category c"):
        empty.learn(["c"])


@pytest.mark.parametrize("wrong", [[], ["a", "a"]])
def test_impossible_names(wrong):
    with pytest.raises(ValueError, match="expected different names"):
        CategoryNames(wrong)


def test_names_of_a_checkpoint():
    names = CategoryNames(None)
    names.restore(["a", "b"])
    assert names.names == ("a", "b")
    for given in (["b", "a"], ["a"]):
        with pytest.raises(ValueError, match="checkpoint is of 2 categories, a, b, and the model of"):
            CategoryNames(given).restore(["a", "b"])


def test_the_head_leaves_open_what_it_doubts():
    """Probabilities 0.6, 0.4 and 0.5, 0.5 (which is taken) and three times a third."""
    logits = torch.tensor([[0.6, 0.4, 1e-9], [0.5, 0.5, 1e-9], [1.0, 1.0, 1.0]]).log()
    assert chosen_category(logits, 0.5)[[0, 2]].tolist() == [0, 3]
    assert chosen_category(logits, 0.3)[2] != 3
    assert chosen_category(logits, 0.61).tolist() == [3, 3, 3]
