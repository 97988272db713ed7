"""A run's folder: for one run and one process alone."""

import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cifar10.atomic import remove_leftovers
from cifar10.checkpoint import LAST, PREVIOUS
from cifar10.errors import UserError
from cifar10.results import NAME, write

LOCK = ".run.lock"


def is_free(lock: Path) -> bool:
    """Whether no process holds a lock file."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def refuse_used(folder: Path) -> None:
    """Raise a UserError if the folder belongs to another run."""
    if (folder / NAME).exists():
        raise UserError(
            f"{folder} already holds a run: go on with it by resume=FOLDER, or give this one "
            f"another folder with hydra.run.dir=FOLDER"
        )
    for name in (LAST, PREVIOUS):  # which this run, once resumed, would take for its own
        if os.path.lexists(folder / name):
            raise UserError(
                f"{folder} holds a {name} without its run's {NAME}: move it away, or give this run "
                f"another folder with hydra.run.dir=FOLDER"
            )


def claim(folder: Path, result: dict[str, Any], fresh: bool = True) -> FileLock:
    """Take a folder for this process alone, and put a result.json of status `running` into it.

    Args:
        fresh: the folder must hold no run yet.

    Returns:
        The lock, which the system lets go of when the process ends, however it does.

    Raises:
        UserError: the folder belongs to another run or process, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use by another process that is running it") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error
    try:
        if fresh:
            refuse_used(folder)
        remove_leftovers(folder)
        write(folder, result)
    except OSError as error:
        lock.release()
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error
    except UserError:
        lock.release()
        raise
    return lock
