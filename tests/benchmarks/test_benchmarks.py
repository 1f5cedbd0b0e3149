# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The benchmarks run as a person starts them, at tiny size, and what they write is consistent."""

import subprocess
import sys

import numpy as np
import pytest

from benchmark_scripts import check_header, read, run
from paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import contenders


def check_contenders(result: dict, measured: set[str]):
    """The contenders were measured, and medians, ratios and shares fit the times of the rounds."""
    rows = {row["name"]: row for row in result["contenders"]}
    assert {name for name, row in rows.items() if row["status"] == "measured"} == measured
    baseline = rows[result["baseline"]]
    for name in measured:
        row = rows[name]
        seconds = row["seconds"]
        assert len(seconds) == len(baseline["seconds"]) >= 2
        assert min(seconds) > 0
        assert row["median"] == pytest.approx(np.median(seconds))
        assert row["quartiles"][0] <= row["median"] <= row["quartiles"][1]
        assert row["units_per_second"] == pytest.approx(1 / row["median"])
        per_round = np.divide(baseline["seconds"], seconds)
        assert row["ratio"] == pytest.approx(np.median(per_round))
        assert row["ratio_quartiles"] == pytest.approx(np.percentile(per_round, (25, 75)))
        assert row["first_call_seconds"] > 0
    assert baseline["ratio"] == 1
    for row in rows.values():
        assert row["status"] == "measured" or row["reason"]


@pytest.mark.slow
def test_synthesis(tmp_path):
    printed = run("synthesis.py", tmp_path, "--rounds", "3")
    result = read(tmp_path, "synthesis-tiny")
    check_header(result)
    names = {"PerlinAnomalyGenerator", "anomalies", "whole samples", "plain path, whole samples"}
    check_contenders(result, names)
    assert all(name in printed for name in names)
    assert {row["units_per_call"] for row in result["contenders"]} == {4}
    if sys.platform == "linux":
        # Four images of 64 x 64 pixels in 32 bits are 0.2 MiB.
        assert all(0.2 < row["peak_memory_mib"] < 100 for row in result["contenders"])


@pytest.mark.slow
def test_training_step(tmp_path):
    names = {"plain path", "default", "fp32, channels last"}
    run("training_step.py", tmp_path, "--no-memory", "--rounds", "2", "--only", "default", "fp32, channels last*")
    result = read(tmp_path, "training-step-tiny-batch2")
    check_header(result)
    check_contenders(result, names)
    rows = {row["name"]: row for row in result["contenders"]}
    assert "torch.compile" in rows["fp32, channels last, compiled"]["reason"]
    # A sample is an image: the operations do not depend on who does them.
    assert rows["plain path"]["flops"] == rows["default"]["flops"] > 0
    for name in names:
        assert rows[name]["flops_per_second"] == pytest.approx(rows[name]["flops"] / rows[name]["median"])
        assert rows[name]["share_of_peak"] is None


def test_inference(tmp_path):
    run("inference.py", tmp_path, "--no-memory", "--rounds", "2", "--only", "default", "EfficientAd", "Patchcore")
    result = read(tmp_path, "inference-tiny-batch2")
    check_header(result)
    check_contenders(result, {"plain path", "default", "Patchcore"})
    assert result["setting"]["passes"] == result["setting"]["all_passes"] == 3
    # Its network cannot take so small an image: what fails is left out, and says why.
    failed = next(row for row in result["contenders"] if row["name"] == "EfficientAd")
    assert "Kernel size" in failed["reason"]


def test_inference_of_another_model(tmp_path):
    arguments = ["--no-memory", "--rounds", "2", "--only", "default", "one scale at a time", "*checkpointing"]
    run("inference.py", tmp_path, "--model", "DiffusionAD", "--network", "segmentation_width=3", *arguments)
    result = read(tmp_path, "DiffusionAD-inference-tiny-batch2-segmentation_width3")
    check_header(result)
    check_contenders(result, {"plain path", "default", "one scale at a time"})
    assert result["setting"]["model"] == "DiffusionAD"
    assert result["setting"]["network"]["segmentation_width"] == 3
    printed = run("inference.py", tmp_path, "--model", "Patchcore", code=1)
    assert "--model Patchcore is unknown; choose one of TransFusion, DiffusionAD." in printed


@pytest.mark.slow
def test_training_step_of_another_model(tmp_path):
    arguments = ["--rounds", "2", "--only", "default", "checkpointing", "synthesis alone"]
    run("training_step.py", tmp_path, "--model", "DiffusionAD", *arguments)
    result = read(tmp_path, "DiffusionAD-training-step-tiny-batch2")
    check_contenders(result, {"plain path", "default", "checkpointing", "synthesis alone"})
    rows = {row["name"]: row for row in result["contenders"]}
    if sys.platform == "linux":
        assert rows["checkpointing"]["peak_memory_mib"] < rows["default"]["peak_memory_mib"]


