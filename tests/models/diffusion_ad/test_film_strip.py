# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The film strip of one-step denoising: its pixels against arithmetic of our own."""

import numpy as np
import pytest
import torch
from contract_models import MODELS
from PIL import Image

from anomalib_transfusion import visualize_reverse_process
from plain_diffusion_ad import alpha_bar

from .networks import build, photograph

SIZE = 64
[TINY] = [model for model in MODELS if model.class_name == "DiffusionAD"]


def lightning(**parameters):
    """Return DiffusionAD around a network in which nothing is zero."""
    model = TINY.build(image_size=(SIZE, SIZE)).eval()
    model.model = build(**parameters)
    return model


def corners(strip, panel):
    """Return the top left corners (y, x) at which an image in [0, 1], ``(C, H, W)``, is in a picture."""
    pixels = np.rint(panel.permute(1, 2, 0).clamp(0, 1).numpy() * 255).astype(np.uint8).repeat(4 - len(panel), 2)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(strip), (SIZE, SIZE), axis=(0, 1))
    near = np.argwhere((np.abs(windows[..., 0, 0].astype(int) - pixels[0, 0, :3]) <= 1).all(axis=-1))
    return [
        (int(y), int(x))
        for y, x in near
        if np.abs(windows[y, x].transpose(1, 2, 0).astype(int) - pixels[..., :3]).max() <= 1
    ]


def test_panels_are_the_scales_and_the_guided_result():
    model = lightning()
    [image] = photograph(1, SIZE, SIZE)
    strip = visualize_reverse_process(model, image, panel_size=SIZE)
    small, big = model.model.test_noise[0, :, :, :SIZE, :SIZE]
    predictions, denoised = model.model.predict(image[None])
    noised = [alpha_bar(t) ** 0.5 * image + (1 - alpha_bar(t)) ** 0.5 * n for t, n in ((200, small), (400, big))]
    table = [
        [*noised, image],
        [*denoised.estimates[:, 0], denoised.reconstruction[0]],
        [None, None, predictions.anomaly_map[0]],
    ]
    places = [[None if panel is None else corners(strip, panel) for panel in row] for row in table]
    assert all(len(found) == 1 for row in places for found in row if found is not None)
    down, across = [row[2][0][0] for row in places], [found[0][1] for found in places[0]]
    assert down == sorted(set(down))
    assert across == sorted(set(across))
    for row, y in zip(places, down, strict=True):
        for found, x in zip(row, across, strict=True):
            assert found in (None, [(y, x)])


def test_one_scale_alone_and_what_is_chosen(tmp_path):
    [image] = photograph(1, SIZE, SIZE)
    both = visualize_reverse_process(lightning(), image, panel_size=SIZE)
    one = visualize_reverse_process(lightning(), image, timesteps=[400], rows=["estimate"], panel_size=SIZE)
    alone = visualize_reverse_process(lightning(noise_scales="big"), image, tmp_path / "big.gif", panel_size=SIZE)
    assert alone.height < both.height
    assert alone.width < both.width
    assert one.height < both.height - 2 * SIZE
    assert Image.open(tmp_path / "big.gif").n_frames == 2
    with pytest.raises(ValueError, match="has the timesteps 200, 400"):
        visualize_reverse_process(lightning(), image, timesteps=[300])
    # Timestep 0 is a noise scale like any other.
    first = visualize_reverse_process(lightning(small_timestep=0), image, timesteps=[0], panel_size=SIZE)
    assert alone.width < first.width + SIZE


def test_a_new_noise_each_time_is_one_and_the_same_in_a_strip():
    model = lightning(noise_seed=None)
    torch.manual_seed(0)
    [image] = photograph(1, SIZE, SIZE)
    strip = visualize_reverse_process(model, image, panel_size=SIZE)
    torch.manual_seed(0)
    denoised = model.model.predict(image[None])[1]
    assert all(corners(strip, panel) for panel in (*denoised.x_t[:, 0], *denoised.estimates[:, 0]))
