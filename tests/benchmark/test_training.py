# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Trainings that survive, weights that other rows take, and budgets of time."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from anomalib_transfusion import TransFusion
from anomalib_transfusion.benchmark import training
from anomalib_transfusion.benchmark.config import Options
from anomalib_transfusion.benchmark.detection import Detections, measure
from anomalib_transfusion.benchmark.job import BenchmarkJob
from anomalib_transfusion.benchmark.pipeline import BenchmarkJobGenerator
from anomalib_transfusion.benchmark.rows import expand
from conftest import SURFACE, TINY

KEPT = Options(checkpoints=True, kinds=True)


class BreaksOnce(Callback):
    """Notes every training step in a file, and fails after the sixth step that any run noted."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer, *_args, **_kwargs):
        """Note the step."""
        with self.path.open("a") as file:
            file.write(f"{trainer.global_step}\n")

    def on_train_batch_start(self, *_args, **_kwargs):
        """Fail once."""
        if self.path.exists() and len(self.path.read_text().split()) == 6:
            with self.path.open("a") as file:
                file.write("broken\n")
            msg = "the power failed"
            raise RuntimeError(msg)


def entry(name, trainer=None, **others):
    """Return an entry of the grid."""
    size = {"image_size": [32, 32]}
    pre_processor = {"class_path": "anomalib.models.TransFusion.configure_pre_processor", "init_args": size}
    parameters = {**TINY, "channel_multipliers": [1, 2], "attention_levels": [-1], "pre_processor": pre_processor}
    return {
        "name": name,
        "class_path": "TransFusion",
        "init_args": {**parameters, **others.pop("init_args", {})},
        "trainer": {"limit_val_batches": 0, **(trainer or {"max_epochs": 2})},
        **others,
    }


def rows_of(root, *entries, minutes=None, seeds=(0,)):
    data = {"class_path": "DemoSurface", "init_args": {**SURFACE, "root": str(root)}}
    return expand({"seed": {"grid": list(seeds)}, "model": {"grid": list(entries)}, "data": data}, "cpu", minutes)


def run(row, folder, options=KEPT):
    return BenchmarkJob(row, str(folder / "out"), str(folder / "log"), options).run()


def test_interrupted_training_goes_on(surface_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "SAVE_EVERY", timedelta(0))
    callback = {"class_path": f"{__name__}.BreaksOnce", "init_args": {"path": str(tmp_path / "steps")}}
    (row,) = rows_of(surface_root, entry("ours", {"max_epochs": 3, "callbacks": [callback]}))
    broken = run(row, tmp_path)
    assert (broken["status"], broken["error"]) == ("failed", "RuntimeError: the power failed")
    folder = tmp_path / "out/checkpoints" / row.key
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    done = run(row, tmp_path)
    assert done["status"] == "done", done["error"]
    # Four steps an epoch: six before, six after, and none of them twice.
    steps = (tmp_path / "steps").read_text().split()
    assert steps == ["1", "2", "3", "4", "5", "6", "broken", "7", "8", "9", "10", "11", "12"]
    assert (done["steps"], done["epochs"]) == (12, 3)
    assert sorted(path.name for path in folder.iterdir()) == ["model.ckpt", "training.json"]
    # What is trained is not trained again, only tested.
    again = run(row, tmp_path)
    assert (tmp_path / "steps").read_text().split() == steps
    metrics = [name for name in done if "AU" in name]
    assert len(metrics) > 3
    assert {name: again[name] for name in [*metrics, "fit_duration"]} == {
        name: done[name] for name in [*metrics, "fit_duration"]
    }


def test_rows_with_the_weights_of_another(surface_root, surface, tmp_path):
    """Their metrics are those of the same weights with other parameters, and they train nothing."""
    other = {"discriminative_weight": 0.5, "filter_size": 3}
    base, same, changed = rows_of(
        surface_root,
        entry("base"),
        entry("same", weights="base"),
        entry("changed", weights="base", init_args=other),
    )
    too_early = run(changed, tmp_path)
    assert too_early["error"].startswith("FileNotFoundError: There are no trained weights of base on brick")
    results = [run(row, tmp_path) for row in (base, same, changed)]
    assert [result["status"] for result in results] == ["done"] * 3
    metrics = [name for name in results[0] if "AU" in name]
    assert [results[1][name] for name in metrics] == [results[0][name] for name in metrics]
    assert [results[2][name] for name in metrics] != [results[0][name] for name in metrics]
    assert results[1]["model.weights"] == "base"
    assert "fit_duration" not in results[1]
    checkpoint = tmp_path / "out/checkpoints" / base.key / "model.ckpt"
    model = TransFusion.load_from_checkpoint(checkpoint, map_location="cpu", visualizer=False, **other)
    from anomalib.engine import Engine

    gathered = Detections()
    engine = Engine(callbacks=[gathered], logger=False, default_root_dir=tmp_path, accelerator="cpu", devices=1)
    engine.test(model, datamodule=surface, verbose=False)
    for kind, values in measure(gathered.found).items():
        for name, value in values.items():
            column = name if kind == "all" else f"kind.{kind}.{name}"
            if column in results[2]:
                assert results[2][column] == pytest.approx(value, abs=1e-6), column


def test_averaged_weights_are_the_ones_that_stay(surface_root, tmp_path, monkeypatch):
    """The same steps, other weights; a row that is tested again has the same numbers."""
    monkeypatch.chdir(tmp_path)
    callback = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
    plain, averaged = rows_of(
        surface_root,
        entry("plain"),
        entry("averaged", {"max_epochs": 2, "callbacks": [callback]}),
    )
    results = [run(row, tmp_path) for row in (plain, averaged, averaged)]
    assert [result["steps"] for result in results] == [8, 8, 8]
    assert results[0]["pixel_AUROC"] != results[1]["pixel_AUROC"]
    assert results[1]["pixel_AUROC"] == results[2]["pixel_AUROC"]


def test_a_training_ends_with_its_minutes(surface_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (row,) = rows_of(surface_root, entry("ours", {"gradient_clip_val": 1.0}, minutes=0.03))
    result = run(row, tmp_path, Options())
    # 1.8 seconds, and the step that was running.
    assert 1.8 <= result["fit_duration"] < 20
    assert result["steps"] > 0
    assert result["model.minutes"] == 0.03
    assert not (tmp_path / "out/checkpoints").exists()


def test_shares_of_the_time(surface_root):
    """Each seed on each data set has its part, of which a training takes its share."""
    rows = rows_of(surface_root, entry("a", minutes="36%"), entry("b", minutes=2), minutes=80, seeds=(0, 1))
    assert [(row.name, row.seed, row.minutes) for row in rows] == [
        ("a", 0, pytest.approx(14.4)),
        ("b", 0, 2.0),
        ("a", 1, pytest.approx(14.4)),
        ("b", 1, 2.0),
    ]


def test_no_row_begins_when_the_time_is_over(surface_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = rows_of(surface_root, entry("a"), entry("b", init_args={"timesteps": 3}), entry("c", minutes=1))
    begun = [
        job.row.name
        for job in BenchmarkJobGenerator(rows, "cpu", "out", Options(minutes=1, only=("a", "c"))).generate_jobs()
    ]
    assert begun == ["a", "c"]
    assert not list(BenchmarkJobGenerator(rows, "cpu", "out", Options(minutes=1e-9)).generate_jobs())
    printed = capsys.readouterr().out + capsys.readouterr().err
    assert "b on brick (DemoSurface, seed 0, cpu): not asked for" in printed
    assert printed.count(": no time was left") == 3


def test_pictures_are_drawn_where_they_are_asked_for(surface_root, tmp_path):
    (row,) = rows_of(surface_root, entry("ours", {"max_epochs": 1}))
    result = run(row, tmp_path, Options(pictures=True))
    assert result["picture"] == f"pictures/{row.key}.jpg"
    assert (tmp_path / "out" / result["picture"]).read_bytes().startswith(b"\xff\xd8")
    # The metrics are the engine's own without kinds.
    assert "image_F1Score" in result
    assert not [name for name in result if name.startswith("kind.")]


def test_rows_on_disk_of_the_first_release_are_found():
    """The name of a row's file, as version 0.1.0 wrote it."""
    parameters = {
        "timesteps": 4,
        "base_channels": 8,
        "channel_multipliers": [1, 2],
        "num_blocks": 1,
        "attention_levels": [-1],
        "texture_source": "none",
        "learning_rate": 0.001,
        "pre_processor": {
            "class_path": "anomalib.models.TransFusion.configure_pre_processor",
            "init_args": {"image_size": [32, 32]},
        },
    }
    model = {"class_path": "TransFusion", "init_args": parameters, "trainer": {"max_epochs": 2}}
    counts = {"image_size": 64, "num_train_images": 8, "num_test_images": 2, "num_defect_images": 1}
    arguments = {"category": {"grid": ["brick"]}, "root": "surface", "num_workers": 0, **counts}
    data = {"class_path": "DemoSurface", "init_args": arguments}
    (row,) = expand({"seed": 1, "model": {"grid": [model]}, "data": data}, "cpu")
    assert row.key == "TransFusion-DemoSurface-brick-seed1-cpu-df87c3e486aa"


def test_weights_are_read_without_running_what_a_file_says(tmp_path, surface_root):
    (row,) = rows_of(surface_root, entry("ours"))
    kept = training.Training(row, tmp_path, kept=True)
    torch.save({"state_dict": {}, "trap": Options()}, kept.weights)
    with pytest.raises(ValueError, match=r"model\.ckpt cannot be read \(it holds .*Options.*could run code"):
        kept.load_weights(torch.nn.Linear(1, 1))
