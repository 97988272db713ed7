"""Who can open the web demo, and where: addresses, host names, other web pages."""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from cifar10.core.errors import SettingError

TEXT = (b"content-type", b"text/plain; charset=utf-8")  # header of a refusal


class SameOriginOnly:
    """ASGI middleware that answers 403 to requests from other web pages or to other host names.

    Other pages could send them through a visitor's browser, also under a host name that an attacker
    points at this machine (DNS rebinding); so only IP addresses and `hosts` are accepted.
    """

    UNKNOWN = "Blocked: open the address that `cifar10 demo` printed, or add --allow-host {} to it."
    FOREIGN = "Blocked: another page sent this, or a proxy does not forward the Host header."

    def __init__(self, app: Any, hosts: Iterable[str]):
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            foreign = origin is not None and origin.partition("://")[2] != host
            if headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
                link = "document", "/"
                foreign |= (headers.get(b"sec-fetch-dest"), scope["path"]) != link
            foreign |= scope["path"].endswith("/deep_link")  # writes files
            if foreign or not self.accepts(host):
                name = re.sub(r"[^\w.-]", "", host.partition(":")[0]) or "NAME"
                body = (self.FOREIGN if self.accepts(host) else self.UNKNOWN.format(name)).encode()
                await send({"type": "http.response.start", "status": 403, "headers": [TEXT]})
                await send({"type": "http.response.body", "body": body})
                return

        async def send_unframed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-frame-options", b"SAMEORIGIN")]
            await send(message)

        await self.app(scope, receive, send_unframed)

    def accepts(self, host: str) -> bool:
        """Whether a Host header, with or without a port, names this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self.hosts or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


async def refuse_fetch(host: str) -> str:
    """Replace Gradio's host check, so that no request makes this machine fetch a URL."""
    raise ValueError(f"{host}: fetching URLs is disabled")


def find_address(host: str, port: int) -> str:
    """Resolve a host to the IP address to listen on; SettingError if that is not possible."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        with socket.create_server(address, family=family):
            return str(address[0])
    except (OSError, UnicodeError) as error:
        raise SettingError(
            f"{host}:{port}: cannot listen on this address and port; choose others with "
            "--host and --port"
        ) from error


def shown_address(address: str, host: str) -> str:
    """The host to open in a browser; for 0.0.0.0, an address that other machines can reach."""
    if ipaddress.ip_address(address).is_unspecified:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            with contextlib.suppress(OSError):  # no network; chooses an interface, sends nothing
                probe.connect(("2001:db8::1" if ":" in address else "192.0.2.1", 9))
            host = probe.getsockname()[0]
    return f"[{host}]" if ":" in host else host
