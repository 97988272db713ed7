"""Fetch one verified archive from the first source that works."""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

# 170 MB take under 12 minutes at this rate; the official host has long served a quarter of it.
MIN_SPEED = 250_000  # bytes a second
WINDOW = 10.0  # seconds over which the speed is judged
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0  # seconds
NPM_TIMEOUT = 1800.0  # seconds


class SourceFailed(Exception):
    """A source did not give the archive; the message says why."""


class TooSlow(SourceFailed):
    """A source was given up for its speed; it may still be the best there is."""


def download(
    sources: Sequence[str],
    directory: Path,
    archives: Mapping[str, str],
    min_speed: float = MIN_SPEED,
    window: float = WINDOW,
) -> Path:
    """Fetch the first archive that a source gives whole.

    A source slower than `min_speed` is left for the next one; when all others have failed, the
    slow ones are asked again and given their time. What has arrived stays in a `.part` file, from
    which the next source, or the next start, goes on.

    Args:
        sources: URLs, or `npm:PACKAGE@VERSION`, in the order to try them.
        directory: where the archive goes, under its official name.
        archives: SHA-256 of each known archive, by its official name.
        min_speed: bytes a second, averaged over `window` seconds.

    Returns:
        The path of the archive, whose SHA-256 has been checked.

    Raises:
        SourceFailed: none works; a line for each source says why.
        OSError: the folder cannot be written to, or is full.
    """
    failures: dict[str, str] = {}
    slow = []
    for source in sources:
        try:
            return fetch(source, directory, archives, min_speed, window)
        except TooSlow as failure:
            slow.append(source)
            failures[source] = str(failure)
        except SourceFailed as failure:
            failures[source] = str(failure)
        log.info("%s: %s", source, failures[source])
    for source in slow:
        try:
            return fetch(source, directory, archives, 0.0, window)
        except SourceFailed as failure:
            failures[source] = str(failure)
    raise SourceFailed("\n".join(f"{source}: {why}" for source, why in failures.items()))


def fetch(
    source: str,
    directory: Path,
    archives: Mapping[str, str],
    min_speed: float,
    window: float,
) -> Path:
    """Fetch an archive from one source and check its digest."""
    log.info("fetching CIFAR-10 from %s", source)
    if source.startswith("npm:"):
        part = npm_pack(source.removeprefix("npm:"), directory)
        return accept(part, directory, archives)
    try:
        part = directory / f"{Path(urlsplit(source).path).name or 'archive'}.part"
    except ValueError as error:
        raise SourceFailed(f"is no URL: {error}") from error
    resumed = part.exists()
    try:
        stream(source, part, min_speed, window)
        return accept(part, directory, archives)
    except TooSlow:
        raise
    except SourceFailed:
        if not resumed or part.exists():
            raise
    # What was resumed was not the beginning of this archive: once more, from its first byte.
    stream(source, part, min_speed, window)
    return accept(part, directory, archives)


def accept(part: Path, directory: Path, archives: Mapping[str, str]) -> Path:
    """Give a downloaded file its official name if its digest is a known archive's, or delete it."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for name, expected in archives.items():
        if digest == expected:
            return part.replace(directory / name)
    size = part.stat().st_size
    part.unlink()
    raise SourceFailed(f"gave {size:,} bytes that are no known CIFAR-10 archive (SHA-256 differs)")


def stream(url: str, part: Path, min_speed: float, window: float) -> None:
    """Append to `part` what it lacks of the file at `url`; broken connections are taken up again.

    Raises:
        TooSlow: fewer than `min_speed` bytes a second arrived over `window` seconds.
        SourceFailed: no connection, an HTTP error, or no byte more after a new attempt.
    """
    import httpx

    timeout = httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
    try:
        client = httpx.Client(timeout=timeout, follow_redirects=True)
    except (ImportError, ValueError) as error:  # a proxy in the environment that httpx cannot use
        raise SourceFailed(" ".join(str(error).split())) from error
    pace = Pace(min_speed, window)
    with client:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                return stream_once(client, url, part, before, pace)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if not part.exists() or part.stat().st_size <= before:
                    raise SourceFailed(f"{type(error).__name__}: {error}".rstrip(": ")) from error


class Pace:
    """Judges a source's speed, waiting and broken connections included."""

    def __init__(self, min_speed: float, window: float):
        self.min_speed, self.window = min_speed, window
        self.start, self.count = time.monotonic(), 0

    def advance(self, count: int) -> None:
        """Count bytes that have arrived.

        Raises:
            TooSlow: fewer than `min_speed` a second over the last `window` seconds.
        """
        self.count += count
        elapsed = time.monotonic() - self.start
        if elapsed >= self.window:
            if self.count < self.min_speed * elapsed:
                raise TooSlow(f"too slow ({self.count / elapsed / 1000:.0f} kB/s)")
            self.start, self.count = time.monotonic(), 0


def stream_once(client, url: str, part: Path, have: int, pace: Pace) -> None:
    # A proxy's or server's compression would make byte ranges meaningless.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # nothing lies beyond what is here: complete, or foreign
            return
        if response.status_code not in (200, 206):
            raise SourceFailed(f"HTTP {response.status_code} {response.reason_phrase}".strip())
        resumed = response.status_code == 206
        have = have if resumed else 0
        total = have + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if resumed else "wb") as file, Progress(total) as progress:
            progress.advance(have)
            for chunk in response.iter_bytes():
                file.write(chunk)
                progress.advance(len(chunk))
                pace.advance(len(chunk))


class Progress:
    """A bar with speed and time left on a terminal; nothing elsewhere."""

    def __init__(self, total: int):
        from rich import console, progress

        self.bar = progress.Progress(
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=console.Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task("", total=total or None)

    def advance(self, count: int) -> None:
        self.bar.advance(self.task, count)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def npm_pack(package: str, directory: Path) -> Path:
    """Let npm, under the user's own settings, fetch a package's archive; gives a `.part` file.

    Raises:
        SourceFailed: npm is not installed, or it failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SourceFailed("npm is not installed")
    with tempfile.TemporaryDirectory(dir=directory, prefix=".npm-") as folder:
        options = ("--ignore-scripts", "--loglevel=error", "--pack-destination", ".")
        try:
            subprocess.run(
                [npm, "pack", package, *options],
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
                timeout=NPM_TIMEOUT,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise SourceFailed(f"npm cannot be started: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise SourceFailed(f"npm pack took over {NPM_TIMEOUT:.0f} s") from error
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or error.stdout).strip().splitlines()
            # npm names the error in its first lines and ends with where its log is.
            why = "; ".join(line.removeprefix("npm error ") for line in lines[:2])
            raise SourceFailed(
                f"npm pack failed: {why or f'exit code {error.returncode}'}"
            ) from error
        packed = next(Path(folder).glob("*.tgz"), None)
        if packed is None:
            raise SourceFailed("npm pack left no archive")
        return packed.replace(directory / f"{packed.name}.part")
