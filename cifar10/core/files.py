"""Atomic file writes, and files that many processes share."""

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from filelock import FileLock, Timeout

T = TypeVar("T")

log = logging.getLogger(__name__)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name beside it, flush it to disk, then rename it.

    Raises:
        OSError: the folder cannot be written to, or is full. The temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # the reader knows no temporary file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote in a folder."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name):
            path.unlink(missing_ok=True)


def make_once(folder: Path, read: Callable[[], T | None], make: Callable[[], T]) -> T:
    """Read a file that many processes share, or make it in one of them while the others wait.

    `read` returns None if the file is missing or invalid; `make` saves it and returns its content.
    """
    if (content := read()) is not None:
        return content
    lock = FileLock(folder / ".prepare.lock")
    try:
        held = lock.acquire(timeout=0.1)
    except Timeout:
        log.info("Waiting for another process that prepares %s …", folder)
        held = lock.acquire()
    with held:
        if (content := read()) is not None:  # another process made it meanwhile
            return content
        remove_temporary_files(folder)
        return make()
