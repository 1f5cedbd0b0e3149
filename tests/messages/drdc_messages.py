# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages of DRDC: its parameters, images and categories."""

import types

import torch
from contract_models import DRDC as TINY
from lightning.pytorch import Trainer
from message_table import Message, in_module

from anomalib_transfusion.models.drdc.category import CategoryNames
from anomalib_transfusion.models.drdc.denoiser import Denoiser


def build(**parameters):
    return TINY.build(**{"categories": ["a", "b"], **parameters})


def refused(start, value, expectation, remedy, **parameters):
    """Return a row about parameters of the model that are refused."""
    return Message(start, lambda: build(**parameters), ValueError, value, expectation, remedy)


def out_of_range(value, expectation, remedy, **parameters):
    """Return a row about a number that is out of its range."""
    return refused("{}={} {} {}", value, expectation, remedy, **parameters)


def load_other_timesteps():
    weights = dict.fromkeys(map("model.{}".format, build().model.state_dict()))
    build().on_load_checkpoint({"state_dict": weights, "hyper_parameters": {"timesteps": [8]}})


def use_other_maps_without_data():
    model = build()
    model.trainer = Trainer(logger=False, accelerator="cpu", devices=1)
    model.measured_for = {**model._map_parameters(), "difference": "gradient"}
    model._measure_for_test()


def batch_of(category):
    return types.SimpleNamespace(image=torch.rand(1, 3, 8, 8), category=[category])


def restored(given, found):
    names = CategoryNames(given)
    names.restore(found)


