"""The web demo, without a browser and in Chromium."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import cifar10
from cifar10.data import CLASSES
from cifar10.data.images import read_image
from cifar10.inference import demo, demo_access


class Constant:
    """Predicts the same probabilities for every image."""

    classes = CLASSES

    def __init__(self, confidence: float):
        self.probabilities = torch.full((10,), (1 - confidence) / 9)
        self.probabilities[3] = confidence

    def predict(self, images):
        return self.probabilities.repeat(len(images), 1)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_the_page_shows_the_input_of_the_network_and_all_classes(photo):
    pixels, probabilities, remark = demo.classify(photo, Constant(0.91), 0.5)
    expected = read_image(photo).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels[:: demo.ZOOM, :: demo.ZOOM], expected)
    assert list(probabilities) == list(CLASSES)
    assert max(probabilities, key=probabilities.get) == CLASSES[3]
    assert remark == ""


def test_low_confidence_gets_a_remark(photo):
    assert "this may be none of the 10 classes" in demo.classify(photo, Constant(0.49), 0.5)[2]
    assert demo.classify(photo, Constant(0.51), 0.5)[2] == ""


def test_five_percent_of_the_test_images_are_below_the_confidence_threshold(trained, sample):
    classifier = cifar10.load(trained)
    threshold = demo.confidence_threshold(classifier)
    confidence = classifier.predict(sample.test_images).amax(1)
    assert (confidence < threshold).float().mean() == pytest.approx(0.05, abs=0.01)
    classifier.classes = ["daisy", "rose"]
    assert demo.confidence_threshold(classifier) == 0


def test_unreadable_files_get_a_message(tmp_path, photo):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    truncated = Path(photo).read_bytes()[:-1000]
    path = tmp_path / "a file.png"
    for content in (b"text", b"", eps, truncated):
        path.write_bytes(content)
        pixels, probabilities, message = demo.classify(str(path), Constant(1), 0.5)
        assert (pixels, probabilities) == (None, None)
        assert message.startswith("**Cannot read this file: ")
        assert str(path) not in message
    assert demo.classify(None, Constant(1), 0.5) == (None, None, "")


def test_the_examples_are_one_test_image_per_class(tmp_path, sample):
    for label, path in enumerate(demo.write_examples(tmp_path)):
        same = (sample.test_images == read_image(path)).flatten(1).all(1)
        assert sample.test_labels[same].tolist() == [label]


def test_missing_gradio_is_reported_in_one_line(cifar, monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _: None)
    code, out, err = cifar("demo")
    assert (code, out) == (2, "")
    assert err == "error: demo: needs gradio; install with: pip install -e '.[demo]'\n"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def command(*words):
    return [sys.executable, "-c", "from cifar10.cli import main; main()", "demo", *map(str, words)]


@pytest.fixture
def address(trained, tmp_path):
    """The address of a page with two models, served by another process."""
    pytest.importorskip("gradio")
    state = torch.load(trained / "best.ckpt", weights_only=True)
    state["hyper_parameters"]["classes"] = [f"thing {number}" for number in range(10)]
    torch.save(state, tmp_path / "another.ckpt")
    port = free_port()
    program = command("-m", trained, "-m", tmp_path / "another.ckpt", "--port", port)
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            assert line == f"Open http://127.0.0.1:{port}/ (Ctrl-C stops the demo)\n"
            yield line.split()[1]
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 0
        finally:
            server.kill()


def test_the_page_listens_locally_and_fetches_no_urls(address, tmp_path):
    with (
        pytest.raises(OSError),
        socket.create_connection((network_address(), int(address[-6:-1])), 5),
    ):
        pass
    assert httpx.get(f"{address}gradio_api/file=https://example.org/x.png").status_code == 403
    page = tmp_path / "page.html"
    page.write_text("<script>alert(1)</script>")
    with page.open("rb") as file:
        (path,) = httpx.post(f"{address}gradio_api/upload", files={"files": file}).json()
    shown = httpx.get(f"{address}gradio_api/file={path}")
    assert shown.headers["content-disposition"].startswith("attachment")
    file = {"path": "https://example.org/x.png", "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(f"{address}gradio_api/call/look", json={"data": [file, "x"]}).json()
    answer = httpx.get(f"{address}gradio_api/call/look/{event['event_id']}", timeout=30)
    assert "event: error" in answer.text
    with tempfile.TemporaryFile() as file:
        file.truncate(21_000_000)
        response = httpx.post(f"{address}gradio_api/upload", files={"files": file})
    assert response.status_code == 413


def test_the_page_reads_only_uploads_and_rejects_other_pages(address, trained, photo):
    call = f"{address}gradio_api/call/look"

    def look(**headers):
        return httpx.post(call, json={"data": [{"path": photo}, trained.name]}, headers=headers)

    answer = httpx.get(f"{call}/{look().json()['event_id']}", timeout=30).text
    assert "event: complete" in answer
    assert json.loads(answer.partition("data: ")[2].splitlines()[0])[0] is None
    host = address.removeprefix("http://").rstrip("/")
    assert look(origin=f"http://{host}").status_code == 200
    assert look(origin="http://evil.example").status_code == 403
    assert look(**{"sec-fetch-site": "cross-site"}).status_code == 403
    assert httpx.get(address).headers["x-frame-options"] == "SAMEORIGIN"
    port = host.partition(":")[2]
    assert look(host=f"evil.example:{port}").status_code == 403
    assert look(host=f"localhost:{port}").status_code == 200
    assert httpx.get(f"{address}monitoring").status_code == 403
    empty = httpx.post(call, json={"data": [None, None]}).json()["event_id"]
    assert "event: complete" in httpx.get(f"{call}/{empty}", timeout=30).text


@pytest.mark.parametrize("host", ["::2", "nowhere.example"])
def test_a_host_without_an_address_is_reported_in_one_line(cifar, host, monkeypatch):
    unknown = Mock(side_effect=socket.gaierror(-2, "Name or service not known"))
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(demo_access.socket, "getaddrinfo", unknown)
    code, out, err = cifar("demo", "--host", host)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {host}:7860: ") and err.count("\n") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]:7860", "192.168.1.2:80", "box", "BOX:7860"])
def test_requests_to_an_address_or_a_name_of_this_machine_are_accepted(host):
    assert demo_access.SameOriginOnly(None, ["Box"]).accepts(host)


@pytest.mark.parametrize("host", ["", "evil.example", "box.evil.example:80", "[", "127.0.0.1.evil"])
def test_requests_to_other_names_are_rejected(host):
    assert not demo_access.SameOriginOnly(None, ["box"]).accepts(host)


def test_a_taken_port_is_reported_in_one_line(cifar, monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _: True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, out, err = cifar("demo", "--port", port)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: 127.0.0.1:{port}: ") and err.count("\n") == 1


def network_address():
    """This machine's address in its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.connect(("192.0.2.1", 9))  # sends nothing
        return connection.getsockname()[0]


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.filterwarnings("default")  # of the browser's driver
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_predictions_and_contacts_no_other_host(address, photo, tmp_path, width):
    driver = pytest.importorskip("playwright.sync_api")
    (tmp_path / "text.png").write_bytes(b"text")
    requested = []
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        page.get_by_text("one of 10 classes").wait_for()
        prediction = page.locator(".output-class")
        page.locator(".gallery-item").nth(3).click()  # an example
        prediction.wait_for()
        page.reload()
        upload = "input[type=file] >> nth=0"
        page.set_input_files(upload, photo)
        prediction.filter(has_text=re.compile("|".join(CLASSES))).wait_for()
        page.get_by_label("Model").click()
        page.get_by_role("option").nth(1).click()
        prediction.filter(has_text="thing").wait_for()
        page.get_by_text("one of 10 classes: thing 0").wait_for()
        page.reload()
        page.get_by_text("one of 10 classes").wait_for()
        page.set_input_files(upload, tmp_path / "text.png")
        page.get_by_text("Cannot read this file").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert requested
    assert all(url.startswith((address, "data:", "blob:")) for url in requested)
