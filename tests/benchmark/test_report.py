# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Reports of benchmarks: numbers against arithmetic by hand, what is said about what is missing, and the files."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anomalib_transfusion.benchmark.load import load
from anomalib_transfusion.benchmark.report import report
from commands import typed

# Model, data set, category, seed, image AUROC, AUPRO, images per second; no number: failed.
ROWS = [
    ("TransFusion", "MVTec", "bottle", 1, 0.99, 0.95, 2.0),
    ("TransFusion", "MVTec", "bottle", 2, 0.97, 0.93, 2.2),
    ("TransFusion", "MVTec", "cable", 1, 0.90, 0.91, 2.0),
    ("TransFusion", "MVTec", "cable", 2, 0.94, 0.89, 2.2),
    ("TransFusion", "MVTec", "screw", 1, 0.50, 0.40, 2.0),
    ("TransFusion", "MVTec", "screw", 2, 0.60, 0.45, 2.2),
    ("Draem", "MVTec", "bottle", 1, 0.9796, 0.70, 40.0),
    ("Draem", "MVTec", "bottle", 2, 0.9804, 0.72, 42.0),
    ("Draem", "MVTec", "cable", 1, 0.80, 0.60, 40.0),
    ("Draem", "MVTec", "cable", 2, 0.84, 0.62, 42.0),
    ("Draem", "MVTec", "screw", 1, None, None, None),
    ("Draem", "MVTec", "screw", 2, None, None, None),
    ("TransFusion", "Visa", "candle", 1, 0.90, 0.80, 2.0),
    ("Draem", "Visa", "candle", 1, 0.70, 0.60, 40.0),
]


def table(rows=ROWS):
    return pd.DataFrame([
        {
            "status": "failed" if auroc is None else "done",
            "error": "OutOfMemoryError: CUDA out\nof memory" if auroc is None else None,
            "name": model,
            "dataset": dataset,
            "category": category,
            "seed": seed,
            "accelerator": "cuda",
            "model.class_path": f"anomalib.models.{model}",
            "data.class_path": dataset,
            "image_AUROC": auroc,
            "pixel_AUPRO": aupro,
            "images_per_second": speed,
            "peak_memory_mib": 1234.5,
            "peak_memory_of": "GPU memory allocated by PyTorch",
            "parameters": 54_600_000,
            "fit_duration": 600.0 * seed,
        }
        for model, dataset, category, seed, auroc, aupro, speed in rows
    ])


def write(folder, frame):
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / "results.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Return the folder and the text of a report, written by the command with one run for each data set."""
    folder = tmp_path_factory.mktemp("report")
    frame = table()
    for dataset in ("MVTec", "Visa"):
        write(folder / dataset, frame[frame["dataset"] == dataset])
    done = typed("anomalib-transfusion", "report", "MVTec", "Visa", "--output", "made", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "made/report.md" in done.stdout.replace("\\", "/")
    return folder / "made", (folder / "made/report.md").read_text(encoding="utf-8")


def cells(text, heading, row):
    """Return the cells of a row of the first table after a heading."""
    part = text[text.index(f"\n{heading}\n") :]
    found = re.search(rf"^\| {row} \| (.*) \|$", part, re.MULTILINE)
    return found[1].split(" | ")


def test_categories_are_averaged_over_seeds(reported):
    _, text = reported
    spread = 100 * np.std([0.99, 0.97], ddof=1)
    assert cells(text, "### Image AUROC", "bottle") == [f"**98.0 ± {spread:.1f}**", "**98.0 ± 0.1**"]
    spread = 100 * np.std([0.90, 0.94], ddof=1)
    assert cells(text, "### Image AUROC", "cable") == [f"**92.0 ± {spread:.1f}**", f"82.0 ± {spread:.1f}"]
    assert cells(text, "### Image AUROC", "screw")[1] == "failed"
    assert cells(text, "### AUPRO", "cable")[0].startswith("**90.0")
    assert "### Pixel AUROC" not in text


def test_mean_is_over_what_every_model_finished(reported):
    """The mean of the seeds' means; screw counts for nobody, because Draem failed there."""
    _, text = reported
    seeds = [np.mean([0.99, 0.90]), np.mean([0.97, 0.94])]
    others = [np.mean([0.9796, 0.80]), np.mean([0.9804, 0.84])]
    assert cells(text, "### Image AUROC", "mean") == [
        f"**{100 * np.mean(seeds):.1f} ± {100 * np.std(seeds, ddof=1):.1f}**",
        f"{100 * np.mean(others):.1f} ± {100 * np.std(others, ddof=1):.1f}",
    ]
    assert "The mean is over the 2 of 3 categories that every model with a result finished: bottle, cable." in text


def test_models_against_data_sets(reported):
    """The paper's Table 3: the best of a column is bold, and the average is that of the data sets."""
    folder, text = reported
    assert cells(text, "## All data sets", "TransFusion") == [
        "**95.0**",
        "**90.0**",
        "**92.5**",
        "**92.0**",
        "**80.0**",
        "**86.0**",
    ]
    assert cells(text, "## All data sets", "Draem")[:3] == ["90.0", "70.0", "80.0"]
    summary = pd.read_csv(folder / "summary.csv", index_col="model")
    assert summary.loc["Draem", "Average AUPRO"] == pytest.approx(np.mean([np.mean([0.7, 0.72, 0.6, 0.62]), 0.6]))


def test_costs_and_failures(reported):
    _, text = reported
    assert cells(text, "### Cost", "TransFusion") == ["2.1", "1,234", "54.6", "15"]
    # Only rows that finished count.
    assert cells(text, "### Cost", "Draem")[0] == "41"
    assert "- Draem on screw (MVTec, seed 2): OutOfMemoryError: CUDA out of memory" in text
    assert "The memory is the GPU memory allocated by PyTorch." in text


def test_files(reported):
    folder, text = reported
    frame = pd.read_csv(folder / "MVTec_image_AUROC.csv", index_col="category")
    assert list(frame) == ["TransFusion", "TransFusion std", "Draem", "Draem std"]
    assert frame.loc["screw", "Draem"] == "failed"
    assert frame.loc["screw", "TransFusion"] == pytest.approx(0.55)
    pictures = re.findall(r"\]\((.*?)\)", text)
    assert pictures == [f"{name}_{kind}.png" for name in ("MVTec", "Visa") for kind in ("image_AUROC", "throughput")]
    for picture in pictures:
        image = np.asarray(Image.open(folder / picture).convert("RGB"))
        assert image.shape[0] >= 600
        assert image.shape[1] >= 900
        # Nothing is cut off: the outermost pixels are empty, and both models' colors are inside.
        assert (np.concatenate([image[:3].ravel(), image[-3:].ravel(), image[:, :3].ravel()]) == 255).all()
        for color in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)):
            assert (image == color).all(axis=-1).sum() > 50


