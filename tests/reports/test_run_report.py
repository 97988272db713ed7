"""The figures and the report page of a run."""

import re
import shutil
import subprocess

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar10.reports import run_report
from cifar10.reports.run_report import CAPTIONS, PAGE, render_page
from cifar10.runs.components import build_components
from cifar10.runs.result import read_result

NAMES = {*CAPTIONS}


def test_a_report_has_figures_a_page_and_tensorboards_images(trained):
    assert {path.stem for path in (trained / "figures").glob("*.png")} == NAMES
    for path in (trained / "figures").iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 50
            assert len(image.convert("L").getcolors(1 << 16)) > 4, f"{path} is blank"
    events = EventAccumulator(str(trained)).Reload()
    assert set(events.Tags()["images"]) == {f"figures/{name}" for name in NAMES}


@pytest.mark.parametrize(
    ("words", "is_changed"),
    [
        (["data.transform=[{_target_: torchvision.transforms.v2.RandomInvert, p: 1}]"], True),
        (["data.flip=none", "data.shift=0", "data.mixup=1"], True),
        (["data.flip=none", "data.shift=0"], False),
    ],
)
def test_the_augmented_images_are_those_that_a_network_sees(
    words, is_changed, settings, tmp_path, trained, monkeypatch
):
    parts = build_components(settings("data=sample", *words), tmp_path)
    parts.data.setup()
    grids, draw = [], run_report.figures.image_grid
    monkeypatch.setattr(
        run_report.figures,
        "image_grid",
        lambda given, **kw: grids.append(given) or draw(given, **kw),
    )
    result = read_result(trained / "result.json")
    del result["rates"]  # an earlier result
    run_report.run_figures(parts.classifier, parts.data, result, [])
    plain = {image.numpy().tobytes() for image in parts.data.images(parts.data.train_indices)}
    assert all((image.numpy().tobytes() in plain) != is_changed for image in grids[0])


def test_the_page_needs_no_network_and_has_the_result_and_the_command(trained):
    page = (trained / PAGE).read_text(encoding="utf-8")
    result = read_result(trained / "result.json")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert f"{result['test']['top1']:.2%}" in page
    assert "python train.py data=sample trainer.max_epochs=2" in page
    assert "seed: 0" in page
    assert page.count("data:image/png;base64,") == len(NAMES)
    for caption in CAPTIONS.values():
        assert caption in page


def test_text_of_a_result_cannot_run_in_the_page(trained):
    result = read_result(trained / "result.json")
    command = "python train.py x=<script>alert(1)</script>"
    assert "<script" not in render_page(result, command, {})


def test_the_page_says_how_many_test_images_were_evaluated(trained):
    result = read_result(trained / "result.json")
    assert "of 500 test images" not in render_page(result, "", {})
    result["data"]["tested"] = 100
    assert "100 of 500 test images" in render_page(result, "", {})


@pytest.mark.parametrize(
    ("chosen", "mode", "text"),
    [("val/loss", "min", "lowest val/loss"), ("val/top1", "max", "highest val/top1")],
)
def test_the_page_names_the_metric_that_chose_the_checkpoint(chosen, mode, text, trained):
    result = read_result(trained / "result.json") | {"chosen_by": chosen, "mode": mode}
    assert f"the checkpoint has the {text}" in render_page(result, "", {})
    assert "the checkpoint has" not in render_page(result | {"chosen_by": None}, "", {})


def test_a_figure_that_fails_is_logged_and_fails_no_run(tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise ValueError("no such\nfont")

    monkeypatch.setattr(run_report, "run_figures", broken)
    assert run_report.write_report(tmp_path, {}, "", None, None, []) is None
    assert "the report is incomplete: no such font" in caplog.text


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_horizontal_scrolling(trained, tmp_path, width):
    page = tmp_path / "page.html"
    text = (trained / PAGE).read_text(encoding="utf-8")
    script = "document.title = document.documentElement.scrollWidth + ' of ' + innerWidth + ' ' + "
    script += "[...document.images].every(i => i.complete && i.naturalWidth > 50)"
    page.write_text(text.replace("</html>", f"<script>onload = () => {{{script}}}</script></html>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    shown = subprocess.run(
        ["chromium", *flags, f"--window-size={width},900", "--dump-dom", page.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<title>(\d+) of (\d+) (\w+)</title>", shown.stdout)
    assert found, shown.stdout[:500]
    assert int(found[1]) <= int(found[2])
    assert found[3] == "true"
