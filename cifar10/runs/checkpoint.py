"""Checkpoint files: saved atomically, verified before use."""

import contextlib
import io
import itertools
import logging
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from cifar10.core.errors import SettingError, UserError, one_line
from cifar10.core.files import atomic_write
from cifar10.runs.file_kinds import require_checkpoint_file

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
MAX_VALUES = 100_000  # of what a checkpoint records of a run
# What training resumes from; a file of weights alone lacks it.
TRAINING_STATE = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves a checkpoint atomically, with what identifies its run.

    Lightning moves it from the system's temporary folder: between file systems, that is a copy.
    """

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {}  # set by the run
        self.saved: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        path = Path(path)
        exists = path not in self.saved and path.exists() and path.stat().st_size
        state = read_checkpoint(path) if exists else {}
        if reason := foreign_start(state, self.identity.get("started")):
            raise UserError(f"{path}: {reason}; set another dirpath")
        own = ("state_dict", "optimizer_states", "callbacks")
        require_loadable({f"checkpoint['{k}']": v for k, v in checkpoint.items() if k not in own})
        states = checkpoint.get("callbacks", {}).items()
        require_loadable({f"callback {str(k).partition('{')[0]}": v for k, v in states})
        tensors = count_tensors(checkpoint.get("optimizer_states"))
        checkpoint["run"] = self.identity | {"optimizer_tensors": tensors}
        buffer = io.BytesIO()  # torch reports a full disk as "unexpected pos"
        torch.save(checkpoint, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)  # a file name may contain folders
            with atomic_write(path) as file:
                file.write(buffer.getbuffer())
        except OSError as error:
            raise UserError(
                f"{path}: cannot be saved: {error.strerror}; the previous file is unchanged"
            ) from error
        self.saved.add(path)

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        """Remove a file of this run; a state of a stranger may name any file or folder."""
        path = Path(path)
        if path not in self.saved:
            state: dict[str, Any] = {}
            if path.is_file() and not path.is_symlink():
                with contextlib.suppress(UserError):
                    state = read_checkpoint(path)
            if not state or (state.get("run") or {}).get("started") != self.identity["started"]:
                log.warning("Warning: %s is no checkpoint of this run: not removed", path)
                return
        path.unlink(missing_ok=True)

    def load_checkpoint(  # type: ignore[override] # Lightning passes paths alone
        self, path: str | os.PathLike, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def foreign_start(state: Mapping[str, Any], started: str | None) -> str | None:
    """How a checkpoint says that another run saved it; None if it does not."""
    saved = (state.get("run") or {}).get("started")  # version 0.1 recorded none
    is_foreign = None not in (saved, started) and saved != started
    return f"it belongs to another run, started {saved}" if is_foreign else None


def require_loadable(states: Mapping[str, Any]) -> None:
    """Raise a SettingError for a state that a safe load rejects; the keys name its owner."""
    for name, state in states.items():
        if isinstance(state, dict) and all(isinstance(v, torch.Tensor) for v in state.values()):
            continue  # may be as large as the network
        buffer = io.BytesIO()
        try:
            torch.save(state, buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except Exception as error:  # pickle may raise any
            only = "use only tensors, numbers, text, lists and dictionaries"
            raise SettingError(f"{name}: its state cannot be loaded safely; {only}") from error


def count_tensors(value: Any) -> int:
    """The number of tensors in nested plain values."""
    if isinstance(value, dict | list | tuple):
        return sum(map(count_tensors, value.values() if isinstance(value, dict) else value))
    return isinstance(value, torch.Tensor)


def is_small(value: Any) -> bool:
    """Whether a nested value has at most `MAX_VALUES`, counting shared ones each time."""
    try:
        return sum(1 for _ in itertools.islice(leaves(value), MAX_VALUES + 1)) <= MAX_VALUES
    except RecursionError:
        return False


def leaves(value: Any) -> Iterator[Any]:
    """The values in nested plain ones; an empty group is one."""
    if isinstance(value, dict | list | tuple) and value:
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def link_previous(folder: Path) -> None:
    """Keep the last checkpoint as previous.ckpt when the next one replaces it."""
    temporary = folder / f".{PREVIOUS}.tmp"
    with contextlib.suppress(OSError):  # there is none yet, or the file system has no hard links
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(folder / LAST)
        temporary.replace(folder / PREVIOUS)
        temporary.unlink(missing_ok=True)  # renaming does nothing if both are one file already


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU, without running code from it; UserError if it is not valid.

    Verifies the checksums of its tensors, which torch stores and ignores.
    """
    try:
        require_checkpoint_file(path)
        with zipfile.ZipFile(path) as archive:
            if corrupt := archive.testzip():
                raise zipfile.BadZipFile(f"{corrupt} has a wrong checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # corrupted files raise anything of zipfile, torch and pickle
        reason = getattr(error, "strerror", None) or one_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch then explains how to run the code
            reason = "it contains Python objects, which are not loaded for safety"
        raise UserError(f"{path}: not a valid checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of a run")
    for key in ("hyper_parameters", "run"):  # a shared list in lists would be copied without end
        if not is_small(checkpoint.get(key)):
            raise UserError(f"{path}: {key} has more than {MAX_VALUES:,} values, or is too deep")
    try:
        for key, kind in (("global_step", int), ("run", dict)):
            if not isinstance(checkpoint.get(key, kind()), kind):
                raise TypeError(key)
        states = checkpoint.get("callbacks", {})
        last = [
            s["dirpath"] for key, s in states.items() if key.partition("{")[0] == "LastCheckpoint"
        ]
        for old in map(Path, last):
            for state in states.values():  # other callbacks may save elsewhere
                if not isinstance(state, dict) or "best_k_models" not in state:
                    continue
                if Path(state["dirpath"]).is_relative_to(old):
                    move_to(path.parent.resolve() / Path(state["dirpath"]).relative_to(old), state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a checkpoint of a run: unexpected content") from error
    return checkpoint


def move_to(folder: Path, state: dict[str, Any]) -> None:
    """Have a ModelCheckpoint's state name `folder`: the run may have been moved."""

    old = Path(state["dirpath"])

    def new_path(path: str) -> str:
        return str(folder / Path(path).relative_to(old)) if path else path

    state["dirpath"] = str(folder)
    state["best_k_models"] = {new_path(path): v for path, v in state["best_k_models"].items()}
    for key in ("best_model_path", "last_model_path", "kth_best_model_path"):
        state[key] = new_path(state[key])


def find_resumable(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last valid checkpoint of a run, and its content; UserError if all are invalid."""
    errors = []
    paths = [folder / name for name in (LAST, PREVIOUS)]
    for path in filter(os.path.lexists, paths):  # a dangling link is corrupted, not missing
        try:
            state = read_checkpoint(path)
            if missing := [key for key in TRAINING_STATE if key not in state]:
                raise UserError(f"{path}: holds only weights; it lacks {', '.join(missing)}")
        except UserError as error:
            errors.append(str(error))
            continue
        for line in errors:
            log.warning("%s; resuming from %s instead", line, path.name)
        return path, state
    if errors:
        raise UserError(f"{'; '.join(errors)}; there is no other checkpoint to resume from")
    return None


def set_aside_corrupt_last(folder: Path) -> None:
    """Rename a corrupted last checkpoint, which the next save would keep as the previous one."""
    with contextlib.suppress(FileNotFoundError):
        (folder / LAST).replace(folder / f"{LAST}.corrupt")


def chosen_checkpoint(trainer: L.Trainer) -> ModelCheckpoint | None:
    """The callback that saved the result: with the best monitored metric, else the last one."""
    callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    saved = [callback for callback in reversed(callbacks) if callback.best_model_path]
    monitored = [callback for callback in reversed(saved) if callback.monitor]
    return next(iter(monitored + saved), None)


def refuse_existing(trainer: L.Trainer) -> None:
    """Raise a SettingError if a new run would replace a checkpoint file that is there already."""
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback._enable_version_counter:
            continue
        if not (name := callback.filename) or "{" in name:
            continue
        path = Path(str(callback.dirpath), f"{name}{callback.FILE_EXTENSION}")
        if os.path.lexists(path):
            advice = "move it or set another dirpath"
            raise SettingError(f"{path}: already exists, possibly from another run; {advice}")


def step_of(path: Path | None) -> int:
    """The optimizer step that a checkpoint was saved at; -1 if there is no valid one."""
    try:
        return read_checkpoint(path).get("global_step", -1) if path else -1
    except UserError:
        return -1
