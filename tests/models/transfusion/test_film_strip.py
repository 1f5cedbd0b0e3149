# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Film strips and animations: their pixels against the tensors of the reverse process, and the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from PIL import Image, ImageSequence
from skimage import data
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_transfusion import TransFusion, visualize_reverse_process
from anomalib_transfusion.training.checkpoints import WholeCheckpointIO
from anomalib_transfusion.visualization.explain import explain_files
from commands import typed
from conftest import TINY

# Also the size of the panels, which are then not resized.
SIZE = 64
ROWS = ("image", "mask", "anomaly", "normal")
TIMESTEPS = 8


@pytest.fixture(scope="module")
def model():
    """A network that nobody trained: what it predicts is different in every pixel and at every timestep."""
    torch.manual_seed(3)
    pre_processor = TransFusion.configure_pre_processor((SIZE, SIZE))
    return TransFusion(**{**TINY, "timesteps": TIMESTEPS}, pre_processor=pre_processor).eval()


@pytest.fixture(scope="module")
def image():
    """An image of the network's size, in [0, 1]."""
    return to_dtype(to_image(data.astronaut()[:SIZE, 180 : 180 + SIZE]), torch.float32, scale=True)


@pytest.fixture(scope="module")
def expected(model, image):
    """Return the pixels of each row and timestep, by arithmetic of our own from the steps."""
    steps = []
    process = model.model.reverse_process(image[None], callback=steps.append)

    def pixels(tensor):
        return (
            np.rint(tensor[0].permute(1, 2, 0).numpy().clip(0, 1) * 255)
            .astype(np.uint8)
            .repeat(4 - len(tensor[0]), 2)[..., :3]
        )

    panels = {("image", 0): pixels((process.reconstruction + 1) / 2)}
    for step in steps:
        panels["image", step.timestep] = pixels((step.x_t + 1) / 2)
        panels["mask", step.timestep] = pixels(step.mask)
        inside = np.where(step.mask.numpy() > 0.5, step.anomaly.numpy(), 0)
        panels["anomaly", step.timestep] = pixels((torch.from_numpy(inside) + 1) / 2)
        panels["normal", step.timestep] = pixels((step.normal + 1) / 2)
    return panels


def places(picture, panel):
    """Return the top left corners (y, x) at which a panel is in a picture."""
    picture = np.asarray(picture)
    windows = picture[: -SIZE + 1, : -SIZE + 1]
    candidates = np.argwhere((windows == panel[0, 0]).all(axis=-1))
    return {(int(y), int(x)) for y, x in candidates if np.array_equal(picture[y : y + SIZE, x : x + SIZE], panel)}


def columns_of(strip, expected, timesteps, rows=ROWS):
    """Return the place of each panel, which must be in its row and column, and nowhere else."""
    found = {(row, t): places(strip, expected[row, t]) for row in rows for t in timesteps if (row, t) in expected}
    assert all(found.values())
    across = {t: x for t in timesteps for y, x in found["normal" if t and "normal" in rows else "image", t]}
    down = {row: y for row in rows for y, x in found[row, timesteps[0]]}
    assert all((down[row], across[t]) in corners for (row, t), corners in found.items())
    return list(down.values()), list(across.values())


def test_panels_are_the_steps_of_the_reverse_process(model, image, expected):
    strip = visualize_reverse_process(model, image, columns=3, panel_size=SIZE)
    down, across = columns_of(strip, expected, [7, 4, 1, 0])
    assert down == sorted(down)
    assert across == sorted(across)
    # The first column is the image itself; what was not chosen is not there.
    assert np.array_equal(expected["image", 7], np.rint(image.permute(1, 2, 0).numpy() * 255))
    assert not any(places(strip, expected["normal", t]) for t in (6, 5, 3, 2))


def test_every_option(model, image, expected):
    strip = visualize_reverse_process(model, image, timesteps=[2, 6], rows=["normal", "image"], panel_size=SIZE)
    down, across = columns_of(strip, expected, [6, 2, 0], rows=("normal", "image"))
    assert down == sorted(down)
    assert across == sorted(across)
    assert not places(strip, expected["mask", 6])
    # Of x_0 there is no mask.
    masks = visualize_reverse_process(model, image, timesteps=[2, 6], rows=["mask"], panel_size=SIZE)
    assert masks.width == strip.width - (across[1] - across[0]) - (
        across[0] - places(masks, expected["mask", 6]).pop()[1]
    )
    everything = visualize_reverse_process(model, image, columns=100, panel_size=SIZE)
    columns_of(everything, expected, [*range(TIMESTEPS - 1, -1, -1)])


