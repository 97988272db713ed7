"""One run, from settings to result.json."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cifar10.core.errors import SettingError, one_line
from cifar10.core.secrets import as_typed
from cifar10.core.settings import config_dirs
from cifar10.runs.blame import user_errors
from cifar10.runs.callback_settings import stop_reason
from cifar10.runs.changes import duration
from cifar10.runs.checkpoint import chosen_checkpoint, step_of
from cifar10.runs.components import START, Components, Group, build_components, hyperparameters
from cifar10.runs.console import announce
from cifar10.runs.environment import device_name, environment
from cifar10.runs.last_checkpoint import LastCheckpoint
from cifar10.runs.result import RESULT_FILE, settings_digest, write_final_result, write_result
from cifar10.runs.resume import resume_point, run_identity
from cifar10.runs.run_dir import claim_run_dir, has_checkpoint, is_first_process
from cifar10.runs.scores import figures, test
from cifar10.runs.signals import Interrupted, signals
from cifar10.runs.test_images import keep_test_images
from cifar10.runs.trainer_settings import partial_data

log = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    "The number of training batches .* is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",  # Hydra writes the settings there
    "Experiment logs directory .* exists and is not empty",
    "You're resuming from a checkpoint that ended before the epoch ended",  # the loader resumes
    "It is recommended to use .*sync_dist=True",  # images/s is the sum over processes
    "Detected call of `lr_scheduler.step.*` before",  # fp16 skips steps that overflow, as the first
    "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning's own use of torch
    "Be aware that when using `ckpt_path`, callbacks used to create",  # early stopping left out
)


class Pruned(Exception):
    """A callback ends the run before its last epoch, as a search does with a poor trial."""


def run(
    settings: Group,
    folder: Path,
    overrides: Sequence[str] = (),
    started: float | None = None,
    earlier: dict[str, Any] | None = None,
    components: Components | None = None,
) -> dict[str, Any]:
    """Train, test the best checkpoint, and write result.json however the run ends.

    Args:
        settings: plain values, as configs/train.yaml composes them.
        folder: for checkpoints, logs and result.json; created if missing.
        overrides: what the user changed, for the record.
        started: time.perf_counter() from which set-up is counted.
        earlier: the result.json of the run in `folder`, to resume it.
        components: built from these settings.

    Raises:
        UserError: a setting, the data or the folder cannot be used, or the loss is not finite.
    """
    started = time.perf_counter() if started is None else started
    result = new_result(settings, overrides, earlier)
    lock = claim_run_dir(folder, result, earlier is None) if is_first_process() else None
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", module="PIL")  # a corrupted image is reported in one line
    record = Record(folder, result, bool(lock), begun=earlier is None)
    try:
        is_start = earlier is None or not has_checkpoint(folder)
        components = components or build_components(settings, folder, is_start=is_start)
        with user_errors(components, folder):
            describe(components, result)
            checkpoint = resume_point(components, folder, result, earlier) if earlier else None
            record.write()  # only now: a refused resume leaves the earlier result
            train(components, record, started, earlier, checkpoint)
            test(components, folder, result)
        if lock:
            keep_test_images(components.data, folder)
        result["status"] = "ok"
    except Pruned as stop:
        epochs = components.history.epochs if components else []  # there is nothing to resume
        result.update(status="pruned", error=str(stop), history=epochs, epochs=len(epochs))
    except (KeyboardInterrupt, SystemExit, Interrupted) as stop:
        result.update(status="interrupted", error=one_line(stop))
        raise
    except BaseException as error:
        result.update(status="failed", error=f"{type(error).__name__}: {one_line(error)}")
        if lock and components and (launcher := components.trainer.strategy.launcher):
            launcher.kill(signal.SIGKILL)  # the processes that it started would wait for this one
        raise
    finally:
        signals.release()
        result["seconds"] = result.get("seconds", {}) | {"total": time.perf_counter() - started}
        record.write_final()
        if lock:
            lock.release()
    return result


@dataclass
class Record:
    """The result.json of a run, which the first process writes once the run has begun."""

    folder: Path
    result: dict[str, Any]
    is_first: bool
    begun: bool = False

    def write(self) -> None:
        self.begun = True
        if self.is_first:
            write_result(self.folder, self.result)

    def write_final(self) -> None:
        if self.is_first and self.begun:
            write_final_result(self.folder, self.result)


def new_result(
    settings: Group, overrides: Sequence[str], earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    settings, overrides = as_typed([settings, list(overrides)])
    result: dict[str, Any] = {
        "status": "running",
        "error": None,
        "overrides": overrides,
        "seed": settings.get("seed"),
        "settings": hyperparameters(settings),
        "config": settings,
        "config_digest": settings_digest(settings),
        "config_dirs": config_dirs(),
        "partial": partial_data(settings["trainer"]),
        "started": datetime.now().astimezone().isoformat(timespec="microseconds"),
        **environment(),
    }
    if earlier:
        former = [earlier["overrides"], *(part["overrides"] for part in earlier.get("resumed", []))]
        latest = {word.partition("=")[0].lstrip("+~"): word for words in former for word in words}
        changed = [word for word in overrides if word not in latest.values()]
        now = {"overrides": changed} | {key: result[key] for key in ("commit", "clean", "versions")}
        # Those of the last checkpoint; describe() replaces most digests.
        kept = ("overrides", "started", "epochs", "history", "data", "digests", "start")
        result |= {key: earlier[key] for key in kept if key in earlier}
        result["resumed"] = [*earlier.get("resumed", []), now]
    return result


def describe(components: Components, result: dict[str, Any]) -> None:
    """Open the data; add network, hardware and data to the result."""
    trainer, network, data = components.trainer, components.classifier.network, components.data
    data.setup()
    started = {key: value for key, value in result.get("digests", {}).items() if key == START}
    result |= {"start": components.start.text} if components.start else {}
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    result |= {
        "network": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "trained_parameters": trained,
        "device": device_name(trainer.strategy.root_device, trainer.world_size),
        "digests": started | components.digests,
        **{name: choice._asdict() for name, choice in components.hardware._asdict().items()},
        "data": {
            "name": data.name,
            "digest": data.digest,
            "train": len(data.train_indices),
            "val": len(data.val_indices) if data.has_validation else 0,
            "validation": data.validation if data.has_validation else None,
            "val_digest": data.val_digest if data.has_validation else None,
            "test": len(data.test_indices),
        },
    }


def train(
    components: Components,
    record: Record,
    started: float,
    earlier: dict[str, Any] | None,
    checkpoint: Path | None,
) -> None:
    """Fit from the start or from a checkpoint; add the outcome to the result."""
    history, stopwatch = components.history, components.stopwatch
    trainer: Any = components.trainer
    model, result = components.classifier, record.result
    last = next((c for c in trainer.callbacks if isinstance(c, LastCheckpoint)), None)
    if trainer.is_global_zero:
        announce(result, record.folder)

    def saved() -> dict[str, Any]:
        """The epochs that count: those that can be resumed from."""
        epochs = last.epochs if last else len(history.epochs)
        return {"epochs": epochs, "history": history.epochs[:epochs]}

    def record_saved() -> None:
        result.update(saved())
        try:
            record.write()
        except OSError as error:  # the checkpoint is what counts
            path = record.folder / RESULT_FILE
            log.warning("Warning: %s not updated: %s; training continues", path, error.strerror)

    model.is_fresh &= checkpoint is None
    trainer.strategy.checkpoint_io.identity = run_identity(result)
    if last is None and trainer.is_global_zero:
        log.warning("Warning: without callbacks.last, this run cannot be resumed")
    if last:
        last.ends = duration(result["config"])
        last.on_saved = record_saved
        last.epochs = result.get("epochs", 0)
    try:
        trainer.fit(model, datamodule=components.data, ckpt_path=checkpoint, weights_only=True)
        stopped = stop_reason(components.named, trainer)
    finally:
        chosen = chosen_checkpoint(trainer)
        path = Path(chosen.best_model_path) if chosen else None
        best = history.by_step.get(step_of(path), {})
        began = stopwatch.started or time.perf_counter()
        result |= saved() | {
            "rates": history.rates,
            "checkpoint": os.path.relpath(path, record.folder.resolve()) if path else None,
            "chosen_by": chosen.monitor if chosen else None,
            "mode": chosen.mode if chosen and chosen.monitor else None,
            "best_epoch": best.get("epoch"),
            "val": figures(best, "val"),
            "images_per_second": stopwatch.images_per_second,
            "seconds": {"set_up": began - started, "training": stopwatch.training},
        }
    result["stopped"] = stopped
    if not stopwatch.images:
        limits = "trainer.limit_train_batches, max_steps or max_time"
        raise SettingError(f"{limits}: leaves nothing to train")
