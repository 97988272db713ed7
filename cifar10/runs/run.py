"""One training run, from settings to result.json."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cifar10.core.errors import SettingError, UserError, one_line, raised_by
from cifar10.reports.gallery import Gallery
from cifar10.runs import checkpoint, resume
from cifar10.runs import console as terminal
from cifar10.runs import result as results
from cifar10.runs.callbacks import to_floats
from cifar10.runs.checkpoint import read_checkpoint
from cifar10.runs.components import Components, Group, build_components, hyperparameters
from cifar10.runs.run_dir import claim_run_dir
from cifar10.runs.signals import Interrupted, signals
from cifar10.training.hardware import is_out_of_memory

log = logging.getLogger(__name__)


class Pruned(Exception):
    """A callback ends the run before its last epoch, as a search does with a poor trial."""


NOTICES = (
    "The number of training batches .* is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",  # Hydra has put the settings there
    "Experiment logs directory .* exists and is not empty",
    "You're resuming from a checkpoint that ended before the epoch ended",  # LastCheckpoint seeks
    "It is recommended to use .*sync_dist=True",  # speed is counted over all processes already
    "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning's own use of torch
)


def run(
    settings: Group,
    folder: Path,
    overrides: Sequence[str] = (),
    started: float | None = None,
    earlier: dict[str, Any] | None = None,
    watchers: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train, test the best checkpoint, and leave a result.json whatever happens.

    Where several processes train together, the first of them alone writes and speaks.

    Args:
        settings: plain values, as `configs/train.yaml` composes them.
        folder: for checkpoints, logs and result.json; made if missing.
        overrides: what the user changed, for the record.
        started: time.perf_counter() from which set-up is counted; now by default.
        earlier: the result.json of the run in `folder`, to go on with it; None for a fresh run.
        watchers: callbacks that are no setting of the run; one that raises Pruned ends it untested.

    Returns:
        What stands in result.json.

    Raises:
        UserError: a setting, the data or the folder cannot be used, or the loss was not finite.
    """
    started = time.perf_counter() if started is None else started
    first = rank_zero_only.rank == 0
    result: dict[str, Any] = {
        "status": "running",
        "error": None,
        "overrides": list(overrides),
        "seed": settings.get("seed"),
        "settings": hyperparameters(settings),
        "config": settings,
        "config_digest": results.settings_digest(settings),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        **results.environment(),
    }
    if earlier:
        result.update({key: earlier[key] for key in ("overrides", "started")})
        typed = [word for word in overrides if word not in earlier["overrides"]]
        here = {key: result[key] for key in ("commit", "clean", "versions")}
        result["resumed"] = [*earlier.get("resumed", []), {"overrides": typed} | here]
    lock = claim_run_dir(folder, result, fresh=earlier is None) if first else None
    for notice in NOTICES:
        warnings.filterwarnings("ignore", notice)
    warnings.filterwarnings("ignore", module="PIL")  # a bad picture is told of in one line
    parts = None
    try:
        parts = build_components(settings, folder)
        parts.trainer.callbacks.extend(watchers)
        try:
            train_and_test(parts, folder, result, started, earlier)
        except (OSError, UserError) as error:
            if folder.is_dir():
                raise
            raise UserError(f"{folder} was removed while the run was writing to it") from error
        except (MisconfigurationException, ValueError) as error:
            if not raised_by(error, "lightning"):
                raise
            raise SettingError(f"trainer or callbacks: {one_line(error)}") from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise SettingError(
                f"data.batch_size={parts.data.batch_size}: memory ran out, and a smaller batch "
                f"needs less ({one_line(error)})"
            ) from error
        result["status"] = "ok"
    except Pruned as stop:
        result.update(status="pruned", error=str(stop))
    except (KeyboardInterrupt, SystemExit, Interrupted) as stop:
        result.update(status="interrupted", error=one_line(stop))
        raise
    except BaseException as error:
        result.update(status="failed", error=f"{type(error).__name__}: {one_line(error)}")
        if first and parts:
            end_other_ranks(parts.trainer)
        raise
    finally:
        signals.release()
        result["seconds"] = result.get("seconds", {}) | {"total": time.perf_counter() - started}
        if lock:
            write_final_result(folder, result)
            lock.release()
    for callback in parts.trainer.callbacks:
        if first and isinstance(callback, Gallery) and result["status"] == "ok":
            callback.draw(parts.trainer, folder, result)
    return result