def test_operations_of_both_networks_at_full_size():
    """281.6 GMAC a pass of the reconstruction network at 256 x 256, 38.0 GMAC of the segmentation network."""
    subject = contenders.SUBJECTS["DiffusionAD"]
    passes = 2 * 281.6e9 + 38.0e9
    assert subject.flops({}, 256, training=False) == pytest.approx(2 * passes, rel=0.002)


@pytest.mark.slow
def test_time_that_is_over_leaves_out_what_is_not_built(tmp_path):
    run("inference.py", tmp_path, "--minutes", "0", "--rounds", "5")
    result = read(tmp_path, "inference-tiny-batch2")
    measured = {row["name"]: row for row in result["contenders"] if row["status"] == "measured"}
    assert measured.keys() == {"plain path"}
    assert len(measured["plain path"]["seconds"]) == 1
    reasons = {row["reason"] for row in result["contenders"] if row["name"] not in measured}
    assert reasons == {"no time was left for it", "torch.compile is switched off"}


@pytest.mark.slow
def test_larger_and_larger_batches(tmp_path):
    run("inference.py", tmp_path, "--scaling", "--largest-batch", "4")
    points = read(tmp_path, "inference-scaling-tiny")["points"]
    assert [point["batch"] for point in points if point["name"] == "default"] == [1, 2, 4]
    assert all(point["units_per_second"] > 0 for point in points)


@pytest.mark.slow
def test_stages(tmp_path):
    printed = run("stages.py", tmp_path)
    result = read(tmp_path, "stages-tiny-batch2")
    check_header(result)
    assert set(result["stages"]) == {"training step", "inference"}
    for operations in result["stages"].values():
        assert sum(row["share"] for row in operations) == pytest.approx(1)
        assert operations == sorted(operations, key=lambda row: -row["seconds"])
    names = [{row["operation"] for row in operations} for operations in result["stages"].values()]
    assert "aten::convolution_backward" in names[0] - names[1]
    assert "aten::mkldnn_convolution" in names[0] & names[1]
    assert printed.count("others") == 2