def test_default_folder_and_one_seed(tmp_path):
    rows = [row for row in ROWS if row[3] == 1 and row[1] == "MVTec"]
    path = report([write(tmp_path / "run", table(rows))])
    assert path == tmp_path / "run/report/report.md"
    text = path.read_text(encoding="utf-8")
    assert "±" not in text
    assert cells(text, "### Image AUROC", "bottle") == ["**99.0**", "98.0"]
    header = (path.parent / "MVTec_image_AUROC.csv").read_text().splitlines()[0]
    assert header == "category,TransFusion,Draem"


def test_model_without_a_result_takes_nothing_from_the_others(tmp_path):
    rows = [*ROWS[:6], *(("Draem", "MVTec", name, 1, None, None, None) for name in ("bottle", "cable", "screw"))]
    text = report([write(tmp_path / "run", table(rows))]).read_text(encoding="utf-8")
    values = np.array([[0.99, 0.90, 0.50], [0.97, 0.94, 0.60]]).mean(axis=1)
    first, second = cells(text, "### Image AUROC", "mean")
    assert first == f"**{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}**"
    assert second == "failed"


def test_parameters_tell_models_of_one_name_apart(tmp_path):
    frame = table([row for row in ROWS if row[0] == "TransFusion" and row[1] == "MVTec"])
    longer = frame.assign(**{"model.trainer.max_epochs": 1500, "image_AUROC": 1.0})
    shorter = frame.assign(**{"model.trainer.max_epochs": 25})
    loaded = load([write(tmp_path / "run", pd.concat([longer, shorter]))])
    assert set(loaded["model"]) == {"TransFusion (max_epochs=1500)", "TransFusion (max_epochs=25)"}
    # The same file twice is read once.
    assert len(load([tmp_path / "run", tmp_path / "run/results.csv"])) == 12
    # Other data sets may have other parameters.
    assert set(load([write(tmp_path / "one", longer[:1]), write(tmp_path / "two", shorter[2:3])])["model"]) == {
        "TransFusion",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no .*run. Pass the output_dir"),
        ({}, "has no results.csv"),
        ({"results.csv": ""}, "cannot be read as a table"),
        ({"results.csv": "status,name\n"}, "There is no row in"),
        ({"results.csv": "name,image_AUROC\nDraem,0.5\n"}, "has no column model.class_path, data.class_path"),
        (
            {"results.csv": "model.class_path,data.class_path\nDraem,MVTec\n"},
            "There is none of the columns image_",
        ),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, content, said):
    run = tmp_path / "run"
    if content is not None:
        run.mkdir()
        for name, text in content.items():
            (run / name).write_text(text, encoding="utf-8")
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        report([run])
    assert not list(tmp_path.rglob("report"))


def test_errors_are_a_line_on_the_command_line(tmp_path):
    done = typed("anomalib-transfusion", "report", "nowhere", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "anomalib-transfusion: There is no nowhere. Pass the output_dir of a benchmark, or a results.csv."
    )