@pytest.mark.parametrize("panel_size", [32, 300])
@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (1, 90)])
def test_nothing_is_clipped_and_the_aspect_ratio_is_kept(model, panel_size, shape, tmp_path):
    strip = visualize_reverse_process(model, torch.zeros(3, *shape), tmp_path / "a.gif", panel_size=panel_size)
    for picture in (strip, *ImageSequence.Iterator(Image.open(tmp_path / "a.gif"))):
        pixels = np.asarray(picture.convert("RGB"))
        border = [pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]]
        assert min(int(edge.min()) for edge in border) > 250
    # The first panel is the black image; names and gaps are narrower.
    black = (np.asarray(strip) == 0).all(axis=2)
    scale = panel_size / max(shape)
    assert longest_run(black) == max(1, round(shape[1] * scale))
    assert longest_run(black.T) == max(1, round(shape[0] * scale))


def longest_run(flags):
    """Return the length of the longest row of flags that are set."""
    return max(len(run) for row in flags for run in "".join(map(str, row.astype(int))).split("0"))


def test_every_kind_of_image_and_the_mode_of_the_model(model, image, tmp_path):
    pixels = np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    model.train()
    strips = [
        np.asarray(visualize_reverse_process(model, given))
        for given in (image, tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(pixels))
    ]
    assert model.training
    assert model.model.network.training
    model.eval()
    assert all(np.array_equal(strip, strips[0]) for strip in strips)
    assert np.array_equal(np.asarray(visualize_reverse_process(model, image)), strips[0])


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animation_fades_over_every_timestep(model, image, expected, tmp_path, suffix):
    path = tmp_path / f"fading{suffix}"
    visualize_reverse_process(model, image, path, panel_size=SIZE, duration=2.0)
    animation = Image.open(path)
    frames, durations = [], []
    for frame in ImageSequence.Iterator(animation):
        # In gray: the palette of GIF and the compression of WebP change colors.
        frames.append(np.asarray(frame.convert("L")).astype(int))
        durations.append(animation.info["duration"])
    assert len(frames) == TIMESTEPS
    assert sum(durations) == pytest.approx(2000, rel=0.05)
    assert min(durations[0], durations[-1]) > 4 * max(durations[1:-1])
    assert animation.info["loop"] == 0
    # Where the panel of x_t is in the film strip's top row: nearer to its own timestep than to any other.
    panels = [Image.fromarray(expected["image", t]) for t in range(TIMESTEPS - 1, -1, -1)]
    shown = [np.asarray(panel.convert("L")).astype(int) for panel in panels]
    corner = min(
        ((y, x) for y in range(20, 60) for x in range(5, 80)),
        key=lambda at: np.abs(frames[0][at[0] : at[0] + SIZE, at[1] : at[1] + SIZE] - shown[0]).mean(),
    )
    for number, frame in enumerate(frames):
        panel = frame[corner[0] : corner[0] + SIZE, corner[1] : corner[1] + SIZE]
        distances = [np.abs(panel - other).mean() for other in shown]
        assert distances[number] == min(distances) < 10


