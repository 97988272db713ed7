"""Checkpoint files: written whole, checked before they are used."""

import contextlib
import io
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from cifar10.core.errors import UserError, one_line
from cifar10.core.files import atomic_write

log = logging.getLogger(__name__)

OWN = "LastCheckpoint"  # the class in `last.py` begins its key so
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# What training goes on from; a file of weights alone lacks it.
NEEDED = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Puts a checkpoint in its place only once all of it is on disk.

    Lightning's own way writes in the system's temporary folder and moves the file, which between
    two file systems is a copy that can be broken off.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, or leave the old one as it was.

        Raises:
            UserError: the folder is gone, full or cannot be written to.
        """
        buffer = io.BytesIO()  # torch would say "unexpected pos" where a disk is full
        torch.save(checkpoint, buffer)
        try:
            with atomic_write(Path(path)) as file:
                file.write(buffer.getbuffer())
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror}; what was there before is untouched"
            ) from error

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def keep_previous(folder: Path) -> None:
    """Give the last checkpoint a second name, under which it outlives the next one."""
    temporary = folder / f".{PREVIOUS}.tmp"
    with contextlib.suppress(OSError):  # there is none yet, or the file system knows no links
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(folder / LAST)
        temporary.replace(folder / PREVIOUS)
        temporary.unlink(missing_ok=True)  # renaming does nothing if both are one file already


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU, running no code from it and trusting no bit of it.

    torch does not look at the checksums that it stores with every tensor; here they are compared.

    Raises:
        UserError: it is missing, damaged, or no checkpoint of Lightning's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} has another checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage can make any of zipfile's, torch's or pickle's
        why = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch then explains how to run the code
            why = "it holds more than plain data, which is not loaded"
        raise UserError(f"{path} is no whole checkpoint: {why}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is no checkpoint of a run")
    try:
        states = checkpoint.get("callbacks", {})
        last = [state["dirpath"] for key, state in states.items() if key.startswith(OWN)]
        for state in states.values():  # a callback's own folder elsewhere stays where it is
            if isinstance(state, dict) and state.get("dirpath") in last:
                state.update(moved(state, path.parent.resolve()))
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no checkpoint of a run: its callbacks are odd") from error
    return checkpoint


def moved(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A ModelCheckpoint's state with its files in `folder`: a run may have been moved."""

    def here(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    paths = ("best_model_path", "last_model_path", "kth_best_model_path")
    return {
        "dirpath": str(folder),
        "best_k_models": {here(path): score for path, score in state["best_k_models"].items()},
        **{key: here(state[key]) for key in paths},
    }


def find_resumable(folder: Path) -> tuple[Path, int] | None:
    """The checkpoint that a run goes on from, and its step: the last one, else the one
    before it.

    Returns:
        None if the folder holds none yet.

    Raises:
        UserError: there are some, but none is whole.
    """
    damaged = []
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            os.lstat(path)  # a dangling link is a damaged file, not a missing one
        except FileNotFoundError:
            continue
        try:
            state = read_checkpoint(path)
            if missing := [key for key in NEEDED if key not in state]:
                raise UserError(f"{path} holds weights alone: it lacks {', '.join(missing)}")
        except UserError as error:
            damaged.append(str(error))
            continue
        for line in damaged:
            log.warning("%s; going on from %s instead", line, path.name)
        return path, state["global_step"]
    if damaged:
        raise UserError(f"{'; '.join(damaged)}; there is no other to go on from")
    return None


def set_aside_corrupt_last(folder: Path) -> None:
    """Get a damaged last checkpoint out of the way: the next save would keep it as the previous."""
    damaged = folder / LAST
    with contextlib.suppress(FileNotFoundError):
        if damaged.is_dir() and not damaged.is_symlink():
            damaged.rename(folder / f"{LAST}.damaged")
        else:
            damaged.unlink()
