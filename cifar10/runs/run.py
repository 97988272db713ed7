"""One run, from settings to result.json."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cifar10.core.errors import SettingError, UserError, one_line
from cifar10.runs.callbacks import to_floats
from cifar10.runs.checkpoint import chosen_checkpoint, step_of
from cifar10.runs.components import Components, Group, build_components, hyperparameters
from cifar10.runs.console import announce
from cifar10.runs.result import device_name, environment, settings_digest, write_final_result
from cifar10.runs.resume import resume_point
from cifar10.runs.run_dir import claim_run_dir, is_first_process
from cifar10.runs.signals import Interrupted, signals
from cifar10.training.hardware import is_out_of_memory

log = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    "The number of training batches .* is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",  # Hydra writes the settings there
    "Experiment logs directory .* exists and is not empty",
    "You're resuming from a checkpoint that ended before the epoch ended",  # the loader resumes
    "It is recommended to use .*sync_dist=True",  # images/s is the sum over processes
    "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning's own use of torch
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
    try:
        components = components or build_components(settings, folder)
        with user_errors(components, folder):
            describe(components, result)
            train(components, folder, result, started, earlier)
            test(components, folder, result)
        result["status"] = "ok"
    except Pruned as stop:
        result.update(status="pruned", error=str(stop))
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
        if lock:
            write_final_result(folder, result)
            lock.release()
    return result


def new_result(
    settings: Group, overrides: Sequence[str], earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "status": "running",
        "error": None,
        "overrides": list(overrides),
        "seed": settings.get("seed"),
        "settings": hyperparameters(settings),
        "config": settings,
        "config_digest": settings_digest(settings),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        **environment(),
    }
    if earlier:
        changed = [word for word in overrides if word not in earlier["overrides"]]
        now = {"overrides": changed} | {key: result[key] for key in ("commit", "clean", "versions")}
        result |= {key: earlier[key] for key in ("overrides", "started")}
        result["resumed"] = [*earlier.get("resumed", []), now]
    return result


@contextmanager
def user_errors(components: Components, folder: Path) -> Iterator[None]:
    """Turn errors of Lightning and torch that a user causes into user-facing ones."""
    try:
        yield
    except (OSError, UserError) as error:
        if folder.is_dir():
            raise
        raise UserError(f"{folder} was removed while the run was writing to it") from error
    except MisconfigurationException as error:
        raise SettingError(f"trainer or callbacks: {one_line(error)}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        setting = f"data.batch_size={components.data.batch_size}"
        reason = f"out of memory; a smaller batch needs less ({one_line(error)})"
        raise SettingError(f"{setting}: {reason}") from error


def describe(components: Components, result: dict[str, Any]) -> None:
    """Open the data; add network, hardware and data to the result."""
    trainer, network, data = components.trainer, components.classifier.network, components.data
    data.setup()
    result |= {
        "network": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "device": device_name(trainer.strategy.root_device, trainer.world_size),
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
    folder: Path,
    result: dict[str, Any],
    started: float,
    earlier: dict[str, Any] | None,
) -> None:
    """Fit from the start or from the last checkpoint; add the outcome to the result."""
    trainer, history, stopwatch = components.trainer, components.history, components.stopwatch
    if trainer.is_global_zero:
        announce(result, folder)
    checkpoint = resume_point(trainer, folder, result, earlier) if earlier else None
    model, data = components.classifier, components.data
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    finally:
        chosen = chosen_checkpoint(trainer)
        best = history.by_step.get(step_of(chosen), {})
        set_up = (stopwatch.started or time.perf_counter()) - started
        result |= {
            "epochs": len(history.epochs),
            "checkpoint": os.path.relpath(chosen, folder.resolve()) if chosen else None,
            "best_epoch": best.get("epoch"),
            "val": {k.removeprefix("val/"): v for k, v in best.items() if k.startswith("val/")},
            "history": history.epochs,
            "images_per_second": stopwatch.images_per_second,
            "seconds": {"set_up": set_up, "training": stopwatch.training},
        }
    if not stopwatch.images:
        raise SettingError("trainer.limit_train_batches or max_steps: leaves nothing to train")


def test(components: Components, folder: Path, result: dict[str, Any]) -> None:
    """Evaluate the chosen checkpoint on the test set, once; add the figures to the result."""
    trainer, model, data = components.trainer, components.classifier, components.data
    best = folder.resolve() / result["checkpoint"] if result["checkpoint"] else None
    tested = trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    if not tested:
        raise SettingError("trainer.limit_test_batches: leaves nothing to test")
    count = int(trainer.num_test_batches[0]) * data.batch_size
    result["data"]["tested"] = min(count, result["data"]["test"])
    for split in ("test", "test_views"):
        if figures := to_floats(tested[0], f"{split}/"):
            result[split] = {key.removeprefix(f"{split}/"): figures[key] for key in figures}
    result["seconds"]["evaluation"] = components.stopwatch.evaluation
