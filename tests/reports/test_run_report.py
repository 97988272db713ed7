"""What a run leaves to look at."""

import re
import shutil
import subprocess

import pytest
import torch
from cifar10.reports.gallery import Gallery
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar10.reports import figures, report
from cifar10.runs import result as results
from cifar10.runs.run import run

NAMES = {*report.CAPTIONS}


def test_a_run_leaves_pictures_a_report_and_tensorboards_images(trained):
    assert {path.stem for path in (trained / "figures").glob("*.png")} == NAMES
    for path in (trained / "figures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 50
            assert len(picture.convert("L").getcolors(1 << 16)) > 4, f"{path} is blank"
    events = EventAccumulator(str(trained)).Reload()
    assert set(events.Tags()["images"]) == NAMES


def test_the_report_needs_no_network_and_has_the_result_and_the_command(trained):
    page = (trained / report.NAME).read_text(encoding="utf-8")
    result = results.read_result(trained / results.RESULT_FILE)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert f"{100 * result['test']['top1']:.2f} %" in page
    assert "python train.py data=sample trainer.max_epochs=2" in page
    assert "seed=0" in page
    assert page.count("data:image/png;base64,") == len(NAMES)


def test_what_the_report_is_told_cannot_run_in_it(trained):
    result = results.read_result(trained / results.RESULT_FILE)
    result["overrides"] = ["x=<script>alert(1)</script>"]
    assert "<script" not in report.page(result, {})


def test_a_failure_to_draw_fails_no_run(tiny, tmp_path, monkeypatch, caplog):
    def broken(_):
        raise ValueError("no such\nfont")

    monkeypatch.setattr(figures, "curves", broken)
    settings = tiny()
    settings["callbacks"]["gallery"] = {"_target_": "cifar10.reports.gallery.Gallery"}
    result = run(settings, tmp_path)
    assert result["status"] == results.read_result(tmp_path / results.RESULT_FILE)["status"] == "ok"
    assert "the run's pictures are incomplete: no such font" in caplog.text


def test_the_gallery_can_be_left_out(tiny, tmp_path):
    run(tiny(), tmp_path)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("images", [7, 9, 10])
def test_answers_of_several_ranks_are_put_back_in_order(images, monkeypatch):
    """Two ranks that each have every second image of a batch of six and one of the rest."""
    logits = torch.arange(images * 2.0).view(images, 2)
    batches = [logits[:6], logits[6:]]
    said = [[batch[rank::2] for batch in batches if len(batch) > rank] for rank in range(2)]

    class Trainer:
        world_size = 2

    def gather(parts, _):
        parts[:] = said

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    gallery = Gallery()
    gallery.said = said[0]
    gallery.on_test_end(Trainer(), None)
    assert torch.equal(torch.cat(gallery.said), logits)


def test_figures_take_little_and_odd_input():
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 1])
    certain = torch.eye(10)[labels]
    names = [str(n) for n in range(10)]
    drawn = [
        figures.curves([{"epoch": 1}]),
        figures.mistakes(images, labels, certain, names),  # there are none
        figures.samples(images, labels, names),
        figures.confusion(torch.zeros(10, 10), names),
        figures.reliability(torch.tensor([0.0, 1.0]), torch.tensor([False, True]), 0.0),
        figures.filters(torch.zeros(1, 3, 2, 2)),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_opens_in_a_browser_without_being_wider_than_it(trained, tmp_path, width):
    page = tmp_path / "page.html"
    text = (trained / report.NAME).read_text(encoding="utf-8")
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
