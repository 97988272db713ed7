"""One training run, from settings to result.json."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from cifar10 import results, terminal
from cifar10.build import build, call
from cifar10.callbacks import History, HyperparameterPage, Stopwatch, plain
from cifar10.classifier import Classifier
from cifar10.data.module import CIFAR10DataModule, Seed
from cifar10.errors import SettingError, one_line
from cifar10.optim import Fraction
from cifar10.precision import Precision, choose

# Lightning's notices about devices and its makers' other products; a run states its own.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)
NOTICES = (
    "The number of training batches .* is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",  # Hydra has put the settings there
    "Experiment logs directory .* exists and is not empty",
    "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning's own use of torch
)

Group = dict[str, Any]


@dataclass
class Parts:
    """All objects of a run; building them touches neither disk nor network."""

    data: CIFAR10DataModule
    classifier: Classifier
    trainer: L.Trainer
    stopwatch: Stopwatch
    history: History
    precision: Precision


def assemble(settings: Group, folder: Path) -> Parts:
    """Build a run's objects from its settings, checking every one of them.

    Raises:
        SettingError: a setting is unknown, missing, of the wrong type or out of range.
    """
    page = HyperparameterPage(hyperparameters(settings))
    return call(build_parts, settings, "", folder=folder, page=page)


def build_parts(
    folder: Path,
    page: HyperparameterPage,
    seed: Seed,
    label_smoothing: Fraction,
    data: Group,
    model: Group,
    optimizer: Group,
    scheduler: Group,
    trainer: Group,
    logger: Group | None = None,
    callbacks: Group | None = None,
) -> Parts:
    data_module = build(data, "data", CIFAR10DataModule)
    L.seed_everything(seed, verbose=False)
    classifier = Classifier(model, optimizer, scheduler, label_smoothing)
    classifier.build_optimizer(total_steps=1)  # a bad setting ends here, before data is fetched

    for key in ("max_epochs", "log_every_n_steps"):  # Lightning lets -1 and 0 pass
        if type(trainer.get(key)) is not int or trainer[key] < 1:
            raise SettingError(f"trainer.{key}={trainer.get(key)}: must be a whole number from 1")
    precision = choose(trainer.get("precision", "auto"), str(trainer.get("accelerator", "auto")))
    classifier.lay_out(precision.channels_last)

    stopwatch, history = Stopwatch(), History()
    built: list[Callback] = [stopwatch, history, page]
    for name, spec in chosen(callbacks, "callbacks"):
        if str(spec.get("monitor")).startswith("val/") and not data_module.has_validation:
            continue  # there is nothing to monitor, and the last epoch is the result
        built.append(build({"dirpath": str(folder)} | spec, f"callbacks.{name}", Callback))
    on_terminal = sys.stdout.isatty()
    if on_terminal:
        built.append(terminal.ProgressBar(refresh_rate=5, leave=False))
    loggers = [
        build({"save_dir": str(folder)} | spec, f"logger.{name}", Logger)
        for name, spec in chosen(logger, "logger")
    ]
    defaults: Group = {"enable_progress_bar": on_terminal}
    if not data_module.has_validation:
        defaults["limit_val_batches"] = 0
    return Parts(
        data_module,
        classifier,
        build(
            defaults | trainer | {"precision": precision.value},
            "trainer",
            L.Trainer,
            callbacks=built,
            logger=loggers,
            default_root_dir=str(folder),
        ),
        stopwatch,
        history,
        precision,
    )


def chosen(group: Group | None, where: str) -> Iterator[tuple[str, Group]]:
    """The specifications of a group that has several, without those set to null."""
    for name, spec in (group or {}).items():
        if spec is not None:
            if not isinstance(spec, dict):
                raise SettingError(f"{where}.{name}={spec!r}: must be a group of settings")
            yield name, spec


def hyperparameters(settings: Group) -> dict[str, Any]:
    """The settings that runs are compared by: dotted key, plain value; lists as text."""
    flat: dict[str, Any] = {}
    for group, values in settings.items():
        if not isinstance(values, dict):
            flat[group] = values
        elif group in ("data", "model", "optimizer", "scheduler", "trainer"):
            for key, value in values.items():
                if key == "_target_":
                    flat[group] = str(value).rpartition(".")[2]
                elif key not in ("dir", "sources", "download", "seed"):
                    plain_value = isinstance(value, bool | int | float | str)
                    flat[f"{group}.{key}"] = value if plain_value else str(value)
    return flat


def run(
    settings: Group, folder: Path, overrides: Sequence[str] = (), started: float | None = None
) -> dict[str, Any]:
    """Train, test the best checkpoint, and leave a result.json whatever happens.

    Where several processes train together, the first of them alone writes and speaks.

    Args:
        settings: plain values, as `configs/train.yaml` composes them.
        folder: for checkpoints, logs and result.json; made if missing.
        overrides: what the user changed, for the record.
        started: time.perf_counter() from which set-up is counted; now by default.

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
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        **results.surroundings(),
    }
    if first:
        results.claim(folder, result)
    for notice in NOTICES:
        warnings.filterwarnings("ignore", notice)
    try:
        parts = assemble(settings, folder)
        train_and_test(parts, folder, result, started)
        result["status"] = "ok"
    except (KeyboardInterrupt, SystemExit) as stop:
        result.update(status="interrupted", error=one_line(stop))
        raise
    except BaseException as error:
        result.update(status="failed", error=f"{type(error).__name__}: {one_line(error)}")
        raise
    finally:
        result["seconds"] = result.get("seconds", {}) | {"total": time.perf_counter() - started}
        if first:
            results.write(folder, result)
    return result


