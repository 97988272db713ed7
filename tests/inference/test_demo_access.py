"""Who can open the web demo, and where: addresses, host names, a password."""

import asyncio
import re
import subprocess

import httpx
import pytest

from cifar10.inference import demo, demo_access
from tests.inference.test_demo import command, free_port


@pytest.mark.parametrize(
    ("address", "host", "shown"),
    [
        ("127.0.0.1", "localhost", "localhost"),
        ("::1", "::1", r"\[::1\]"),
        ("0.0.0.0", "0.0.0.0", r"(?!0\.0\.0\.0)[\d.]+"),
        ("::", "::", r"\[.*\]"),
    ],
)
def test_an_address_that_can_be_opened_is_printed(address, host, shown):
    assert re.fullmatch(shown, demo_access.shown_address(address, host))


def test_a_class_name_is_no_markdown():
    shown = demo.plain_markdown("![x](http://evil.example/y)<b>")
    assert shown == r"\!\[x\]\(http\:\/\/evil\.example\/y\)\<b\>"


LINK = ("navigate", "document", "/")


@pytest.mark.parametrize(
    ("site", "mode", "dest", "path", "code"),
    [
        ("same-origin", "cors", "empty", "/config", 200),
        ("same-origin", "navigate", "iframe", "/", 200),
        ("none", *LINK, 200),  # typed
        *((site, *LINK, 200) for site in ("same-site", "cross-site")),
        *(
            (site, *rest, 403)
            for site in ("same-site", "cross-site")
            for rest in (
                ("navigate", "document", "/logout"),
                ("navigate", "iframe", "/"),
                ("navigate", "frame", "/gradio_api/info"),
                ("no-cors", "image", "/config"),
                ("cors", "empty", "/"),
                ("no-cors", None, "/"),
            )
        ),
        (None, None, None, "/config", 200),  # a program, or a browser over plain HTTP
        (None, None, None, "/gradio_api/deep_link", 403),
    ],
)
def test_other_websites_can_only_link_to_the_page(site, mode, dest, path, code):
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    names = {"host": "127.0.0.1:7860", "sec-fetch-site": site}
    names |= {"sec-fetch-mode": mode, "sec-fetch-dest": dest}
    headers = [(key.encode(), value.encode()) for key, value in names.items() if value]
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(demo_access.SameOriginOnly(app, ["box"])(scope, None, send))
    assert sent[0]["status"] == code
    framed = (b"x-frame-options", b"SAMEORIGIN") in sent[0]["headers"]
    assert framed == (code == 200)


@pytest.fixture
def served(trained):
    """Serves the page with options; gives its port and what was printed."""
    pytest.importorskip("gradio")
    servers = []

    def serve(*options):
        port = free_port()
        program = command("-m", trained, "--port", port, *options)
        server = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        servers.append(server)
        return port, server.stdout.readline()

    yield serve
    for server in servers:
        server.kill()
        server.stdout.close()
        server.wait()


@pytest.mark.parametrize("allowed", ["proxy.example", "https://proxy.example:8443/"])
def test_a_name_that_is_allowed_shows_the_page_and_others_say_how(allowed, served):
    port, _ = served("--allow-host", allowed)
    address = f"http://127.0.0.1:{port}/"
    assert httpx.get(address, headers={"host": "proxy.example"}).status_code == 200
    refused = httpx.get(address, headers={"host": "other.example:80"})
    assert (refused.status_code, "--allow-host other.example" in refused.text) == (403, True)


def test_a_password_is_needed_for_every_part_of_the_page(served, trained):
    port, _ = served("--password", "open sesame")
    address = f"http://127.0.0.1:{port}/"
    call = {"data": [None, None]}
    assert httpx.get(f"{address}config").status_code == 401
    assert str(trained.parent) not in httpx.get(address).text  # its login page names the models
    assert httpx.post(f"{address}gradio_api/call/look", json=call).status_code == 401
    assert httpx.post(f"{address}gradio_api/upload", files={"files": b"x"}).status_code == 401
    with httpx.Client() as client:
        wrong = {"username": "me", "password": "guess"}
        assert client.post(f"{address}login", data=wrong).status_code == 400
        right = {"username": "me", "password": "open sesame"}
        assert client.post(f"{address}login", data=right).status_code == 200
        assert client.get(f"{address}config").status_code == 200


def test_the_page_is_served_on_ipv6(served):
    port, line = served("--host", "::1")
    assert line == f"Open http://[::1]:{port}/ (Ctrl-C stops the demo)\n"
    assert httpx.get(f"http://[::1]:{port}/").status_code == 200
