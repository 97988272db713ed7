"""Reject requests that other web pages send to the demo through a visitor's browser."""

import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit


class SameOriginOnly:
    """ASGI middleware that answers 403 to foreign `Origin` and `Host` headers.

    Args:
        app: the guarded ASGI application.
        hosts: names of this machine that are accepted besides IP addresses; any other name may
            have been pointed here by somebody else (DNS rebinding).
    """

    MESSAGE = b"Request from another page or host name; open this page at its own address."

    def __init__(self, app: Any, hosts: Iterable[str]):
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            foreign = origin is not None and origin.partition("://")[2] != host
            if foreign or not self.accepts(host):
                kind = [(b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 403, "headers": kind})
                await send({"type": "http.response.body", "body": self.MESSAGE})
                return
        await self.app(scope, receive, send)

    def accepts(self, host: str) -> bool:
        """Whether a Host header, `name` or `name:port`, names this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self.hosts or bool(ipaddress.ip_address(name))
        except ValueError:
            return False