def train_and_test(parts: Parts, folder: Path, result: dict[str, Any], started: float) -> None:
    """Fit, then score the test set once; fills in `result` as it goes."""
    trainer, classifier, data = parts.trainer, parts.classifier, parts.data
    stopwatch, history = parts.stopwatch, parts.history
    result.update(
        network=type(classifier.network).__name__,
        parameters=sum(p.numel() for p in classifier.network.parameters()),
        precision=parts.precision._asdict(),
        device=device_name(trainer.strategy.root_device),
    )
    data.setup()
    result["data"] = {
        "name": data.name,
        "train": len(data.train_indices),
        "val": len(data.val_indices) if data.has_validation else 0,
        "validation": data.validation if data.has_validation else None,
        "val_digest": data.val_digest if data.has_validation else None,
        "test": len(data.test_indices),
    }
    if trainer.is_global_zero:
        terminal.announce(result, folder)
    try:
        trainer.fit(classifier, datamodule=data)
    finally:
        checkpoint = next(
            (path for name in ("best", "last") if (path := folder / f"{name}.ckpt").is_file()), None
        )
        best = torch.load(checkpoint, map_location="meta") if checkpoint else None
        result.update(
            epochs=len(history.epochs),
            checkpoint=checkpoint.name if checkpoint else None,
            best_epoch=best["epoch"] + 1 if best else None,
            val=history.validations.get(best["global_step"], {}) if best else {},
            history=history.epochs,
            images_per_second=stopwatch.images_per_second,
            seconds={
                "set_up": (stopwatch.first_epoch or time.perf_counter()) - started,
                "training": stopwatch.training,
            },
        )
    tested = trainer.test(
        classifier, datamodule=data, ckpt_path=checkpoint, verbose=False, weights_only=True
    )[0]
    result["test"] = {k.removeprefix("test/"): v for k, v in plain(tested).items()}
    result["seconds"]["evaluation"] = stopwatch.evaluation


def device_name(device: torch.device) -> str:
    """A device as people call it: `NVIDIA A100`, `AMD EPYC, 2 threads`, `mps`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{results.processor()}, {torch.get_num_threads()} threads"
    return str(device)
