"""Where a local page listens, and whose requests it answers."""

import ipaddress
import os
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from cifar10.core.errors import SettingError


class OwnPage:
    """ASGI middleware that lets no other web page speak to this one through a visitor's browser.

    Args:
        app: what is guarded.
        hosts: names that this machine may be called by, besides any IP address: a name of somebody
            else may be made to lead here (DNS rebinding).
    """

    REFUSAL = b"asked by another page, or under another name: open this page at its own address"

    def __init__(self, app: Any, hosts: Sequence[str]):
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            foreign = origin is not None and origin.partition("://")[2] != host
            if foreign or not self.may_be_called(host):
                kind = [(b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 403, "headers": kind})
                await send({"type": "http.response.body", "body": self.REFUSAL})
                return
        await self.app(scope, receive, send)

    def may_be_called(self, host: str) -> bool:
        """Whether a Host header, `name` or `name:port`, is this machine's."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self.hosts or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def address_of(host: str, port: int) -> str:
    """The IPv4 address to listen at, once it was found free.

    Raises:
        SettingError: no listening there.
    """
    try:
        (*_, place), *_ = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
        with socket.socket() as some:
            if os.name != "nt":  # where it would let a port be taken twice
                some.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            some.bind(place)
    except (OSError, UnicodeError) as error:
        raise taken(host, port) from error
    return place[0]


def taken(host: str, port: int) -> SettingError:
    return SettingError(
        f"{host}:{port}: this IPv4 address cannot be listened at, or the port is taken; choose "
        "others with --host and --port"
    )