def test_strip_is_the_file(model, image, tmp_path):
    (tmp_path / "strip.png").write_text("what was there before")
    strip = visualize_reverse_process(model, image, [tmp_path / "strip.png", tmp_path / "strip.JPG"])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "strip.png")), np.asarray(strip))
    assert Image.open(tmp_path / "strip.JPG").format == "JPEG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strip.JPG", "strip.png"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"columns": 0}, ValueError, "columns=0 is impossible; expected 1 to 100"),
        ({"columns": 2.5}, TypeError, r"columns=2.5 is of type float; expected a whole number"),
        (
            {"timesteps": [8, 3]},
            ValueError,
            r"timesteps=\[8, 3\] is impossible: .* has the timesteps 7, 6, 5, 4, 3, 2, 1",
        ),
        ({"timesteps": []}, ValueError, r"timesteps=\[\] is impossible"),
        (
            {"rows": ["image", "picture"]},
            ValueError,
            r"rows=\['image', 'picture'\] is impossible; expected some of image",
        ),
        ({"rows": ["mask", "mask"]}, ValueError, "each of them once"),
        ({"panel_size": 31}, ValueError, "panel_size=31 is impossible; expected 32 to 2048 pixels"),
        ({"duration": 0.0}, ValueError, "duration=0.0 is impossible; expected more than 0"),
        ({"output": "strip.bmp"}, ValueError, r"strip.bmp has the suffix '.bmp'; expected .png, .jpg, .jpeg"),
        ({"output": "nowhere/strip.png"}, FileNotFoundError, r"no folder .*nowhere to write strip.png into; make it"),
        ({"image": "nothing.png"}, FileNotFoundError, "There is no image nothing.png"),
        ({"image": np.zeros((4, 4))}, TypeError, "image is a ndarray; expected a file, a PIL image or a tensor"),
        ({"image": torch.zeros(1, 3, 8, 8)}, ValueError, r"image has shape \(1, 3, 8, 8\) .* shape \(3, H, W\)"),
        ({"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}, ValueError, "type torch.uint8; expected one color image"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_arguments_that_cannot_be(model, image, arguments, error, message):
    with pytest.raises(error, match=message):
        visualize_reverse_process(**{"model": model, "image": image, **arguments})


def test_files_that_are_no_images(model, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png cannot be read"):
        visualize_reverse_process(model, tmp_path / "text.png")
    Image.fromarray(np.full((8, 8), 4000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png holds 16-bit gray values"):
        visualize_reverse_process(model, tmp_path / "deep.png")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, surface_root):
    """Return the checkpoint of a short training."""
    from anomalib_transfusion import DemoSurface
    from conftest import SURFACE

    folder = tmp_path_factory.mktemp("explained")
    pre_processor = TransFusion.configure_pre_processor((32, 32))
    engine = Engine(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        max_epochs=1,
        limit_val_batches=1,
    )
    model = TransFusion(**TINY, pre_processor=pre_processor, visualizer=False)
    engine.fit(model, datamodule=DemoSurface(root=surface_root, **SURFACE))
    return Path(engine.best_model_path)


@pytest.fixture
def photographs(tmp_path):
    """Return a folder with three images, two of them of one name."""
    for name, pixels in (("hole/1", data.coffee()), ("crack/1", data.rocket()), ("crack/2", data.cat())):
        (tmp_path / "photographs" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:90, :120]).save(tmp_path / "photographs" / f"{name}.png")
    return tmp_path / "photographs"


def explain(*arguments, folder, fails=False):
    """Run the command as a person types it, and return what it printed."""
    done = typed("anomalib-transfusion", "explain", *arguments, folder=folder)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if fails else done.stdout


@pytest.mark.slow
def test_command_on_a_folder(checkpoint, photographs, tmp_path):
    printed = explain("photographs", "--ckpt", checkpoint, "--device", "cpu", folder=tmp_path)
    names = ["crack/1.gif", "crack/1.png", "crack/2.gif", "crack/2.png", "hole/1.gif", "hole/1.png"]
    written = tmp_path / "explained"
    assert sorted(str(path.relative_to(written)) for path in written.rglob("*.*")) == names
    assert sorted(printed.split()[1::2]) == [f"explained/{name}" for name in names]
    model = TransFusion.load_from_checkpoint(checkpoint)
    for name in ("hole/1.png", "crack/1.png"):
        strip = visualize_reverse_process(model, photographs / name)
        assert np.array_equal(np.asarray(strip), np.asarray(Image.open(written / name)))


def test_command_with_options_and_an_existing_file(checkpoint, photographs, tmp_path):
    image = photographs / "hole/1.png"
    options = ["--rows", "[image, mask]", "--timesteps", "[3, 1]", "--panel_size", "64"]
    command = [image, "--ckpt", checkpoint, "--output", "strip.png", *options]
    (tmp_path / "strip.png").write_text("mine")
    printed = explain(*command, folder=tmp_path, fails=True)
    assert "anomalib-transfusion: strip.png exists; choose another --output, or pass --overwrite true." in printed
    assert (tmp_path / "strip.png").read_text() == "mine"
    explain(*command, "--overwrite", "true", folder=tmp_path)
    strip = visualize_reverse_process(
        TransFusion.load_from_checkpoint(checkpoint),
        image,
        rows=["image", "mask"],
        timesteps=[3, 1],
        panel_size=64,
    )
    assert np.array_equal(np.asarray(strip), np.asarray(Image.open(tmp_path / "strip.png")))


@pytest.mark.slow
def test_command_says_what_is_wrong_with_a_checkpoint(photographs, tmp_path):
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\x03\x04 and nothing more")
    printed = explain(photographs, "--ckpt", "damaged.ckpt", folder=tmp_path, fails=True)
    assert "anomalib-transfusion: The checkpoint damaged.ckpt cannot be read" in printed
    assert not (tmp_path / "explained").exists()


@pytest.mark.parametrize(
    ("paths", "changed", "error", "message"),
    [
        (["nowhere.png"], {}, FileNotFoundError, r"There is no .*nowhere\.png\. Pass an image, or a folder"),
        (["empty"], {}, FileNotFoundError, r"no image in the folder .*empty"),
        (
            ["photographs"],
            {"output": "a.png"},
            ValueError,
            r"a\.png is one file, but there are 3 images\. Pass a folder",
        ),
        (["photographs"], {"output": "a.tiff"}, ValueError, r"a\.tiff has the suffix '\.tiff'"),
        (
            ["a.png"],
            {"checkpoint": "none.ckpt"},
            FileNotFoundError,
            r"There is no checkpoint .*none\.ckpt\. Pass the model",
        ),
        (["a.png"], {"device": "toaster"}, ValueError, r"device='toaster' cannot be used \(.*\)\. Choose auto, cpu"),
        (["a.png"], {"num_inference_steps": 9}, ValueError, "num_inference_steps=9 is impossible with timesteps=4"),
    ],
    ids=["no_image", "no_images", "one_file", "suffix", "no_checkpoint", "device", "steps"],
)
def test_files_that_cannot_be(checkpoint, photographs, tmp_path, paths, changed, error, message):
    (tmp_path / "empty").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.open(photographs / "hole/1.png").save(tmp_path / name)
    arguments = {"checkpoint": checkpoint, "output": "out", "device": "cpu", **changed}
    for name in ("checkpoint", "output"):
        arguments[name] = tmp_path / arguments[name]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        explain_files([tmp_path / path for path in paths], **arguments)
    assert sorted(tmp_path.rglob("*")) == [*before]


def test_more_passes_than_in_the_checkpoint(checkpoint, photographs, tmp_path):
    """A checkpoint that was trained with few passes makes a smooth animation nevertheless."""
    io = WholeCheckpointIO()
    content = io.load_checkpoint(checkpoint)
    content["hyper_parameters"]["num_inference_steps"] = 1
    io.save_checkpoint(content, tmp_path / "one.ckpt")
    one = [photographs / "hole/1.png"]
    for steps, frames in ((None, 2), (3, 4)):
        [path] = explain_files(one, tmp_path / "one.ckpt", tmp_path / f"{frames}.gif", num_inference_steps=steps)
        assert Image.open(path).n_frames == frames


def test_images_of_one_name_have_files_of_their_own(checkpoint, photographs, tmp_path):
    """One stem with two suffixes, a name of 255 bytes, and an image that is named in two ways."""
    images = [photographs / name for name in ("hole/1.png", "hole/1.jpg", f"hole/{'漆' * 83}a.png", "crack/1.png")]
    for image in images:
        Image.open(photographs / "hole/1.png").convert("RGB").save(image)
    again = photographs / "crack/../hole/1.png"
    files = explain_files([*images, again], checkpoint, tmp_path / "out", device="cpu", num_inference_steps=1)
    assert len(set(files)) == 8
    assert all(file.is_file() for file in files)
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == sorted(files)
    assert tmp_path / "out/hole/1.png" in files
    assert {file.parent for file in files} == {tmp_path / "out/hole", tmp_path / "out/crack"}
