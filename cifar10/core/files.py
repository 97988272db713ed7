"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name beside it, flush it to disk, then rename it.

    Whoever opens `path` sees the old file or the whole new one, whatever happens meanwhile.

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
        path.unlink(missing_ok=True)
