"""Go on with a run where it stopped."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from cifar10.core.errors import SettingError
from cifar10.core.settings import flatten, unflatten

# What a run may be resumed with: how long, where, and what it shows; never what it computes.
MAY_CHANGE = (
    *(f"trainer.{key}" for key in ("max_epochs", "log_every_n_steps", "enable_progress_bar")),
    *(f"trainer.{key}" for key in ("devices", "num_nodes", "strategy", "accelerator")),
    *(f"data.{key}" for key in ("dir", "sources", "download")),
    *(
        "threads",
        "keep_memory",
        "compile",
        "logger",
        "callbacks.last",
        "callbacks.gallery",
        "test_views",
    ),
)
# Where things are is the present machine's affair, unless the run itself was told.
LOCAL_KEYS = ("data.dir", "data.sources", "data.download")


def within(key: str, places: Iterable[str]) -> bool:
    """Whether a dotted key is one of some places or lies in one."""
    return any(key == place or key.startswith(f"{place}.") for place in places)


def keys_of(overrides: Iterable[str]) -> set[str]:
    """What a command line sets, dotted."""
    typed = {word.lstrip("+~").partition("=")[0] for word in overrides}
    return {key.partition("@")[0].replace("/", ".") for key in typed}


def merge(
    recorded: Mapping[str, Any],
    now: Mapping[str, Any],
    overrides: Iterable[str],
    at_first: Iterable[str] = (),
) -> dict[str, Any]:
    """A run's own settings, with what the command line changes of them now.

    Args:
        recorded: nested settings of the run.
        now: nested settings as the command line composes them at present.
        overrides: what was typed; only that counts of `now`, since defaults may have moved on.
        at_first: what was typed when the run began.

    Raises:
        SettingError: something typed is not as recorded, and would make it another run.
    """
    typed = keys_of(overrides)
    places = [key for key in LOCAL_KEYS if key not in keys_of(at_first)]
    before, after = flatten(recorded), flatten(now)
    if before.get("data._target_") != after.get(
        "data._target_"
    ):  # another kind of data lies elsewhere
        places = []
    everything = "experiment" in typed  # it may change any setting
    touched = [
        key
        for key in before.keys() | after.keys()
        if (everything or within(key, typed) or within(key, places))
        and before.get(key, ...) != after.get(key, ...)
    ]
    for key in sorted(touched):
        if not within(key, MAY_CHANGE):
            was = f"{key}={before[key]}" if key in before else f"no {key}"
            wants = f"{key}={after[key]}" if key in after else f"no {key}"
            raise SettingError(
                f"{wants}: the run has {was}, and resuming keeps that; leave it out, or start "
                f"another run"
            )
    kept = {key: value for key, value in before.items() if key not in touched}
    return unflatten(kept | {key: after[key] for key in touched if key in after})


def continue_logs(loggers: Iterable[Any], step: int) -> None:
    """Have curves go on at a step: what was drawn from there on is drawn anew.

    A run that was killed has logged steps that its last checkpoint knows nothing of.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # TensorBoard then drops the points of other event files from this step on.
            logger._kwargs["purge_step"] = step
        elif isinstance(logger, CSVLogger):
            path = Path(logger.log_dir, "metrics.csv")
            before = path.with_name(".metrics.before.csv")
            if path.exists() and not before.exists():
                path.rename(before)  # making the writer would remove it
            logger.experiment.metrics = rows_before(before, step)
            logger.save()
            before.unlink(missing_ok=True)


def rows_before(path: Path, step: int) -> list[dict[str, str]]:
    """The whole rows of a CSV file whose `step` is lower; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [row for row in rows if (row.get("step") or "").isdigit() and int(row["step"]) < step]
