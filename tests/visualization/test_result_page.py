# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The page of a run in a real browser, opened from the file system."""

import os
import shutil
import sys
import time
from dataclasses import replace

import pytest
import yaml
from anomalib.engine import Engine
from PIL import Image
from result_pages import anomalib, embedded

from anomalib_transfusion.visualization.result_page import Result, Summary, write_page

SUMMARY = Summary("TransFusion", "brick & <mortar>", "2026-01-02 03:04 UTC", 0.5, "A note with <b>.", 0.9876)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# What makes trouble in addresses, in markup, and in the data inside of the page.
NAMES = (
    'two words/it\'s "quoted".png',
    "größe/Лак é 漆.png",
    "</script><script>alert(1)</script>.png",
    "<img src=x onerror=alert(1)>/a&amp;b.png",
    "50%25/a?b#c%20d.png",
    "javascript:alert(1)/+.png",
)
ANY_NAME = sys.platform.startswith("linux")


@pytest.fixture(scope="module")
def chromium():
    """Return a headless browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[test]'")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Return a function that opens a page; it must neither complain nor ask for anything but files."""
    contexts, complaints = [], []

    def open_page(path, **settings):
        contexts.append(chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings}))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def write(folder, results, summary=SUMMARY):
    """Write a page with small sheets, each of a width of its own."""
    for number, result in enumerate(results):
        path = folder / result.sheet
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60 + number % 40, 20), (number % 256, 90, 90)).save(path)
    return write_page(folder, results, summary)


def result(sheet, score, verdict=None, truth=None):
    """Return a row of a page."""
    kind = sheet.rsplit("/", 2)[-2] if "/" in sheet else ""
    return Result(sheet, kind, score, verdict, truth, (60, 20))