def write_final_result(folder: Path, result: dict[str, Any]) -> None:
    """Write the result; where it cannot be, that must not hide what else went wrong."""
    try:
        results.write_result(folder, result)
    except OSError as error:
        message = f"{folder / results.RESULT_FILE} cannot be written: {error.strerror}"
        if result["status"] == "ok":
            raise UserError(message) from error
        if folder.is_dir():
            log.warning("%s", message)


def end_other_ranks(trainer: L.Trainer) -> None:
    """Kill the processes that Lightning started: they would wait for this one, then complain."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(signal.SIGKILL)


def train_and_test(
    parts: Components,
    folder: Path,
    result: dict[str, Any],
    started: float,
    earlier: dict[str, Any] | None,
) -> None:
    """Fit, then score the test set once; fills in `result` as it goes."""
    trainer, classifier, data = parts.trainer, parts.classifier, parts.data
    stopwatch, history = parts.stopwatch, parts.history
    result.update(
        network=type(classifier.network).__name__,
        parameters=sum(p.numel() for p in classifier.network.parameters()),
        **{name: choice._asdict() for name, choice in parts.hardware._asdict().items()},
        device=device_name(trainer.strategy.root_device, trainer.world_size),
    )
    data.setup()
    result["data"] = {
        "name": data.name,
        "digest": data.digest,
        "train": len(data.train_indices),
        "val": len(data.val_indices) if data.has_validation else 0,
        "validation": data.validation if data.has_validation else None,
        "val_digest": data.val_digest if data.has_validation else None,
        "test": len(data.test_indices),
    }
    if trainer.is_global_zero:
        terminal.announce(result, folder)
    if earlier and earlier.get("data", {}).get("digest") not in (None, data.digest):
        raise SettingError(
            f"data: {data.name} has images that are not those the run began with; start another run"
        )
    path = None
    if earlier and (found := checkpoint.find_resumable(folder)):
        path, step = found
        if path.name == checkpoint.PREVIOUS and trainer.is_global_zero:
            checkpoint.set_aside_corrupt_last(folder)
        resume.continue_logs(trainer.loggers, step)
    elif earlier and earlier.get("epochs"):
        raise UserError(
            f"{folder} holds no {checkpoint.LAST} of the {earlier['epochs']} epochs that it says "
            f"were trained, so there is nothing to go on from"
        )
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=path, weights_only=True)
    finally:
        chosen = chosen_checkpoint(trainer)
        best = history.by_step.get(step_of(chosen), {})
        result.update(
            epochs=len(history.epochs),
            checkpoint=os.path.relpath(chosen, folder.resolve()) if chosen else None,
            best_epoch=best.get("epoch"),
            val={k.removeprefix("val/"): v for k, v in best.items() if k.startswith("val/")},
            history=history.epochs,
            images_per_second=stopwatch.images_per_second,
            seconds={
                "set_up": (stopwatch.started or time.perf_counter()) - started,
                "training": stopwatch.training,
            },
        )
    if not stopwatch.images:
        raise SettingError("no step was trained: the trainer's limits leave no batch")
    tested = trainer.test(
        classifier, datamodule=data, ckpt_path=chosen, verbose=False, weights_only=True
    )
    if not tested:
        raise SettingError("nothing was tested: the trainer's limits leave no test batch")
    scored = trainer.num_test_batches[0] * data.batch_size  # limits may leave some out
    result["data"]["tested"] = min(scored, result["data"]["test"])
    figures = to_floats(tested[0])
    for split in ("test", "test_views"):
        own = {k.partition("/")[2]: v for k, v in figures.items() if k.startswith(f"{split}/")}
        if own:
            result[split] = own
    result["seconds"]["evaluation"] = stopwatch.evaluation


def chosen_checkpoint(trainer: L.Trainer) -> Path | None:
    """The file that this run's monitoring callback kept, else its last one."""
    callbacks = sorted(trainer.checkpoint_callbacks, key=lambda callback: callback.monitor is None)
    paths = [callback.best_model_path for callback in callbacks if callback.best_model_path]
    return Path(paths[0]) if paths else None


def step_of(path: Path | None) -> int | None:
    """The optimizer step a checkpoint was written at; None where a broken-off run left no whole."""
    try:
        return read_checkpoint(path)["global_step"] if path else None
    except UserError:
        return None


def device_name(device: torch.device, count: int = 1) -> str:
    """Devices as people call them: `8 x NVIDIA A100`, `AMD EPYC, 2 threads`, `mps`."""
    name = str(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    if device.type == "cpu":
        name = f"{results.cpu_name()}, {torch.get_num_threads()} threads"
    return f"{count} x {name}" if count > 1 else name