def test_passes(tmp_path):
    printed = run("passes.py", tmp_path, "--steps", "20", "3", "1")
    result = read(tmp_path, "passes-brick")
    check_header(result)
    assert "num_inference_steps=20 is left out" in printed
    assert [point["timesteps"] for point in result["points"]] == [[3, 2, 1], [3]]
    for point in result["points"]:
        assert point["images"] == 9
        assert all(0 <= point[name] <= 1 for name in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO"))
        assert point["images_per_second"] > 0
    (picture,) = tmp_path.glob("passes-brick-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_steps(tmp_path):
    """Three steps of transparency 1, 2/3 and 1/3; what a row says follows from its weights alone."""
    run("steps.py", tmp_path)
    result = read(tmp_path, "steps-brick")
    check_header(result)
    assert result["timesteps"] == [3, 2, 1]
    weights = {row["name"]: row["weights"] for row in result["rows"]}
    assert weights == {
        "mean of all": pytest.approx([1 / 3, 1 / 3, 1 / 3]),
        "weight beta_t": pytest.approx([1 / 2, 1 / 3, 1 / 6]),
        "weight 1 - beta_t": pytest.approx([0, 1 / 3, 2 / 3], abs=1e-6),
        "mean of the first 1": [1, 0, 0],
        "mean of the last 1": [0, 0, 1],
        "mean of the first 2": [0.5, 0.5, 0],
        "mean of the last 2": [0, 0.5, 0.5],
        "step 2 alone": [0, 1, 0],
    }
    for row in result["rows"]:
        assert all(0 <= row[name] <= 1 for name in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO"))


@pytest.mark.slow
def test_exported_formats_beside_pytorch(tmp_path):
    """Every format has its rows; what is exported is as accurate as PyTorch, but for what rounding costs."""
    given = ["TransFusion=tiny", "--passes", "2", "--batch", "1", "2", "--rounds", "2"]
    run("exported.py", tmp_path, *given, timeout=580)
    result = read(tmp_path, "exported-brick")
    rows = {(row["format"], row["batch"]): row for row in result["rows"]}
    formats = {name for name, _ in rows}
    assert {
        "PyTorch, single precision",
        "ONNX Runtime",
        "OpenVINO, single precision",
        "OpenVINO, INT8 weights",
    } <= formats
    assert len(rows) == 2 * len(formats)
    for (name, _), row in rows.items():
        assert row["passes"] == 2
        assert row["images_per_second"] > 0
        assert row["peak_memory_mib"] > 0
        if name in {"ONNX Runtime", "OpenVINO, single precision"}:
            assert abs(row["pixel_AUROC_change"]) < 1e-3
    assert rows["PyTorch, single precision", 2]["ratio"] == 1


@pytest.mark.slow
def test_exported_networks_that_were_not_trained(tmp_path):
    """Time and memory are measured; there is no accuracy to report."""
    given = ["EfficientAd=untrained", "TransFusion=small", "--passes", "1", "--batch", "1", "--rounds", "1"]
    run("exported.py", tmp_path, *given, timeout=580)
    rows = read(tmp_path, "exported-brick")["rows"]
    assert {(row["model"], row["weights"], *row["pixels"], row["passes"]) for row in rows} == {
        ("EfficientAd", "untrained", 256, 256, None),
        ("TransFusion", "small", 128, 128, 1),
    }
    for row in rows:
        assert not row["trained"]
        assert row["images_per_second"] > 0
        assert row["peak_memory_mib"] > 0
        assert row["image_AUROC"] is row["pixel_AUPRO"] is row["image_AUROC_change"] is None


@pytest.mark.slow
def test_exported_network_of_a_config(tmp_path):
    """The fast recipe with other passes than its own; calibrated INT8 is refused with its memory."""
    given = [
        f"TransFusion={ROOT / 'configs/fast.yaml'}",
        "--passes",
        "2",
        "--batch",
        "1",
        "--rounds",
        "1",
        "--no-memory",
    ]
    run("exported.py", tmp_path, *given, timeout=580)
    rows = read(tmp_path, "exported-brick")["rows"]
    assert {(row["weights"], row["trained"], row["passes"], *row["pixels"]) for row in rows} == {
        ("fast.yaml", False, 2, 128, 128),
    }
    formats = {row["format"] for row in rows}
    assert {"ONNX Runtime", "OpenVINO, bfloat16", "OpenVINO, INT8 weights"} <= formats
    assert "OpenVINO, INT8, calibrated" not in formats


def test_exported_sizes_are_those_of_our_networks(tmp_path):
    printed = run("exported.py", tmp_path, "Patchcore=small", code=2)
    assert "Patchcore=untrained" in printed
    assert not list(tmp_path.iterdir())


def test_exported_files_are_there(tmp_path):
    printed = run("exported.py", tmp_path, "TransFusion=absent.yaml", code=2)
    assert "There is no file 'absent.yaml'" in printed
    assert not list(tmp_path.iterdir())


def test_passes_need_a_checkpoint(tmp_path):
    printed = run("passes.py", tmp_path, "--size", "full", code=1)
    assert "--checkpoint is needed" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_foreground(tmp_path):
    """On a plain background the estimate keeps anomalies on the object; on grass it knows that it knows nothing."""
    command = [sys.executable, str(ROOT / "benchmarks/foreground.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in (tmp_path / "README.md").open() if "|" in line
    ]
    rows = {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}
    paper, grass = rows["light paper"], rows["grass"]
    assert float(paper["anomalies on the object, none"]) < 30
    assert float(paper["anomalies on the object, estimate"]) > 75
    assert {row["anomalies on the object, given mask"] for row in rows.values()} == {"100.0", ""}
    assert (grass["estimated"], grass["overlap (IoU)"]) == ("100.0", grass["true"])
    assert rows["coins.png"]["true"] == ""
    assert (tmp_path / "foreground.jpg").stat().st_size > 10_000


def test_a_new_contender_is_an_entry_in_the_config(tmp_path):
    path = contenders.CONFIG
    lists = contenders.read_contenders()
    assert [len(lists[name]) for name in ("synthesis", "training", "inference")] == [4, 12, 14]
    own = {one.name: one.models for entries in lists.values() for one in entries if one.models is not None}
    assert own == {"checkpointing": ["DiffusionAD"], "one scale at a time": ["DiffusionAD"]}
    assert {one.name for one in lists["inference"] if one.compiled} == {
        f"{precision}, {layout}, compiled" for precision in ("bf16", "fp32") for layout in ("channels last", "NCHW")
    }
    text = path.read_text("utf-8")
    added = "  - { name: STFPM, build: model, arguments: { class_path: torch.nn.Identity } }\n"
    (tmp_path / "speed.yaml").write_text(text + added)
    last = contenders.read_contenders(tmp_path / "speed.yaml")["inference"][-1]
    built = last.build(contenders.Setting("tiny", "cpu", 2, 32))
    assert last.name == "STFPM"
    assert built.units == 2
    built.call()