def names(page):
    """Return the names in the order in which they are shown."""
    return page.locator("li .name").all_text_contents()


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Return the page of a run with every outcome."""
    return write(
        tmp_path_factory.mktemp("judged"),
        [
            result("test/good/quiet.png", 0.1, verdict=False, truth=False),
            result("test/good/alarm 1.png", 0.6, verdict=True, truth=False),
            result("test/good/alarm 2.png", 0.8, verdict=True, truth=False),
            result("test/scratch/clear.png", 0.95, verdict=True, truth=True),
            result("test/scratch/faint.png", 0.3, verdict=False, truth=True),
            result("test/hole/deep.png", 0.7, verdict=True, truth=True),
        ],
    )


MISTAKES = ["test/good/alarm 2.png", "test/good/alarm 1.png", "test/scratch/faint.png"]
REST = ["test/scratch/clear.png", "test/hole/deep.png", "test/good/quiet.png"]


def test_mistakes_come_first_and_the_rest_by_score(visit, judged):
    page = visit(judged)
    assert names(page) == MISTAKES + REST
    assert page.locator("li .outcome").all_text_contents() == [
        *["false alarm", "false alarm", "miss", "defect found", "defect found", "good passed"],
    ]
    assert page.locator("li .score").all_text_contents()[:2] == ["0.8000", "0.6000"]
    page.get_by_label("Order").select_option("lowest score first")
    assert names(page) == ["test/good/quiet.png", "test/scratch/faint.png", "test/good/alarm 1.png", *names(page)[3:]]
    page.get_by_label("Order").select_option("highest score first")
    assert names(page) == [REST[0], MISTAKES[0], REST[1], MISTAKES[1], MISTAKES[2], REST[2]]


def test_head(visit, judged):
    page = visit(judged)
    assert page.title() == page.locator("h1").text_content() == "TransFusion: brick & <mortar>"
    facts = dict(
        zip(page.locator("dt").all_text_contents(), page.locator("dd").all_text_contents(), strict=True),
    )
    assert facts == {
        "Images": "6",
        "Defects": "3",
        "False alarms": "2",
        "Misses": "1",
        "Threshold": "0.5000",
        "Image AUROC": "0.988",
    }
    assert page.locator("#date").text_content() == SUMMARY.date
    assert page.locator("#note").text_content() == SUMMARY.threshold_note


def test_filters(visit, judged):
    page = visit(judged)
    page.get_by_text("false alarm (2)").click()
    assert names(page) == MISTAKES[:2]
    assert page.locator("#count").text_content() == "2 of 6 images"
    page.get_by_label("Kind").select_option(label="scratch (2)")
    assert names(page) == []
    assert page.get_by_text("No image is of this kind and outcome.").is_visible()
    page.get_by_text("miss (1)").click()
    assert names(page) == ["test/scratch/faint.png"]
    page.get_by_text("all (6)").first.click()
    assert names(page) == ["test/scratch/faint.png", "test/scratch/clear.png"]
    # By the keyboard alone: a group of radio buttons.
    page.locator("#outcomes input:checked").focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_label("Kind").select_option(label="all (6)")
    assert names(page) == ["test/good/quiet.png"]


def test_filter_by_category(visit, judged, tmp_path):
    """With the other filters, and only where there are several; a category may be called anything."""
    page = visit(judged)
    assert page.locator("#category").is_hidden()
    rows = [
        replace(
            result(f"{category}/{kind}/{number}.png", number / 4, verdict=number > 1, truth=kind != "good"),
            category=category,
        )
        for category in ("wood", "01", "<b>")
        for kind in ("good", "hole")
        for number in range(3)
    ]
    page = visit(write(tmp_path, rows))
    options = page.get_by_label("Category").locator("option").all_text_contents()
    assert sorted(options) == ["01 (6)", "<b> (6)", "all (18)", "wood (6)"]
    page.get_by_label("Category").select_option(label="01 (6)")
    page.get_by_label("Order").select_option(label="name")
    assert names(page) == [f"01/{kind}/{number}.png" for kind in ("good", "hole") for number in range(3)]
    page.get_by_label("Kind").select_option(label="hole (9)")
    page.get_by_text("defect found (3)").click()
    assert names(page) == ["01/hole/2.png"]
    assert page.locator("#count").text_content() == "1 of 18 images"


def test_large_view_by_keyboard(visit, judged):
    page = visit(judged)
    shown = page.locator("dialog .name")
    page.locator("li a").first.focus()
    page.keyboard.press("Enter")
    assert shown.text_content() == MISTAKES[0]
    assert page.locator("#place").text_content() == "1 of 6"
    assert page.locator("#previous").is_disabled()
    for expected in (MISTAKES + REST)[1:]:
        page.keyboard.press("ArrowRight")
        assert shown.text_content() == expected
    assert page.locator("#next").is_disabled()
    page.keyboard.press("ArrowRight")
    assert shown.text_content() == REST[-1]
    page.keyboard.press("Home")
    # With the mouse too, up to where the button under it is disabled; the keys go on from there.
    for _ in range(5):
        page.get_by_role("button", name="Next").click()
    assert page.locator("#next").is_disabled()
    page.keyboard.press("ArrowLeft")
    assert shown.text_content() == REST[-2]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert shown.text_content() == MISTAKES[1]
    page.wait_for_function("document.querySelector('dialog img').naturalWidth === 61")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    # One goes on from the sheet that one saw last. Browsers tell of the closing a moment after it.
    focused = "document.activeElement.closest('li')?.querySelector('.name').textContent"
    page.wait_for_function(f"{focused} === '{MISTAKES[1]}'")


@pytest.mark.skipif(not ANY_NAME, reason="needs a file system that takes any name: Linux")
def test_special_characters(visit, tmp_path):
    sheets = [*NAMES, os.fsdecode(b"bytes/\xff\xfe.png")]
    results = [result(sheet, number / 10, verdict=False, truth=False) for number, sheet in enumerate(sheets)]
    page = visit(write(tmp_path / "a folder with #, % and ü", results))
    images = page.locator("li img")
    for number, width in enumerate(reversed(range(60, 60 + len(sheets)))):
        images.nth(number).scroll_into_view_if_needed()
        page.wait_for_function(f"document.querySelectorAll('li img')[{number}].naturalWidth === {width}")
    assert names(page)[1:] == list(reversed(NAMES))
    # The page has only its own two scripts, and no element that a name brought along.
    assert page.locator("script").count() == 2
    assert page.locator("[onerror]").count() == 0
    kinds = page.locator("#kind option").all_text_contents()
    assert {"größe (1)", "script><script>alert(1)< (1)", "<img src=x onerror=alert(1)> (1)"} <= set(kinds)
    page.get_by_label("Kind").select_option(label="größe (1)")
    assert names(page) == [NAMES[1]]


def test_thousand_images(visit, tmp_path):
    """They are there in a moment, and only the pictures in sight are read."""
    results = [result(f"test/k{n % 7}/{n:04}.png", n / 1000, verdict=n > 500, truth=n % 7 > 0) for n in range(1000)]
    path = write(tmp_path, results)
    started = time.perf_counter()
    page = visit(path)
    assert page.locator("li").count() == 1000
    page.wait_for_function("document.querySelector('li img').naturalWidth > 0")
    loaded = page.evaluate("[...document.querySelectorAll('li img')].filter(image => image.naturalWidth).length")
    assert 0 < loaded < 300
    page.get_by_text("miss (", exact=False).first.click()
    misses = [n for n in range(1000) if n <= 500 and n % 7 > 0]
    assert page.locator("#count").text_content() == f"{len(misses)} of 1000 images"
    assert names(page)[0] == f"test/k{misses[-1] % 7}/{misses[-1]:04}.png"
    page.locator("li img").last.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('li img')].at(-1).naturalWidth > 0")
    assert time.perf_counter() - started < 15


def test_without_labels(visit, tmp_path):
    """No outcome, and the score alone orders."""
    page = visit(write(tmp_path, [result("a/1.png", 0.2, verdict=False), result("a/2.png", 0.7, verdict=True)]))
    assert names(page) == ["a/2.png", "a/1.png"]
    assert page.locator("li .outcome").all_text_contents() == ["called defect", "called good"]
    assert "mistakes first" not in page.locator("#order option").all_text_contents()
    assert page.locator("dt").all_text_contents()[:2] == ["Images", "Called defect"]
    assert not page.get_by_label("Kind").is_visible()
    page.get_by_text("called defect (1)").click()
    assert names(page) == ["a/2.png"]


def test_without_a_threshold(visit, tmp_path):
    """Scores of any size, one of them no number: no verdict and no filter by it."""
    rows = [result("a/1.png", 3.5, truth=True), result("a/2.png", float("nan")), result("b/3.png", 40.0)]
    summary = Summary("TransFusion", "", "today", None, "There is none.")
    page = visit(write(tmp_path, rows, summary))
    assert names(page) == ["b/3.png", "a/1.png", "a/2.png"]
    assert page.locator("li .score").all_text_contents() == ["40.00", "3.500", "nan"]
    assert page.locator("li .outcome").count() == 0
    assert not page.locator("#outcomes").is_visible()
    assert page.locator("dd").all_text_contents() == ["3", "1", "none"]


@pytest.mark.parametrize(("parts", "shown"), [((), [0]), (((0, 40), (42, 60)), [0, 42])])
def test_large_view_shows_all_parts(visit, tmp_path, parts, shown):
    """Below each other, on one scale, within the window."""
    path = write(tmp_path, [Result("a/1.png", "a", 0.5, None, None, (60, 20), parts)])
    page = visit(path)
    page.locator("li a").first.click()
    boxes = [part.bounding_box() for part in page.locator(".part").all()]
    scale = boxes[0]["width"] / (parts[0][1] if parts else 60)
    assert scale > 5
    for left, box, image in zip(shown, boxes, page.locator(".part img").all(), strict=True):
        assert box["height"] == pytest.approx(20 * scale, abs=1)
        assert box["y"] + box["height"] < 800
        whole = image.bounding_box()
        assert whole["width"] == pytest.approx(60 * scale, abs=1)
        assert box["x"] - whole["x"] == pytest.approx(left * scale, abs=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1600])
def test_nothing_is_cut_off(visit, judged, scheme, width):
    page = visit(judged, viewport={"width": width, "height": 700}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("li a").first.click()
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= width
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(color.split("(")[1].split(",")[0]) < 128) == (scheme == "dark")


@pytest.fixture(scope="module")
def project(surface_root, tmp_path_factory):
    """Return a folder with a short training, and the arguments that fit its checkpoint."""
    from anomalib_transfusion import DemoSurface, TransFusion
    from conftest import SURFACE, TINY

    folder = tmp_path_factory.mktemp("project")
    model = TransFusion(**TINY, visualizer=False, pre_processor=TransFusion.configure_pre_processor((32, 32)))
    engine = Engine(
        default_root_dir=folder / "trained",
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
    )
    engine.fit(model, datamodule=DemoSurface(root=surface_root, **SURFACE))
    parameters = {name: list(value) if isinstance(value, tuple) else value for name, value in TINY.items()}
    resize = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [32, 32]}}
    parameters["pre_processor"] = {
        "class_path": "anomalib.pre_processing.PreProcessor",
        "init_args": {"transform": resize},
    }
    config = {"model": {"class_path": "TransFusion", "init_args": parameters}, "trainer": {"accelerator": "cpu"}}
    (folder / "predict.yaml").write_text(yaml.safe_dump(config))
    data = {**SURFACE, "root": str(surface_root), "image_size": [64, 64]}
    config["data"] = {"class_path": "DemoSurface", "init_args": data}
    (folder / "test.yaml").write_text(yaml.safe_dump(config))
    return folder, engine.trainer.checkpoint_callback.best_model_path


def test_command_test_writes_a_page(project, visit):
    folder, checkpoint = project
    printed = anomalib("test", "--config", "test.yaml", "--ckpt_path", checkpoint, folder=folder)
    [path] = (folder / "results").rglob("index.html")
    assert str(path) in printed
    page = visit(path)
    assert page.locator("h1").text_content() == "TransFusion: DemoSurface, brick"
    outcomes = page.locator("li .outcome").all_text_contents()
    assert len(outcomes) == 7
    mistakes = [outcome in {"false alarm", "miss"} for outcome in outcomes]
    assert mistakes == sorted(mistakes, reverse=True)
    for number in range(7):
        page.locator("li img").nth(number).scroll_into_view_if_needed()
        page.wait_for_function(f"document.querySelectorAll('li img')[{number}].naturalWidth > 1000")


def test_command_predict_writes_a_page(project, visit, surface_root):
    folder, checkpoint = project
    images = folder / "new parts & <odd>"
    images.mkdir()
    for number, path in enumerate(sorted((surface_root / "brick/test").rglob("*.png"))[:3]):
        shutil.copy(path, images / f"teil ü 100% #{number}.png")
    arguments = ["--config", "predict.yaml", "--data", images, "--ckpt_path", checkpoint]
    printed = anomalib("predict", *arguments, "--default_root_dir", "predicted", folder=folder)
    [path] = (folder / "predicted").rglob("index.html")
    assert str(path) in printed
    page = visit(path)
    assert set(page.locator("li .outcome").all_text_contents()) <= {"called defect", "called good"}
    scores = [row["score"] for row in embedded(path)["results"]]
    assert page.locator("li .score").all_text_contents() == [f"{score:#.4g}" for score in sorted(scores, reverse=True)]
    for number in range(3):
        page.locator("li img").nth(number).scroll_into_view_if_needed()
        page.wait_for_function(f"document.querySelectorAll('li img')[{number}].naturalWidth > 1000")
