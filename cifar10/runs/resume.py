"""Resuming a run: which settings may change, and how its logs continue."""

import csv
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from cifar10.core.errors import SettingError, UserError
from cifar10.core.settings import flatten, unflatten
from cifar10.runs.callback_settings import names_of_stops
from cifar10.runs.checkpoint import LAST, PREVIOUS, find_resumable, set_aside_corrupt_last
from cifar10.runs.components import Components
from cifar10.runs.identity import require_best_files, why_foreign
from cifar10.runs.result import RESULT_FILE, read_result, recorded_settings
from cifar10.runs.run_dir import LATEST, latest_run

log = logging.getLogger(__name__)

# Taken from the present machine unless they were typed when the run started.
LOCAL_KEYS = ("data.dir", "data.sources", "data.download")
# Duration, place and display of a run may change, never what it computes.
DURATION = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
MAY_CHANGE = (
    *DURATION,
    *(f"trainer.{key}" for key in ("log_every_n_steps", "enable_progress_bar", "profiler")),
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
    may_change = (*MAY_CHANGE, *early_stops(recorded, current))
    changed = [
        key
        for key in before.keys() | after.keys()
        if (everything or is_within(key, typed) or is_within(key, local))
        and before.get(key, ...) != after.get(key, ...)
    ]
    for key in sorted(changed):
        if not is_within(key, may_change):
            wanted, was = (f"{key}={s[key]}" if key in s else f"no {key}" for s in (after, before))
            reason = f"the run has {was}, which cannot change on resume"
            raise SettingError(f"{wanted}: {reason}; leave it out or start a new run")
    unchanged = {key: value for key, value in before.items() if key not in changed}
    return unflatten(unchanged | {key: after[key] for key in changed if key in after})


def early_stops(*settings: Mapping[str, Any]) -> set[str]:
    """The dotted names of the early-stopping callbacks in any of several nested settings."""
    return {name for each in settings for name in names_of_stops(each.get("callbacks"))}


def duration(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, by dotted key, that decide when a training ends."""
    ends = (*DURATION, *early_stops(settings))
    return {key: value for key, value in flatten(settings).items() if is_within(key, ends)}


def step_limit(max_steps: int | None) -> float:
    return math.inf if max_steps in (None, -1) else float(max_steps or 0)


def time_limit(max_time: Any) -> float:
    """Seconds of any form of `max_time` that Lightning takes."""
    return math.inf if max_time is None else Timer(duration=max_time)._duration or math.inf


def keeps_stop(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether nothing but the number of epochs has changed of what ends a training."""
    before, now = (duration(each) | {"trainer.max_epochs": None} for each in (recorded, current))
    return before == now


def resolve_settings(
    settings: dict[str, Any], resume: str | None, folder: Path, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any] | None, bool]:
    """A run's settings; if it resumes another one, that one's result and whether it is finished.

    Raises:
        SettingError: there is no such run, a setting must not change, or the run stopped early and
            nothing that stopped it has changed.
    """
    require_finite(settings)
    if settings.get("teacher") == LATEST:  # resolved once, since other runs may start
        settings["teacher"] = str(latest_run())
    for spec in (settings.get("callbacks") or {}).values():
        if isinstance(spec, dict) and isinstance(spec.get("dirpath"), str):  # typed in this folder
            spec["dirpath"] = str(Path(spec["dirpath"]).expanduser().absolute())
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
    if earlier["status"] != "ok":
        return settings, earlier, earlier["status"] == "pruned"
    done = settings["trainer"]["max_epochs"] <= earlier.get("epochs", 0)
    if done or duration(settings) == duration(recorded):
        return settings, earlier, True
    for key, limit in (("max_steps", step_limit), ("max_time", time_limit)):
        wanted, had = (each["trainer"].get(key) for each in (settings, recorded))
        if limit(wanted) < limit(had):
            reason = f"the run finished with {had}, so it cannot be less"
            raise SettingError(f"trainer.{key}={wanted}: {reason}; leave it out")
    if (why := earlier.get("stopped")) and keeps_stop(recorded, settings):
        typed = f"trainer.max_epochs={settings['trainer']['max_epochs']}"
        reason = f"the run stopped early, after epoch {earlier['epochs']} ({why})"
        raise SettingError(f"{typed}: {reason}; to continue, change or remove what stopped it")
    return settings, earlier, False


def require_finite(value: Any, where: str = "") -> None:
    """Raise a SettingError for NaN or infinity in nested settings: result.json cannot hold them."""
    nested = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in nested:
        name = f"{where}.{key}".lstrip(".")
        if isinstance(item, dict | list):
            require_finite(item, name)
        elif isinstance(item, float) and not math.isfinite(item):
            raise SettingError(f"{name}={item}: must be finite")


def run_identity(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoints of a run record of it, as plain values."""
    settings = result["config"]
    may_change = (*MAY_CHANGE, *early_stops(settings))
    flat = flatten(settings).items()
    return {
        "started": result["started"],
        "data": result["data"]["digest"],
        "inputs": result["inputs"],
        "settings": {key: value for key, value in flat if not is_within(key, may_change)},
    }


def resume_point(
    components: Components, folder: Path, result: dict[str, Any], earlier: dict[str, Any]
) -> Path | None:
    """The checkpoint that a run resumes from; None if it was interrupted before the first.

    Raises:
        UserError: the data or the checkpoints are not those of the run.
    """
    trainer, data = components.trainer, result["data"]
    if earlier.get("data", {}).get("digest") not in (None, data["digest"]):
        raise SettingError(f"data: the images of {data['name']} have changed; start a new run")
    if found := find_resumable(folder):
        path, state = found
        if reason := why_foreign(state, run_identity(result), components.classifier):
            raise UserError(f"{path}: {reason}; restore the run's own file or start a new run")
        require_best_files(state, result["started"])
        if 0 < trainer.max_steps < (steps := state["global_step"]):
            reason = f"the run has already made {steps} steps"
            raise SettingError(f"trainer.max_steps={trainer.max_steps}: {reason}")
        if trainer.is_global_zero:
            if earlier.get("stopped") and not is_whole(state):
                log.warning("Warning: the last epoch was cut short; the rest of it is left out")
            if path.name == PREVIOUS:
                set_aside_corrupt_last(folder)
            continue_logs(trainer.loggers, state["global_step"])
        return path
    if epochs := earlier.get("epochs"):
        reason = f"{LAST} is missing, although result.json counts {epochs} trained epochs"
        raise UserError(f"{folder}: cannot resume; {reason}")
    return None


def is_whole(state: Mapping[str, Any]) -> bool:
    """Whether a training state is from after the last batch of an epoch."""
    progress = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return bool(progress["is_last_batch"])


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
