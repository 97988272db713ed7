"""Downloads from an HTTP server on the loopback interface."""

import contextlib
import gzip
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cifar10.data.download import SourceFailed, download

BODY = bytes(range(256)) * 400  # 102,400 bytes
ARCHIVES = {"cifar-10-python.tar.gz": hashlib.sha256(BODY).hexdigest()}
NAME = "cifar-10-python.tar.gz"


def begin(handler, *headers):
    handler.send_response(200)
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()


def endless(handler):
    begin(handler)
    while True:
        handler.wfile.write(BODY)


def too_large(handler):
    begin(handler, ("Content-Length", str(10**12)))
    handler.wfile.write(BODY)


def compressed(handler):
    begin(handler, ("Content-Encoding", "gzip"))
    handler.wfile.write(gzip.compress(bytes(10**7)))


def dripping(handler):
    begin(handler)
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.01)


def dripping_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-A: b\r\n")
        time.sleep(0.01)


def dripping_line(handler):
    while True:
        handler.wfile.write(b"H")
        time.sleep(0.01)


def dripping_chunks(handler):
    begin(handler, ("Transfer-Encoding", "chunked"))
    handler.wfile.write(b"1;")
    while True:
        handler.wfile.write(b"a")
        time.sleep(0.01)


def breaking(handler):  # delivers a byte in each connection
    begin(handler, ("Content-Length", str(len(BODY))))
    handler.wfile.write(b"x")


def wrong_length(handler):
    begin(handler, ("Content-Length", "much"))


ODD = {
    "endless": endless,
    "too-large": too_large,
    "compressed": compressed,
    "dripping": dripping,
    "dripping-headers": dripping_headers,
    "dripping-line": dripping_line,
    "dripping-chunks": dripping_chunks,
    "breaking": breaking,
    "wrong-length": wrong_length,
    "416": lambda handler: handler.send_error(416),
    "not-http": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "loop": lambda handler: (
        handler.send_response(302),
        handler.send_header("Location", handler.path),
        handler.end_headers(),
    ),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        kind = self.path.split("/")[1]
        if kind in ODD:
            return ODD[kind](self)
        if kind == "503":
            return self.send_error(503)
        body = b"<html>log in first</html>" if kind == "portal" else BODY
        start = 0
        if (wanted := self.headers.get("Range")) and kind != "no-ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if kind == "silent":
            return time.sleep(1)
        if kind == "breaks" and start < 50_000:
            self.wfile.write(body[start : start + 30_000])
            return self.wfile.flush()
        return self.wfile.write(body[start:])

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client left
            super().handle()


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("cifar10.data.download.PATIENCE", 0.3)
    monkeypatch.setattr("cifar10.data.download.LEAST", 1000)


def urls(server, *kinds):
    return [f"http://127.0.0.1:{server.server_port}/{kind}/{NAME}" for kind in kinds]


def test_the_first_source_that_works_is_used(server, tmp_path):
    sources = ["http://127.0.0.1:9/x", "http://[::1", *urls(server, "503", "portal", "good")]
    assert (path := download(sources, tmp_path, ARCHIVES)) == tmp_path / NAME
    assert path.read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_all_failures_are_listed_and_no_file_remains(server, tmp_path):
    sources = [*urls(server, "503", "portal"), "nonsense://x", "npm:"]
    with pytest.raises(SourceFailed) as failure:
        download(sources, tmp_path, ARCHIVES)
    lines = str(failure.value).splitlines()
    assert len(lines) == 4 and all(": " in line for line in lines)
    assert "HTTP 503" in lines[0] and "not a CIFAR-10 archive" in lines[1]
    assert not any(tmp_path.iterdir())


def test_a_broken_connection_resumes_where_it_broke(server, tmp_path):
    assert download(urls(server, "breaks"), tmp_path, ARCHIVES).read_bytes() == BODY
    ranges = [value for _, value in server.requests]
    assert ranges == [None, "bytes=30000-", "bytes=60000-"]


def test_a_later_start_resumes_the_part_file_even_from_another_source(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:70_000])
    assert download(urls(server, "good"), tmp_path, ARCHIVES).read_bytes() == BODY
    assert [value for _, value in server.requests] == ["bytes=70000-"]


@pytest.mark.parametrize("length", [70_000, len(BODY), len(BODY) + 5])
def test_a_foreign_part_file_is_discarded(length, server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * length)
    assert download(urls(server, "good"), tmp_path, ARCHIVES).read_bytes() == BODY


def test_a_server_without_ranges_starts_from_the_beginning(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:70_000])
    assert download(urls(server, "no-ranges"), tmp_path, ARCHIVES).read_bytes() == BODY


def test_a_complete_part_file_is_accepted(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(BODY)
    assert download(urls(server, "good"), tmp_path, ARCHIVES).read_bytes() == BODY


def test_a_silent_source_times_out_and_the_next_one_is_tried(server, tmp_path, monkeypatch):
    monkeypatch.setattr("cifar10.data.download.READ_TIMEOUT", 0.2)
    assert download(urls(server, "silent", "good"), tmp_path, ARCHIVES).read_bytes() == BODY


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.usefixtures("impatient")
def test_a_source_without_an_end_or_a_beginning_leads_to_the_next(
    kind, server, tmp_path, monkeypatch
):
    monkeypatch.setattr("cifar10.data.download.LARGEST", largest := 3 * len(BODY))
    sizes, write = [], type(tmp_path).open

    def recorded(path, *args, **kwargs):
        sizes.append(path.stat().st_size if path.exists() else 0)
        return write(path, *args, **kwargs)

    monkeypatch.setattr(type(tmp_path), "open", recorded)
    assert download(urls(server, kind, "good"), tmp_path, ARCHIVES).read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert max(sizes, default=0) <= largest


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind.startswith("dripping")])
@pytest.mark.usefixtures("impatient")
def test_a_source_that_was_cut_is_called_slow(kind, server, tmp_path):
    with pytest.raises(SourceFailed, match=r"less than 1,000 bytes in 0\.3 s"):
        download(urls(server, kind), tmp_path, ARCHIVES)


def test_a_url_may_be_longer_than_a_file_name(server, tmp_path):
    sources = [url + "x" * 300 for url in urls(server, "good")]
    assert download(sources, tmp_path, ARCHIVES).read_bytes() == BODY


def test_a_symbolic_link_in_the_data_folder_is_not_written_through(server, tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "data"
    victim.write_text("precious")
    folder.mkdir()
    for name in (f"{NAME}.part", NAME):
        (folder / name).symlink_to(victim)
    assert download(urls(server, "works"), folder, ARCHIVES).read_bytes() == BODY
    assert victim.read_text() == "precious"