# fmt: off
DRDC = [
    *in_module(
        "checks.py",
        refused("An image of {}x{} pixels", "40x40 pixels", "multiples of 16, which follows from backbone_layers=",
                "32x32 or 48x48; set one with the Resize", image_size=(40, 40)),
    ),
    *in_module(
        "models/drdc/inpainting.py",
        refused("cell_sizes: cells of {} pixels", "cells of 5 pixels", "expected a divisor of both sides",
                "Choose another cell size", cell_sizes=(5,)),
        refused("num_sets={} is impossible", "num_sets=8 is impossible with 4x4 cells",
                "expected at least 9 rows and columns together", "Use smaller cells or fewer sets",
                num_sets=8, cell_sizes=(8,)),
    ),
    *in_module(
        "models/drdc/refinement.py",
        refused("timesteps={} is impossible", "timesteps=[30]", "expected numbers from 1 to 29",
                "Use (250, 125, 50)", timesteps=(30,)),
        refused("timesteps={} do not fall", "timesteps=[4, 12]", "expected the largest first", "Use [12, 4]",
                timesteps=(4, 12)),
        refused("cell_sizes={} is impossible", "cell_sizes=[4, 4]", "expected different numbers of pixels",
                "Use (8, 16) for images of 256 pixels", cell_sizes=(4, 4)),
        refused("num_sets=1 hides the whole image", "process=shift", "expected at least 2 sets",
                "Use 4, or the process noised", num_sets=1),
    ),
    *in_module(
        "models/drdc/base_model.py",
        refused("feature_stride={} leaves", "feature_stride=16 leaves 2x2 tokens", "expected at least 4 a side",
                "Use a smaller feature_stride", feature_stride=16),
        refused("hidden_dim={} is impossible", "hidden_dim=20", "expected a multiple of 8", "Use 16", hidden_dim=20),
    ),
    *in_module(
        "models/drdc/torch_model.py",
        refused("uncertain_band={} is impossible", "uncertain_band=[4, 1]", "expected two numbers, the smaller first",
                "Use (-1, 4)", uncertain_band=(4, 1)),
        Message("There is no sample", lambda: build().model.train()(torch.rand(1, 3, 32, 32)), ValueError,
                "There is no sample", "DrdcModel needs what draw_sample(...) draws", "Pass it, or call .eval() first"),
        Message("The images are {}x{} pixels", lambda: build().eval().model(torch.rand(1, 3, 64, 32)), ValueError,
                "The images are 64x32 pixels", "expected that size", "Set it with the Resize of the pre-processor"),
        Message("tile_size={}",
                lambda: setattr(build().model, "tiler", types.SimpleNamespace(tile_size_h=32, tile_size_w=32)),
                ValueError, "tile_size=(32, 32)", "expected no tiles", "Leave the TilerConfigurationCallback out"),
    ),
    *in_module(
        "models/drdc/category.py",
        refused("categories={} is impossible", "categories=['a', 'a']", "expected different names, at least one",
                "Name each category once", categories=["a", "a"]),
        Message("The training data has the category {}", lambda: CategoryNames(["a", "b"]).learn(["a", "c"]),
                ValueError, "the category c", "expected a, b", "Train on the categories of the model"),
        Message("The checkpoint is of {} categories", lambda: restored(["a", "b"], ["b", "a"]), ValueError,
                "2 categories, b, a", "expected the same names in the same order", "Leave categories out"),
        Message("The category {} is none", lambda: CategoryNames(["a", "b"]).indices(batch_of("c"), None), UserWarning,
                "The category 'c'", "Expect little of the results", "train on that category, too"),
        Message("A training image is of the category {}",
                lambda: CategoryNames(["a", "b"]).training_indices(batch_of("c"), None), ValueError,
                "the category 'c'", "expected one of a, b", "Train with --data MultiCategory"),
    ),
    *in_module(
        "models/drdc/lightning_model.py",
        Message("timesteps={} begin beyond", load_other_timesteps, ValueError,
                "timesteps=[12, 4]", "expected at most that", "Choose smaller ones, or train with these"),
    ),
    *in_module(
        "models/drdc/standardization.py",
        Message("The maps of normal images were measured", use_other_maps_without_data, UserWarning,
                "other parameters than difference=absolute", "scores are off by a constant",
                "Give the test the data of the training"),
    ),
    *in_module(
        "checks.py",
        refused("{}={} is impossible; expected an odd", "neighbor_size=4", "expected an odd number", "Use 3 or 5",
                neighbor_size=4),
        refused("{}={} is impossible; expected an odd", "feature_pooling=2", "expected an odd number", "Use 1 or 3",
                feature_pooling=2),
        refused("{}={} is impossible; expected an odd", "filter_size=4", "expected an odd number", "Use 3 or 5",
                filter_size=4),
        out_of_range("gamma=-1", "expected 0 to 1000", "Use 1, or 0 for the base model alone", gamma=-1),
        out_of_range("filter_size=101", "expected 1 to 99", "Use 7", filter_size=101),
        out_of_range("statistics_grid=65", "expected 1 to 64", "Use 8, or 1 for the whole image", statistics_grid=65),
        out_of_range("category_confidence=2", "expected 0 to 1", "Use 0.5", category_confidence=2),
        out_of_range("feature_stride=0", "expected 1 to 64", "Use 16, or 8", feature_stride=0),
        out_of_range("hidden_dim=0", "expected 8 to 4096", "Use 256", hidden_dim=0),
        out_of_range("num_layers=0", "expected 1 to 64", "Use 4", num_layers=0),
        out_of_range("neighbor_size=0", "expected 1 to 99", "Use 7", neighbor_size=0),
        out_of_range("feature_pooling=0", "expected 1 to 99", "Use 3, or 1 for none", feature_pooling=0),
        out_of_range("dropout=1", "expected 0 to 0.9", "Use 0.1", dropout=1.0),
        out_of_range("jitter_scale=-1", "expected 0 to 1000", "Use 20", jitter_scale=-1),
        out_of_range("schedule_length=20", "expected 21 to 10000", "Use 1000", schedule_length=20),
        out_of_range("num_sets=0", "expected 1 to 64", "Use 4", num_sets=0),
        out_of_range("guidance_weight=-1", "expected 0 to 1000", "Use 0", guidance_weight=-1),
        out_of_range("passes_at_once=0", "expected 1 to 100000", "Use 16", passes_at_once=0),
        out_of_range("category_dropout=2", "expected 0 to 1", "Use 0.1", category_dropout=2),
        out_of_range("statistics_images=0", "expected 1 to 100000", "Use 64", statistics_images=0),
        Message("{}={} {} {}", lambda: Denoiser(base_channels=8, channel_multipliers=(1,), num_blocks=1,
                                                attention_levels=(), num_categories=0),
                ValueError, "num_categories=0", "expected 1 to 100000", "Name at least one category"),
    ),
]
# fmt: on
