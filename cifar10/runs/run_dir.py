"""Run folders: one run each, locked by one process."""

import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from cifar10.core.errors import SettingError, UserError
from cifar10.core.files import remove_temporary_files
from cifar10.core.ranks import launched_rank
from cifar10.core.settings import expand_user, program
from cifar10.runs.checkpoint import LAST, PREVIOUS
from cifar10.runs.result import RESULT_FILE, write_result

LOCK = ".run.lock"
LATEST = "latest"  # names the newest run, wherever a command takes a run or a model
NAME_MODELS = ("teacher", "weights")  # settings that do


def is_first_process() -> bool:
    """Whether this is the only process of a training or the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0


def latest_run(root: Path = Path("outputs"), pattern: str = "**") -> Path:
    """The run below `root` whose result.json was written last; SettingError if there is none."""
    files = list(root.glob(f"{pattern}/{RESULT_FILE}"))
    if not files:
        raise SettingError(f"{LATEST}: no run in {root}/; train one with `{' '.join(program())}`")
    return max(files, key=lambda file: file.stat().st_mtime_ns).parent


def named_folder(name: str | Path) -> Path:
    """A path as a user types it, or the newest run for `latest`."""
    return latest_run() if name == LATEST else expand_user(name)


def is_free(lock: Path) -> bool:
    """Whether no process holds a lock file."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def refuse_used_dir(folder: Path) -> None:
    """Raise a UserError if the folder belongs to another run."""
    another = "or choose another folder with hydra.run.dir=FOLDER"
    if (folder / RESULT_FILE).exists():
        raise UserError(f"{folder} already holds a run; resume it with resume=FOLDER, {another}")
    for name in (LAST, PREVIOUS):  # which this run would resume from as if it were its own
        if os.path.lexists(folder / name):
            without = f"{folder} holds a {name} without the {RESULT_FILE} of its run"
            raise UserError(f"{without}; move it away, {another}")


def choose_run_dir(resume: str | None, run_dir: str, is_named: bool) -> Path:
    """The folder of a run; `is_named` if the command line sets it, the same for each process."""
    if resume == LATEST:  # Lightning names the first process's folder to those that it starts
        return Path(run_dir) if is_named and "LOCAL_RANK" in os.environ else latest_run()
    if resume not in (None, "auto"):
        return Path(resume)
    if resume and not is_named:
        raise SettingError("resume=auto: also needs hydra.run.dir=FOLDER, the same each time")
    if not run_dir:
        raise SettingError("hydra.run.dir='': must name a folder")
    if launched_rank() is not None and resume is None and not is_named:
        raise SettingError(
            "hydra.run.dir: required with torchrun and SLURM; the processes share it"
        )
    return Path(run_dir)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder has a checkpoint that it resumes from, valid or not."""
    return any(os.path.lexists(folder / name) for name in (LAST, PREVIOUS))


def create_run_dir(folder: Path) -> None:
    """Create the folder of a new run; UserError or OSError if it is used or not writable."""
    refuse_used_dir(folder)
    folder.mkdir(parents=True, exist_ok=True)
    TemporaryFile(dir=folder).close()  # fails where nothing can be written


def claim_run_dir(folder: Path, result: dict[str, Any], fresh: bool = True) -> FileLock:
    """Lock a folder and, for a fresh run, write a result.json.

    Raises:
        UserError: the folder is used or not writable.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        remove_temporary_files(folder)
        if fresh:
            refuse_used_dir(folder)
            write_result(folder, result)
    except Timeout:
        raise UserError(f"{folder} is in use by another process") from None
    except (OSError, UserError) as error:
        lock.release()
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder}: cannot be written to: {error.strerror}") from error
    return lock
