# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The film strip of the reverse process by inpainting: its panels against the process itself."""

import pytest
import skimage
import torch
from contract_models import DRDC as TINY
from PIL import Image

from anomalib_transfusion import visualize_reverse_process
from anomalib_transfusion.models.drdc.film_strip import ROW_NAMES, moments_of

SIZE = 32


def build(**parameters):
    torch.manual_seed(0)
    return TINY.build((SIZE, SIZE), **{"categories": ["a", "b"], "precision": "single", **parameters}).eval()


@pytest.fixture
def image():
    """A crop of a photograph, without a resize, in which bits would change."""
    return torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None, :, 60:92, 190:222] / 255


def moments(model, image, timesteps=(12, 4)):
    """Return the moments with their panels as tensors, as they are given to be drawn."""
    return moments_of(model.model, image, timesteps, lambda panel: panel)


def test_panels_are_those_of_the_process(image):
    model = build().model
    predictions, found = model.predict(image)
    base, *passes, result = moments_of(model, image, (12, 4), lambda panel: panel)
    x = 2 * image - 1
    expected = [
        (timestep, cell, given[4 * number], painted[number])
        for timestep, (given, painted) in zip((12, 4), model.refinement.steps(x, found.categories), strict=True)
        for number, cell in enumerate((4, 8))
    ]
    for moment, (timestep, cell, given, painted) in zip(passes, expected, strict=True):
        assert moment.timestep == timestep
        assert moment.head == f"t = {timestep}\n{cell} px"
        torch.testing.assert_close(moment.panels["image"], (given + 1) / 2, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(moment.panels["painted"], (painted + 1) / 2, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(moment.panels["difference"], (x - painted).abs().mean(dim=1, keepdim=True))
        # The first set is that of the cell in the corner.
        mask = moment.panels["mask"][0, 0]
        assert mask[:cell, :cell].all()
        assert mask.mean() == 0.25
        assert torch.equal(moment.panels["image"][0][:, mask == 0], ((x + 1) / 2)[0][:, mask == 0])
    assert torch.equal(base.panels["image"], image)
    assert base.panels["map"].shape == (1, 1, SIZE, SIZE)
    mean = torch.stack([painted for *_, painted in expected]).mean(dim=0)
    torch.testing.assert_close(result.panels["painted"], (mean + 1) / 2, atol=1e-5, rtol=1e-5)
    assert torch.equal(result.panels["map"], predictions.anomaly_map)
    assert (base.timestep, result.timestep, result.head) == (None, None, "result")


def test_what_is_not_asked_for_is_not_shown(image):
    model = build()
    every = moments(model, image)
    late = moments(model, image, [4])
    assert [moment.timestep for moment in late] == [None, 4, 4, None]
    # It went through the earlier timestep all the same.
    assert torch.equal(late[1].panels["image"], every[3].panels["image"])


def test_base_model_alone(image):
    model = build(gamma=0.0)
    assert not model.explained_timesteps
    [result] = moments(model, image)
    assert set(result.panels) == {"image", "map"}


def test_an_image_beyond_doubt_was_not_painted(image):
    """Its score is outside of the band, so that nothing is refined."""
    model = build(refine="uncertain", uncertain_band=(1e6, 2e6))
    assert [moment.timestep for moment in moments(model, image)] == [None, None]


def test_strip_and_animation(image, tmp_path):
    output = tmp_path / "painting.gif"
    strip = visualize_reverse_process(build(), image[0], output, panel_size=SIZE)
    # Base model, two timesteps with two cell sizes each, result.
    assert Image.open(output).n_frames == 6
    less = visualize_reverse_process(
        build(),
        image[0],
        rows=[row for row in ROW_NAMES if row != "mask"],
        panel_size=SIZE,
    )
    assert less.height < strip.height
    assert less.width == strip.width
