"""Resuming a run: which settings may change, and how its logs continue."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from cifar10.core.errors import SettingError, UserError
from cifar10.core.settings import flatten, unflatten
from cifar10.runs.checkpoint import LAST, PREVIOUS, find_resumable, set_aside_corrupt_last
from cifar10.runs.result import RESULT_FILE, read_result, recorded_settings

# Taken from the present machine unless they were typed when the run started.
LOCAL_KEYS = ("data.dir", "data.sources", "data.download")
# Duration, place and display of a run may change, never what it computes.
MAY_CHANGE = (
    *(f"trainer.{key}" for key in ("max_epochs", "log_every_n_steps", "enable_progress_bar")),
    *(f"trainer.{key}" for key in ("devices", "num_nodes", "strategy", "accelerator")),
    *LOCAL_KEYS,
    *("threads", "keep_memory", "compile", "logger", "callbacks.last", "report", "test_views"),
)


def is_within(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def overridden_keys(overrides: Iterable[str]) -> set[str]:
    """The dotted keys that a command line sets."""
    typed = {word.lstrip("+~").partition("=")[0] for word in overrides}
    return {key.partition("@")[0].replace("/", ".") for key in typed}


def merge(
    recorded: Mapping[str, Any],
    current: Mapping[str, Any],
    overrides: Iterable[str],
    first_overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """A run's recorded settings with what the command line may change of them.

    Args:
        recorded, current: nested settings of the run, and those that the command line composes now.
        overrides: of `current` only these count: defaults may have changed since.
        first_overrides: those that the run was started with.

    Raises:
        SettingError: an override differs from the record and would change the result.
    """
    typed = overridden_keys(overrides)
    local = [key for key in LOCAL_KEYS if key not in overridden_keys(first_overrides)]
    before, after = flatten(recorded), flatten(current)
    if before.get("data._target_") != after.get("data._target_"):
        local = []  # another kind of data lies elsewhere
    everything = "experiment" in typed  # an experiment may set any key
    changed = [
        key
        for key in before.keys() | after.keys()
        if (everything or is_within(key, typed) or is_within(key, local))
        and before.get(key, ...) != after.get(key, ...)
    ]
    for key in sorted(changed):
        if not is_within(key, MAY_CHANGE):
            wanted, was = (f"{key}={s[key]}" if key in s else f"no {key}" for s in (after, before))
            reason = f"the run has {was}, which cannot change on resume"
            raise SettingError(f"{wanted}: {reason}; leave it out or start a new run")
    unchanged = {key: value for key, value in before.items() if key not in changed}
    return unflatten(unchanged | {key: after[key] for key in changed if key in after})


def resolve_settings(
    settings: dict[str, Any], resume: str | None, folder: Path, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any] | None, bool]:
    """A run's settings; if it resumes another one, that one's result and whether it is finished."""
    exists = os.path.lexists(folder / RESULT_FILE)
    if resume is None or (resume == "auto" and not exists):
        return settings, None, False
    if not exists:
        raise SettingError(f"resume={resume}: no run to resume; {RESULT_FILE} not found")
    earlier = read_result(folder / RESULT_FILE)
    if earlier["status"] == "failed" and "config_digest" not in earlier:  # by `record_failure`
        (folder / RESULT_FILE).unlink()
        return settings, None, False
    recorded = recorded_settings(earlier, folder)
    settings = merge(recorded, settings, overrides, earlier["overrides"])
    more = settings["trainer"]["max_epochs"] > earlier.get("epochs", 0)
    finished = earlier["status"] == "ok" and not (more and settings != recorded)
    return settings, earlier, finished or earlier["status"] == "pruned"


def resume_point(
    trainer: L.Trainer, folder: Path, result: dict[str, Any], earlier: dict[str, Any]
) -> Path | None:
    """The checkpoint that a run resumes from; None if it was interrupted before the first."""
    data = result["data"]
    if earlier.get("data", {}).get("digest") not in (None, data["digest"]):
        raise SettingError(f"data: the images of {data['name']} have changed; start a new run")
    if found := find_resumable(folder):
        path, step = found
        if trainer.is_global_zero:
            if path.name == PREVIOUS:
                set_aside_corrupt_last(folder)
            continue_logs(trainer.loggers, step)
        return path
    if epochs := earlier.get("epochs"):
        reason = f"{LAST} is missing, although result.json counts {epochs} trained epochs"
        raise UserError(f"{folder}: cannot resume; {reason}")
    return None


def continue_logs(loggers: Iterable[Any], step: int) -> None:
    """Have the curves continue at a step; a killed run has logged points after its checkpoint."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger._kwargs["purge_step"] = step  # TensorBoard drops older points from there on
        elif isinstance(logger, CSVLogger):
            path = Path(logger.log_dir, "metrics.csv")
            before = path.with_name(".metrics.before.csv")
            if path.exists() and not before.exists():
                path.rename(before)  # creating the writer would remove it
            logger.experiment.metrics = rows_before(before, step)
            logger.save()
            before.unlink(missing_ok=True)


def rows_before(path: Path, step: int) -> list[dict[str, Any]]:
    """The complete rows of a CSV file with a lower `step`; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [row for row in rows if (row.get("step") or "").isdigit() and int(row["step"]) < step]
