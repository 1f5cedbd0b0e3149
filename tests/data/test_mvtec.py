# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The data module under the name that anomalib dropped."""

import inspect
import socket
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from anomalib.data import MVTecAD, get_datamodule
from PIL import Image

from anomalib_transfusion.data import MVTec, mvtec
from paths import DATASETS, needs_datasets

ARCHIVE = "mvtec_anomaly_detection.tar.xz"


def write_category(folder):
    """Write a tiny category in the layout of MVTec AD."""
    rng = np.random.default_rng(0)
    places = ("train/good/000.png", "test/good/000.png", "test/cut/000.png", "ground_truth/cut/000_mask.png")
    for place in places:
        (folder / place).parent.mkdir(parents=True)
        cv2.imwrite(str(folder / place), rng.integers(0, 255, (16, 16), dtype=np.uint8))


def write_archive(folder, path):
    write_category(folder / "bottle")
    with tarfile.open(path, "w:xz") as archive:
        archive.add(folder / "bottle", "bottle")


@pytest.fixture
def download_from(monkeypatch):
    """Let the download go to a given address instead of MVTec's 5 GB."""
    monkeypatch.setenv("no_proxy", "*")

    def use(url):
        monkeypatch.setattr(mvtec, "DOWNLOAD_INFO", replace(mvtec.DOWNLOAD_INFO, url=url))

    return use


@pytest.fixture
def unreachable(download_from):
    """An address where nobody listens: what a machine without a network sees."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    download_from(f"http://127.0.0.1:{port}/{ARCHIVE}")


@pytest.fixture(params=["breaks off", "other content"])
def bad_server(request, download_from):
    """A server that announces more than it sends, or sends something else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(200)
            self.send_header("Content-Length", "5000" if request.param == "breaks off" else "1000")
            self.end_headers()
            self.wfile.write(bytes(1000))

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    download_from(f"http://127.0.0.1:{server.server_port}/{ARCHIVE}")
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def test_parameters_are_those_of_mvtecad_but_for_the_batch_size():
    ours, theirs = (inspect.signature(cls.__init__).parameters for cls in (MVTec, MVTecAD))
    assert list(ours) == list(theirs)
    differing = {name: ours[name].default for name in ours if ours[name].default != theirs[name].default}
    assert differing == {"train_batch_size": 8, "eval_batch_size": 8}
    datamodule = MVTec()
    assert (datamodule.train_batch_size, datamodule.eval_batch_size, datamodule.num_workers) == (8, 8, 8)
    assert (str(datamodule.root), datamodule.category) == ("datasets/MVTecAD", "bottle")
    assert isinstance(datamodule, MVTecAD)


def test_parameters_arrive():
    given = {"train_batch_size": 3, "eval_batch_size": 4, "num_workers": 5, "val_split_ratio": 0.1, "seed": 6}
    datamodule = MVTec(**given, test_split_mode="synthetic", val_split_mode="from_test", test_split_ratio=0.7)
    assert {name: getattr(datamodule, name) for name in given} == given
    assert (datamodule.test_split_mode.value, datamodule.val_split_mode.value) == ("synthetic", "from_test")
    assert datamodule.test_split_ratio == pytest.approx(0.7)


def test_anomalib_finds_it_by_name():
    datamodule = get_datamodule({"class_path": "MVTec", "init_args": {"category": "cable", "num_workers": 0}})
    assert type(datamodule) is MVTec
    assert (datamodule.category, datamodule.train_batch_size) == ("cable", 8)


@needs_datasets
def test_real_category():
    datamodule = MVTec(root=DATASETS / "MVTecAD", category="magnetic_tile", num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    assert len(datamodule.train_data) == 762
    counts = datamodule.test_data.samples.label.value_counts().to_dict()
    assert counts == {"good": 95, "blowhole": 115, "break": 85, "crack": 57}
    batch = next(iter(datamodule.train_dataloader()))
    assert batch.image.shape == (8, 3, 256, 256)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".bmp", ".png"])
