# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""One model for all categories beside one model a category: the command, its rows, shares of time and the report."""

import json
import re

import pandas as pd
import pytest
import yaml

from anomalib_transfusion.benchmark.categories import one_row_a_category
from anomalib_transfusion.benchmark.config import Options
from anomalib_transfusion.benchmark.load import load
from anomalib_transfusion.benchmark.pipeline import _read
from anomalib_transfusion.benchmark.report import report
from anomalib_transfusion.benchmark.rows import Row, check_rows, expand
from anomalib_transfusion.benchmark.training import Training
from commands import typed
from paths import ROOT

ALL_AND_EACH = [["grass", "brick"], "brick", ["grass"]]


def padim(**others):
    return {
        "class_path": "Padim",
        "init_args": {"backbone": "resnet18", "layers": ["layer1"], "pre_trained": False, "n_features": 20},
        **others,
    }


def data(root, categories):
    arguments = {"image_size": 64, "num_train_images": 8, "num_test_images": 2, "num_defect_images": 1}
    return {
        "class_path": "MultiCategory",
        "init_args": {
            "dataset": "DemoSurface",
            "root": str(root),
            "categories": categories,
            "num_workers": 0,
            "dataset_args": arguments,
        },
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run the command with one model for two categories and one for each, and the report; return folder and output."""
    folder = tmp_path_factory.mktemp("both")
    benchmark = {"seed": 0, "model": padim(), "data": data("surfaces", {"grid": ALL_AND_EACH})}
    config = {"accelerator": "cpu", "output_dir": "out", "kinds": True, "pictures": True, "benchmark": benchmark}
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(config))

    def run(*arguments):
        done = typed(*arguments, folder=folder)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    printed = run("anomalib", "benchmark", "--config", "benchmark.yaml")
    run("anomalib-transfusion", "report", "out")
    return folder, printed


def cells(text, heading, row):
    """Return the cells of a row of the first table after a heading."""
    found = re.search(rf"^\| {row} \| (.*) \|$", text[text.index(f"\n{heading}\n") :], re.MULTILINE)
    return [cell.strip("*") for cell in found[1].split(" | ")]


def shown(value):
    return f"{100 * value:.1f}"


def test_a_row_has_each_category_and_their_mean(ran):
    folder, printed = ran
    rows = {row["category"]: row for row in pd.read_csv(folder / "out/results.csv").to_dict("records")}
    assert list(rows) == ["2 categories", "brick", "grass"]
    both = rows["2 categories"]
    assert {row["dataset"] for row in rows.values()} == {"DemoSurface"}
    for metric in ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AUPRO"):
        each = [both[f"{metric}_{name}"] for name in ("brick", "grass")]
        assert both[metric] == pytest.approx(sum(each) / 2)
        assert rows["brick"][metric] == rows["brick"][f"{metric}_brick"]
    # The terminal has a line for each category, and then their mean.
    table = [line.split()[:4] for line in printed.splitlines() if line.strip().startswith("Padim ")]
    assert table == [
        ["Padim", "brick", "0", f"{both['image_AUROC_brick']:.3f}"],
        ["Padim", "grass", "0", f"{both['image_AUROC_grass']:.3f}"],
        ["Padim", "mean", "0", f"{both['image_AUROC']:.3f}"],
        ["Padim", "brick", "0", f"{rows['brick']['image_AUROC']:.3f}"],
        ["Padim", "grass", "0", f"{rows['grass']['image_AUROC']:.3f}"],
    ]


def test_report_has_both_settings_in_one_table(ran):
    folder, _ = ran
    text = (folder / "out/report/report.md").read_text(encoding="utf-8")
    rows = {row["category"]: row for row in pd.read_csv(folder / "out/results.csv").to_dict("records")}
    both = rows["2 categories"]
    assert "|  | Padim, multi-class | Padim, class-separated |" in text
    for name in ("brick", "grass"):
        expected = [shown(both[f"pixel_AUROC_{name}"]), shown(rows[name]["pixel_AUROC"])]
        assert cells(text, "### Pixel AUROC", name) == expected
        hole = [both[f"kind.{name}/hole.image_AUROC"], rows[name][f"kind.{name}/hole.image_AUROC"]]
        heading = f"### Image AUROC by kind of defect, {name}"
        assert [cells(text, heading, f"Padim, {setting}")[3] for setting in ("multi-class", "class-separated")] == [
            shown(value) for value in hole
        ]
    separated = (rows["brick"]["image_AUROC"] + rows["grass"]["image_AUROC"]) / 2
    assert cells(text, "### Image AUROC", "mean") == [shown(both["image_AUROC"]), shown(separated)]
    assert cells(text, "### Cost", "Padim, multi-class")[0] == "1"
    assert cells(text, "### Cost", "Padim, class-separated")[0] == "2"
    assert "multi-class: one model for all categories. class-separated: one model a category." in text
    # A picture a category, and each training once.
    assert len(re.findall(r"!\[.*best, median", text)) == len(list((folder / "out/pictures").iterdir())) == 4
    told = "Padim, multi-class on 2 categories 0, Padim, class-separated on brick 0, Padim, class-separated on grass 0"
    assert f"# {told};" in text


def frame(*rows):
    """Return a table with the columns that every row has."""
    return pd.DataFrame([
        {"status": "done", "error": None, "seed": 0, "model": "Dinomaly", "dataset": "BTech", **row} for row in rows
    ])


MULTI = {"data.class_path": "anomalib.data.MultiCategory", "data.init_args.dataset": "BTech"}
ONE = {"data.class_path": "BTech"}


def test_other_data_sets_keep_their_names():
    rows = one_row_a_category(
        frame(
            {**MULTI, "category": "2 categories", "image_AUROC": 0.7, "image_AUROC_01": 0.8, "image_AUROC_03": 0.6},
            {**ONE, "category": "01", "image_AUROC": 0.9},
            {**ONE, "dataset": "Visa", "category": "candle", "image_AUROC": 0.5},
        ),
    )
    assert rows[["model", "category", "image_AUROC"]].to_numpy().tolist() == [
        ["Dinomaly, multi-class", "01", 0.8],
        ["Dinomaly, multi-class", "03", 0.6],
        ["Dinomaly, class-separated", "01", 0.9],
        ["Dinomaly", "candle", 0.5],
    ]


def test_one_category_of_the_data_module_is_a_model_of_one():
    rows = one_row_a_category(frame({**MULTI, "category": "01", "image_AUROC": 0.8, "image_AUROC_01": 0.8}))
    assert rows[["model", "category", "image_AUROC"]].to_numpy().tolist() == [["Dinomaly", "01", 0.8]]


@pytest.mark.parametrize(
    ("categories", "failed"),
    [({"category": "all"}, ["01", "02"]), ({"category": "2 categories", "categories": '["02", "03"]'}, ["02", "03"])],
)
def test_what_failed_failed_on_each_category(tmp_path, categories, failed):
    """On those that were asked for, or on all that the data set has."""
    names = {"name": "Dinomaly", "model.class_path": "Dinomaly"}
    table = frame(
        {**ONE, **names, "category": "01", "image_AUROC": 0.9},
        {**ONE, **names, "category": "02", "image_AUROC": 0.7},
        {**MULTI, **names, **categories, "status": "failed", "error": "OutOfMemoryError: no memory"},
    )
    table.drop(columns="model").to_csv(tmp_path / "results.csv", index=False)
    rows = load([tmp_path])
    assert rows[rows["status"] == "failed"][["model", "category"]].to_numpy().tolist() == [
        ["Dinomaly, multi-class", name] for name in failed
    ]
    text = report([tmp_path]).read_text(encoding="utf-8")
    assert cells(text, "### Image AUROC", "02") == ["70.0", "failed"]
    assert f"- Dinomaly, multi-class on {categories['category']} (BTech, seed 0): OutOfMemoryError" in text
    assert text.count("OutOfMemoryError") == 1


def test_names_that_look_like_numbers(tmp_path):
    """BTech's categories, of the single data set and of the joined, in anomalib's own table as well."""
    columns = {"model.class_path": "Padim", "data.init_args.category": "01", "image_AUROC": 0.9}
    several = {"model.class_path": "Padim", "image_AUROC_01": 0.8}
    pd.DataFrame([{**columns, **ONE}, {**several, "image_AUROC_02": 0.5, **MULTI}]).to_csv(tmp_path / "own.csv")
    rows = load([tmp_path / "own.csv"])
    assert rows[["dataset", "model", "category", "image_AUROC"]].to_numpy().tolist() == [
        ["BTech", "Padim, class-separated", "01", 0.9],
        ["BTech", "Padim, multi-class", "01", 0.8],
        ["BTech", "Padim, multi-class", "02", 0.5],
    ]


def test_differences_are_taken_within_a_setting(tmp_path):
    rows = [
        {
            **setting,
            **({"image_AUROC_01": value, "image_AUROC_02": 0.5} if setting == MULTI else {}),
            "image_AUROC": value,
            "category": "01",
            "name": name,
            "baseline": "base",
            "model.class_path": "Padim",
        }
        for setting, values in ((ONE, (0.8, 0.9)), (MULTI, (0.6, 0.65)))
        for name, value in zip(("base", "changed"), values, strict=True)
    ]
    frame(*rows).drop(columns="model").to_csv(tmp_path / "results.csv", index=False)
    text = report([tmp_path]).read_text(encoding="utf-8")
    heading = "### Differences from base, class-separated"
    assert cells(text, heading, "changed, class-separated")[2] == "+10.0"
    heading = "### Differences from base, multi-class"
    assert cells(text, heading, "changed, multi-class")[2] == "+2.5 (+0.0 to +5.0)"


def test_one_model_for_all_has_the_time_of_all():
    """Of 80 minutes each of eight parts, one a category and seed, has ten, of which half is for training."""
    benchmark = {"seed": {"grid": [0, 1]}, "model": padim(minutes="50%"), "data": data("x", {"grid": ALL_AND_EACH})}
    rows = expand(benchmark, "cpu", 80)
    assert [(row.category, row.minutes) for row in rows if row.seed == 0] == [
        ("2 categories", pytest.approx(10)),
        ("brick", pytest.approx(5)),
        ("grass", pytest.approx(5)),
    ]
    with pytest.raises(ValueError, match=r"Padim on all \(DemoSurface.*minutes is '50%'.*categories is 'all'"):
        expand({**benchmark, "data": data("x", "all")}, "cpu", 80)
    # Minutes as a number are what they say.
    assert expand({**benchmark, "model": padim(minutes=3), "data": data("x", "all")}, "cpu")[0].minutes == 3


def test_thresholds_of_each_category_come_with_the_weights(tmp_path):
    """A kept training is tested later with the thresholds that its validation found."""
    from anomalib.engine import Engine
    from anomalib.models import Padim

    from anomalib_transfusion import MultiCategory
    from anomalib_transfusion.categories.post_processing import statistics_of

    def model():
        return Padim(**padim()["init_args"], visualizer=False)

    row = Row("cpu", 0, padim(), data(tmp_path / "surfaces", ["brick", "grass"]))
    kept = Training.of(row, tmp_path, kept=True, temporary=tmp_path)
    trained = model()
    engine = Engine(logger=False, default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1)
    kept.run(engine, trained, MultiCategory(**row.data["init_args"]), kept.timer())
    again = model()
    kept.load_weights(again)
    found = statistics_of(trained)
    assert list(found) == ["brick", "grass"]
    assert statistics_of(again) == found


def test_config_of_the_repository():
    """One model for four categories and one for each, with as many epochs, so as many images of each category."""
    config = yaml.safe_load((ROOT / "configs/benchmark/categories.yaml").read_text())
    _, options, rows = _read(config)
    check_rows(rows)
    assert options == Options(kinds=True)
    categories = ["magnetic_tile", "screw", "cookie", "commutator"]
    for model in ("Patchcore", "TransFusion"):
        of_model = [row for row in rows if row.name == model]
        assert [list(row.categories) for row in of_model] == [categories, *([name] for name in categories)]
        assert len({str((row.model, row.trainer)) for row in of_model}) == 1
    assert json.loads(rows[0].columns()["categories"]) == categories
