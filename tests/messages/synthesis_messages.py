# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Messages about synthetic anomalies: textures and foregrounds."""

from pathlib import Path

import skimage
import torch
from message_table import Message, in_module
from PIL import Image

from anomalib_transfusion.synthesis import AnomalyGenerator, ForegroundMasks, TextureBank
from parts import part

IMAGES = torch.rand(2, 3, 32, 32)


def picture(path, mode="RGB"):
    """Write an image of one color, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (32, 32)).save(path)
    return path


def two_masks(tmp_path):
    picture(tmp_path / "masks/up/000.png", mode="L")
    picture(tmp_path / "masks/down/000.png", mode="L")
    ForegroundMasks.from_folder(tmp_path / "masks", 32).lookup(["good/000.png"])


def other_mask(tmp_path):
    picture(tmp_path / "masks/001.png", mode="L")
    ForegroundMasks.from_folder(tmp_path / "masks", 32).lookup(["good/000.png"])


def black_mask(tmp_path):
    picture(tmp_path / "masks/000.png", mode="L")
    ForegroundMasks.from_folder(tmp_path / "masks", 32).lookup(["good/000.png"])


def mask_of_another_shape(tmp_path):
    image = picture(tmp_path / "good/000.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (32, 16), 255).save(tmp_path / "masks/000.png")
    ForegroundMasks.from_folder(tmp_path / "masks", 32).check([str(image)])


def turned_mask(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "masks").mkdir()
    Image.new("L", (32, 32), 255).save(tmp_path / "masks/000.png", exif=exif)
    ForegroundMasks.from_folder(tmp_path / "masks", 32).lookup(["good/000.png"])


def textures_of_another_size(tmp_path):
    bank = TextureBank.from_folder(picture(tmp_path / "texture.png").parent, (16, 16))
    part(AnomalyGenerator, bank)(IMAGES)


def no_texture(tmp_path):
    (tmp_path / "textures").mkdir()
    TextureBank.from_folder(tmp_path / "textures", 32)


def damaged_texture(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    TextureBank.from_folder(tmp_path, 32).sample(1)


def photographs_left_out(tmp_path, monkeypatch):
    """A scikit-image that was packaged without its photographs, as some distributions do."""
    monkeypatch.setattr(skimage, "__file__", str(tmp_path / "skimage/__init__.py"))
    TextureBank.from_photographs(32)


# fmt: off
SYNTHESIS = [
    *in_module(
        "synthesis/foreground.py",
        Message("the foreground mask folder {}", lambda: ForegroundMasks.from_folder("gone", 32), FileNotFoundError,
                "gone does not exist", "Expected a mask for each training image",
                "Name such a folder, or estimate the foreground"),
        Message("no foreground mask for {}", other_mask, FileNotFoundError,
                str(Path("good/000.png")), "000 or 000_mask with one of", "Add the mask, or estimate the foreground"),
        Message("{} foreground masks for {}", two_masks, ValueError, "2 foreground masks for",
                str(Path("masks/up/000.png")), "Keep one, or put it into a folder named good"),
        Message("The foreground mask {} marks nothing", black_mask, ValueError, "its values are 0 to 0",
                "expected are some above 127, on the object", "Save it with 255 there and 0 elsewhere"),
        Message("The foreground mask {} has {}x{}", mask_of_another_shape, ValueError, "000.png has 32x16 pixels",
                "they do not cover each other", "Replace the mask by one of the image's size"),
    ),
    *in_module(
        "alignment.py",
        Message(
            "The {} {} has the EXIF orientation",
            turned_mask,
            ValueError,
            "000.png has the EXIF orientation 6, to be shown turned clockwise by 90 degrees",
            "anomalib reads its pixels as they are stored",
            "Turn the pixels of all such files",
        ),
    ),
    *in_module(
        "synthesis/generator.py",
        Message("structure_share={} leaves no source", lambda: part(AnomalyGenerator, None, structure_share=0),
                ValueError, "structure_share=0", "leaves no source of anomalies", "Give textures, or a share above 0"),
        Message("images must have the shape", lambda: part(AnomalyGenerator, None)(IMAGES[:, :1]), ValueError,
                "got (2, 1, 32, 32)", "must have the shape (B, 3, H, W)",
                "a gray one has three channels after images.expand"),
        Message("foreground must have the shape", lambda: part(AnomalyGenerator, None)(IMAGES, IMAGES), ValueError,
                "got (2, 3, 32, 32)", "must have the shape (2, 1, 32, 32)", "Resize the masks"),
        Message("the textures are {}x{}", textures_of_another_size, ValueError,
                "the textures are 16x16", "the images 32x32 pixels", "Build the TextureBank with the images' size"),
    ),
    *in_module(
        "synthesis/sources.py",
        Message("{} cannot be decoded", damaged_texture, ValueError,
                "broken.jpg", "it is damaged or of another format", "Replace or remove the file"),
        Message("a TextureBank needs", lambda: TextureBank([], 32), FileNotFoundError,
                "got none", "at least one image file", "use TextureBank.from_folder"),
        Message("the texture folder {} does not exist", lambda: TextureBank.from_folder("gone", 32), FileNotFoundError,
                "gone does not exist", "Expected a folder in the layout of DTD", "Name such a folder, or download DTD"),
        Message("the texture folder {} holds no image", no_texture, FileNotFoundError,
                str(Path("/textures holds no image")), "Expected a folder in the layout of DTD",
                "Name such a folder, or download DTD"),
        Message("the installed scikit-image holds none", photographs_left_out, FileNotFoundError,
                str(Path("skimage/data")), "none of the photographs astronaut.png", "Install scikit-image from PyPI"),
    ),
    *in_module(
        "checks.py",
        Message("{}={} {} {}", lambda: part(AnomalyGenerator, None, structure_share=1.5), ValueError,
                "structure_share=1.5", "must be in [0, 1]", "0 takes every anomaly from a texture"),
        Message("{}={} {} {}", lambda: part(AnomalyGenerator, None, min_perlin_scale=6), ValueError,
                "min_perlin_scale=6", "must be from 0", "to 5 (small ones only)"),
        Message("{}={} is unknown", lambda: TextureBank([Path("a.png")], 32, resize="nearest"), ValueError,
                "texture_resize='nearest'", "area, bilinear", "choose one of"),
    ),
]
# fmt: on
