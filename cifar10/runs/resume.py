"""Resuming a run: which settings may change, and how its logs continue."""

import csv
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from cifar10.core.display import csv_cell, short
from cifar10.core.errors import SettingError, UserError
from cifar10.core.instantiate import import_class, signature_parameters
from cifar10.core.legacy import upgrade_hyperparameters
from cifar10.core.secrets import MASKED
from cifar10.core.settings import CONFIGS
from cifar10.runs.callback_settings import OWN_STOP
from cifar10.runs.changes import (
    duration,
    fixed_settings,
    is_within,
    keeps_stop,
    merge,
    overridden_keys,
)
from cifar10.runs.checkpoint import LAST, PREVIOUS, find_resumable, set_aside_corrupt_last
from cifar10.runs.components import Components
from cifar10.runs.identity import require_best_file, why_foreign
from cifar10.runs.result import RESULT_FILE, read_result, recorded_settings
from cifar10.runs.run_dir import LATEST, NAME_MODELS, latest_run
from cifar10.runs.weights import read_weights

log = logging.getLogger(__name__)


def time_limit(max_time: Any) -> float:
    """Seconds of any form of `max_time` that Lightning takes."""
    if max_time is None:
        return math.inf
    try:
        return Timer(duration=max_time)._duration or math.inf
    except Exception as error:
        form = "must be DD:HH:MM:SS or a group such as {hours: 2}"
        raise SettingError(f"trainer.max_time={max_time}: {form}") from error


def resolve_settings(
    settings: dict[str, Any], resume: str | None, folder: Path, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any] | None, bool]:
    """A run's settings; if it resumes another one, that one's result and whether it is finished.

    Raises:
        SettingError: there is no such run, a setting must not change, or the run stopped early and
            nothing that stopped it has changed.
    """
    require_recordable(settings)
    exists = os.path.lexists(folder / RESULT_FILE)
    for key in (key for key in NAME_MODELS if settings.get(key) == LATEST):
        known = read_result(folder / RESULT_FILE).get("config", {}) if exists else {}
        settings[key] = known.get(key) or str(latest_run().absolute())  # for all processes, once
    for spec in (settings.get("callbacks") or {}).values():
        if saves_checkpoints(spec) and isinstance(spec.get("dirpath"), str):  # typed in this folder
            path = Path(spec["dirpath"]).expanduser().absolute()
            within = path.is_relative_to(folder.absolute())  # then it moves with the run
            spec["dirpath"] = os.path.relpath(path, folder) if within else str(path)
    if resume is not None:
        refuse_links(folder)
    if resume is None or (resume == "auto" and not exists):
        return with_model(settings, overrides), None, False
    if not exists:
        raise SettingError(f"resume={resume}: no run to resume; {RESULT_FILE} not found")
    earlier = read_result(folder / RESULT_FILE)
    if earlier["status"] == "failed" and "config_digest" not in earlier:  # by `record_failure`
        (folder / RESULT_FILE).unlink()
        return with_model(settings, overrides), None, False
    recorded = recorded_settings(earlier, folder)
    settings = merge(recorded, settings, overrides, earlier["overrides"])
    require_recordable(settings)
    require_stretchable(recorded, settings)
    epochs, trained = settings["trainer"]["max_epochs"], earlier.get("epochs", 0)
    if earlier["status"] != "ok":
        if epochs < trained:
            reason = f"the run has trained {trained} epochs already; set {trained} or more"
            raise SettingError(f"trainer.max_epochs={epochs}: {reason}")
        return settings, earlier, earlier["status"] == "pruned"
    if epochs <= trained or duration(settings) == duration(recorded):
        return settings, earlier, True
    wanted, had = (each["trainer"].get("max_time") for each in (settings, recorded))
    if time_limit(wanted) < time_limit(had) and had is not None:
        reason = f"less than the {had} that the run finished with"
        raise SettingError(f"trainer.max_time={wanted}: {reason}; raise it or leave it out")
    why = earlier.get("stopped")
    if why not in (None, OWN_STOP) and keeps_stop(recorded, settings):
        typed = f"trainer.max_epochs={epochs}"
        reason = f"the run stopped early, after epoch {earlier['epochs']} ({why})"
        raise SettingError(f"{typed}: {reason}; to continue, change or remove what stopped it")
    return settings, earlier, False