def test_images_in_any_format_with_masks_in_png(tmp_path, suffix):
    write_category(tmp_path / "mine")
    for image in [*tmp_path.glob("mine/t*/*/*.png")]:
        picture = Image.open(image).convert("RGB")
        image.unlink()
        picture.save(image.with_suffix(suffix))
    datamodule = MVTec(root=tmp_path, category="mine", num_workers=0)
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (1, 2)
    masks = datamodule.test_data.samples.set_index("label").mask_path
    assert masks[masks.notna()].to_dict() == {"cut": str(tmp_path / "mine/ground_truth/cut/000_mask.png")}
    assert {Path(item.image_path).suffix for item in datamodule.test_data} == {suffix}


@pytest.mark.usefixtures("unreachable")
def test_unknown_category(tmp_path):
    (tmp_path / "magnetic_tile").mkdir()
    with pytest.raises(ValueError, match="no category 'botle'") as caught:
        MVTec(root=tmp_path, category="botle").prepare_data()
    assert "bottle, cable, capsule" in str(caught.value)
    assert f"{tmp_path} has magnetic_tile" in str(caught.value)
    with pytest.raises(ValueError, match=r"has no folder.*--data.root"):
        MVTec(root=tmp_path / "missing", category="botle").prepare_data()
    assert not (tmp_path / "missing").exists()


@pytest.mark.usefixtures("unreachable")
def test_offline_download(tmp_path):
    (tmp_path / "cable").mkdir()
    with pytest.raises(RuntimeError, match=r"'bottle' was not found in .*pass --data.root \(root=\)") as caught:
        MVTec(root=tmp_path, category="bottle").prepare_data()
    assert str(tmp_path) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert [path.name for path in tmp_path.iterdir()] == ["cable"]

    with pytest.raises(RuntimeError, match="was not found"):
        MVTec(root=tmp_path / "some/where", category="bottle").prepare_data()
    assert not (tmp_path / "some").exists()


@pytest.mark.usefixtures("bad_server")
def test_failed_download_leaves_nothing(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"downloading it from http://127.0.0.1.*failed"):
            MVTec(root=tmp_path, category="bottle").prepare_data()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unreachable")
def test_archive_in_the_root_is_unpacked(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    write_archive(tmp_path / "source", root / ARCHIVE)
    datamodule = MVTec(root=root, category="bottle", num_workers=0)
    datamodule.prepare_data()
    assert [path.name for path in root.iterdir()] == ["bottle"]
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (1, 2)


@pytest.mark.usefixtures("unreachable")
def test_archive_without_the_category(tmp_path):
    write_archive(tmp_path / "source", tmp_path / ARCHIVE)
    with pytest.raises(RuntimeError, match="has no folder 'cable'"):
        MVTec(root=tmp_path, category="cable").prepare_data()


@pytest.mark.usefixtures("unreachable")
def test_truncated_archive_leaves_no_half_category(tmp_path):
    write_archive(tmp_path / "source", tmp_path / "whole")
    root = tmp_path / "root"
    root.mkdir()
    whole = (tmp_path / "whole").read_bytes()
    (root / ARCHIVE).write_bytes(whole[: int(0.6 * len(whole))])
    with pytest.raises(RuntimeError, match=r"unpacking .* failed.*delete that archive"):
        MVTec(root=root, category="bottle").prepare_data()
    # It is the user's file: it stays.
    assert [path.name for path in root.iterdir()] == [ARCHIVE]


def test_category_without_training_images(tmp_path):
    write_category(tmp_path / "mine")
    (tmp_path / "mine/train/good/000.png").unlink()
    datamodule = MVTec(root=tmp_path, category="mine")
    datamodule.prepare_data()
    with pytest.raises(RuntimeError, match=r"no training image in .*mine/train/good.*\.png"):
        datamodule.setup()


def test_empty_category(tmp_path):
    (tmp_path / "mine").mkdir()
    datamodule = MVTec(root=tmp_path, category="mine")
    datamodule.prepare_data()
    with pytest.raises(RuntimeError, match="Found 0 images in"):
        datamodule.setup()
