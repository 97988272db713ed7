"""The page that says what is on a picture, without a browser and in one."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import cifar10
from cifar10.data import CLASSES
from cifar10.inference import demo
from cifar10.inference import demo_access as guard


class Sure:
    """Gives every image the same probabilities."""

    classes = CLASSES

    def __init__(self, highest: float):
        self.chances = torch.full((10,), (1 - highest) / 9)
        self.chances[3] = highest

    def predict(self, images):
        return self.chances.repeat(len(images), 1)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_a_picture_is_shown_as_the_network_sees_it_with_every_class(picture):
    seen, named, remark = demo.answer(picture, Sure(0.91), 0.5)
    pixels = cifar10.data.images.read(picture).permute(1, 2, 0).numpy()
    assert np.array_equal(seen[:: demo.LARGER, :: demo.LARGER], pixels)
    assert list(named) == list(CLASSES)
    assert max(named, key=named.get) == CLASSES[3]
    assert remark == ""


def test_doubt_is_said_where_the_network_is_less_sure_than_of_its_own_images(picture):
    assert "may be none of the ten" in demo.answer(picture, Sure(0.49), 0.5)[2]
    assert demo.answer(picture, Sure(0.51), 0.5)[2] == ""


def test_its_own_images_are_seldom_doubted_and_other_classes_never(trained, sample):
    classifier = cifar10.load(trained)
    doubt = demo.least_sure(classifier)
    surest = classifier.predict(sample.test_images).amax(1)
    assert (surest < doubt).float().mean() == pytest.approx(0.05, abs=0.01)
    classifier.classes = ["daisy", "rose"]
    assert demo.least_sure(classifier) == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"nothing", "is no picture"),
        (b"", "is empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture"),
    ],
)
def test_a_file_that_is_no_picture_is_answered_and_nothing_is_shown(tmp_path, content, why):
    (tmp_path / "rub bish.png").write_bytes(content)
    said = f"**This file {why}.**"
    assert demo.answer(str(tmp_path / "rub bish.png"), Sure(1), 0.5) == (None, None, said)
    assert demo.answer(None, Sure(1), 0.5) == (None, None, "")


def test_a_picture_that_is_cut_off_is_answered(picture):
    data = Path(picture).read_bytes()
    Path(picture).write_bytes(data[: len(data) // 2])
    said = demo.answer(picture, Sure(1), 0.5)[2]
    assert said.startswith("**This file cannot be read (")
    assert picture not in said


def test_the_examples_are_test_images_of_the_sample_one_of_each_class(tmp_path, sample):
    for label, path in enumerate(demo.examples(tmp_path)):
        shown = cifar10.data.images.read(path)
        same = (sample.test_images == shown).flatten(1).all(1)
        assert sample.test_labels[same].tolist() == [label]


def test_without_gradio_one_line_says_what_to_install(cifar, trained, monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _: None)
    code, out, err = cifar("demo", "--model", trained)
    assert (code, out) == (2, "")
    assert err == "error: demo: Gradio must be installed: pip install -e '.[demo]'\n"


def free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def command(*words):
    return [sys.executable, "-c", "from cifar10.cli import main; main()", "demo", *map(str, words)]


@pytest.fixture
def address(trained, tmp_path):
    """Of a page with two networks, served by a process of its own."""
    pytest.importorskip("gradio")
    state = torch.load(trained / "best.ckpt", weights_only=True)
    state["hyper_parameters"]["classes"] = [f"thing {number}" for number in range(10)]
    torch.save(state, tmp_path / "an other.ckpt")
    port = free_port()
    program = command("-m", trained, "-m", tmp_path / "an other.ckpt", "--port", port)
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            assert line == f"look at http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
            yield line.split()[2]
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 0
        finally:
            server.kill()


def test_it_listens_to_this_machine_alone_and_fetches_nothing(address, tmp_path):
    with pytest.raises(OSError), socket.create_connection((own_address(), int(address[-6:-1])), 5):
        pass
    assert httpx.get(f"{address}gradio_api/file=https://example.org/x.png").status_code == 403
    page = tmp_path / "page.html"
    page.write_text("<script>alert(1)</script>")
    with page.open("rb") as file:
        (path,) = httpx.post(f"{address}gradio_api/upload", files={"files": file}).json()
    shown = httpx.get(f"{address}gradio_api/file={path}")
    assert shown.headers["content-disposition"].startswith("attachment")
    file = {"path": "https://example.org/x.png", "meta": {"_type": "gradio.FileData"}}
    asked = httpx.post(f"{address}gradio_api/call/look", json={"data": [file, "x"]})
    told = httpx.get(f"{address}gradio_api/call/look/{asked.json()['event_id']}", timeout=30)
    assert "event: error" in told.text
    with tempfile.TemporaryFile() as file:
        file.truncate(21_000_000)
        refused = httpx.post(f"{address}gradio_api/upload", files={"files": file})
    assert refused.status_code == 413


def test_it_reads_no_file_but_its_own_and_answers_no_other_page(address, trained, picture):
    call = f"{address}gradio_api/call/look"

    def look(**headers):
        return httpx.post(call, json={"data": [{"path": picture}, str(trained)]}, headers=headers)

    told = httpx.get(f"{call}/{look().json()['event_id']}", timeout=30).text
    assert "event: complete" in told
    assert json.loads(told.partition("data: ")[2].splitlines()[0])[0] is None
    own = address.removeprefix("http://").rstrip("/")
    assert look(origin=f"http://{own}").status_code == 200
    assert look(origin="http://evil.example").status_code == 403
    port = own.partition(":")[2]
    assert look(host=f"evil.example:{port}").status_code == 403
    assert look(host=f"localhost:{port}").status_code == 200
    assert httpx.get(f"{address}monitoring").status_code == 403
    odd = httpx.post(call, json={"data": [None, None]}).json()["event_id"]
    assert "event: complete" in httpx.get(f"{call}/{odd}", timeout=30).text


@pytest.mark.parametrize("host", ["::1", "nowhere.example"])
def test_a_host_that_cannot_be_listened_at_is_one_line(cifar, trained, host, monkeypatch):
    def unknown(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(demo, "require", lambda: None)
    monkeypatch.setattr(guard.socket, "getaddrinfo", unknown)
    code, out, err = cifar("demo", "--model", trained, "--host", host)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {host}:7860: ") and err.count("\n") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]:7860", "192.168.1.2:80", "box", "BOX:7860"])
def test_the_page_may_be_called_by_its_names_and_by_any_address(host):
    assert guard.OwnPage(None, ["Box"]).may_be_called(host)


@pytest.mark.parametrize("host", ["", "evil.example", "box.evil.example:80", "[", "127.0.0.1.evil"])
def test_the_page_may_not_be_called_by_others_names(host):
    assert not guard.OwnPage(None, ["box"]).may_be_called(host)


def test_a_port_that_is_taken_is_told_of_in_one_line(trained):
    pytest.importorskip("gradio")
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        some.listen()
        port = some.getsockname()[1]
        program = command("-m", trained, "--port", port)
        said = subprocess.run(program, check=False, capture_output=True, text=True, timeout=120)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith(f"error: 127.0.0.1:{port}: ")
    assert len(said.stderr.splitlines()) == 1


def own_address():
    """This machine's address in its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as some:
        some.connect(("192.0.2.1", 9))  # nothing is sent
        return some.getsockname()[0]


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.filterwarnings("default")  # of the browser's driver
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_pictures_are_answered_and_no_other_host_is_asked(
    address, picture, tmp_path, width
):
    driver = pytest.importorskip("playwright.sync_api")
    (tmp_path / "rubbish.png").write_bytes(b"nothing")
    asked = []
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_text("one of 10 things").wait_for()
        answer = page.locator(".output-class")
        page.locator(".gallery-item").nth(3).click()  # an example
        answer.wait_for()
        page.reload()
        upload = "input[type=file] >> nth=0"
        page.set_input_files(upload, picture)
        answer.filter(has_text=re.compile("|".join(CLASSES))).wait_for()
        page.get_by_label("network").click()
        page.get_by_role("option").nth(1).click()
        answer.filter(has_text="thing").wait_for()
        page.get_by_text("one of 10 things, whatever it is shown: thing 0").wait_for()
        page.reload()
        page.get_by_text("one of 10 things").wait_for()
        page.set_input_files(upload, tmp_path / "rubbish.png")
        page.get_by_text("This file is no picture").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert asked
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