def with_model(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Settings with the network that `weights` are of, unless another was chosen than usual."""
    if not isinstance(settings.get("weights"), str):  # checked with the other types
        return settings
    _, arguments = read_weights(settings["weights"])
    typed = any(is_within(key, ["model"]) for key in overridden_keys(overrides))
    usual = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / "convnet.yaml"))
    chosen = typed or settings["model"] != usual
    spec = upgrade_hyperparameters(arguments).get("model", {})
    return settings if chosen or "_target_" not in spec else settings | {"model": spec}


def saves_checkpoints(spec: Any) -> bool:
    """Whether a specification is that of a ModelCheckpoint."""
    target = spec.get("_target_") if isinstance(spec, dict) else None
    try:
        return issubclass(import_class(target, "", Callback), ModelCheckpoint)
    except SettingError:  # reported when it is built
        return False


def require_stretchable(recorded: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise a SettingError if the run's length changes but its schedule cannot."""
    target = recorded["scheduler"].get("_target_")
    cls = import_class(target, "scheduler", LRScheduler)
    if issubclass(cls, LambdaLR) or "total_steps" not in signature_parameters(cls)[0]:
        return
    for key in ("max_epochs", "max_steps"):
        wanted, had = (each["trainer"].get(key) for each in (settings, recorded))
        if wanted != had:
            reason = f"the run began with {had}, and {target} cannot change its length"
            raise SettingError(f"trainer.{key}={wanted}: {reason}; start a new run")


def require_recordable(value: Any, where: str = "") -> None:
    """Raise a SettingError for what result.json cannot hold: NaN, infinity, passwords in URLs."""
    nested = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in nested:
        name = f"{where}.{key}".lstrip(".")
        if MASKED in str(key):
            raise SettingError(f"{name}: the password was not recorded; type it again")
        if isinstance(item, dict | list):
            require_recordable(item, name)
        elif isinstance(item, float) and not math.isfinite(item):
            raise SettingError(f"{name}={item}: must be finite")
        elif isinstance(item, str) and MASKED in item:
            raise SettingError(f"{name}={item}: the password was not recorded; type it again")


def run_identity(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoints of a run record of it, as plain values."""
    return {
        "started": result["started"],
        "data": result["data"]["digest"],
        "digests": result["digests"],
        "settings": fixed_settings(result["config"]),
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
            raise UserError(f"{path}: {reason} or start a new run")
        same_end = duration(earlier["config"]) == duration(result["config"])
        require_best_file(state, result["started"], same_end)
        if 0 < trainer.max_steps < (steps := state["global_step"]):
            reason = f"the run is already at step {steps}; set more or leave it out"
            raise SettingError(f"trainer.max_steps={trainer.max_steps}: {reason}")
        if trainer.is_global_zero:
            if earlier.get("stopped") and not is_whole(state):
                rest = "ended early; its remaining batches are skipped"
                log.warning("Warning: epoch %s %s", earlier["epochs"], rest)
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


def refuse_links(folder: Path) -> None:
    """Refuse a run folder with links or pipes: a stranger's could lead to files of the user."""
    for path in folder.rglob("*"):
        # W&B makes links of its own, and replaces them.
        if "wandb" not in path.relative_to(folder).parts[:-1] and (
            path.is_symlink() or not (path.is_file() or path.is_dir())
        ):
            reason = "a link or pipe, which a resumed run might write through"
            raise SettingError(f"{path}: {reason}; replace it by a copy, or remove it")


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
    if odd := [key for row in rows[:1] for key in row if csv_cell(key) != key]:
        raise UserError(f"{path}: has the column {short(odd[0])}, no name of a metric")
    rows = [{key: safe_cell(value) for key, value in row.items()} for row in rows]
    return [row for row in rows if (row.get("step") or "").isdigit() and int(row["step"]) < step]


def safe_cell(text: str) -> str:
    """A number, as -0.5, or a text that no spreadsheet would run."""
    try:
        float(text)
    except ValueError:
        return csv_cell(text)
    return text
