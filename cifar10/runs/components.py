"""The objects of a run, built from settings that are checked first."""

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lightning as L
from annotated_types import Ge
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from cifar10.core.errors import SettingError, UserError
from cifar10.core.instantiate import call_checked, instantiate
from cifar10.core.settings import flatten
from cifar10.data.checksums import IMAGE_SIZE
from cifar10.data.module import InMemoryDataModule, Seed
from cifar10.runs import load as trained
from cifar10.runs.callbacks import Agreement, History, Stopwatch, TensorBoardHParams
from cifar10.runs.checkpoint import AtomicCheckpointIO
from cifar10.runs.console import ProgressBar
from cifar10.runs.last_checkpoint import LastCheckpoint, RandomStates
from cifar10.training.classifier import Classifier
from cifar10.training.hardware import Hardware
from cifar10.training.muon import Fraction
from cifar10.training.probe import check_network

# Lightning's notices about devices and its makers' other products; a run states its own.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)

Group = dict[str, Any]


@dataclass
class Components:
    """All objects of a run; building them touches neither disk nor network."""

    data: InMemoryDataModule
    classifier: Classifier
    trainer: L.Trainer
    stopwatch: Stopwatch
    history: History
    hardware: Hardware


def build_components(settings: Group, folder: Path) -> Components:
    """Build a run's objects from its settings, checking every one of them.

    Raises:
        SettingError: a setting is unknown, missing, of the wrong type or out of range.
    """
    page = TensorBoardHParams(hyperparameters(settings))
    agreement = Agreement(flatten(settings))
    return call_checked(
        build_from_arguments, settings, "", folder=folder, page=page, agreement=agreement
    )


def build_from_arguments(
    folder: Path,
    page: TensorBoardHParams,
    agreement: Agreement,
    seed: Seed,
    label_smoothing: Fraction,
    teacher: str | None,
    teacher_weight: Fraction,
    test_views: bool,
    threads: Annotated[int, Ge(1)] | None,
    keep_memory: bool,
    compile: bool,
    deterministic: bool,
    data: Group,
    model: Group,
    optimizer: Group,
    scheduler: Group,
    trainer: Group,
    logger: Group | None = None,
    callbacks: Group | None = None,
) -> Components:
    if deterministic:  # cuBLAS reads it when CUDA starts, which the next line may do
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    hardware = Hardware.choose(
        precision=trainer.get("precision", "auto"),
        accelerator=str(trainer.get("accelerator", "auto")),
        threads=threads,
        processes=trainer.get("devices", 1),
        keep_memory=keep_memory,
        compile=compile,
    )
    data_module = instantiate(data, "data", InMemoryDataModule)
    L.seed_everything(seed, verbose=False)
    classifier = Classifier(
        model,
        optimizer,
        scheduler,
        label_smoothing,
        test_views,
        list(data_module.classes),
    )
    if teacher is not None:
        try:
            knowing = trained.load(teacher, "cpu")
            if knowing.classes != classifier.classes:
                raise SettingError(f"{teacher} knows other classes: {', '.join(knowing.classes)}")
            classifier.set_teacher(knowing, teacher_weight)
        except UserError as error:
            raise SettingError(f"teacher: {error}") from error
    classifier.build_optimizer(total_steps=1)  # a bad setting ends here, before data is fetched

    for key in ("max_epochs", "log_every_n_steps"):  # Lightning lets -1 and 0 pass
        if type(trainer.get(key)) is not int or trainer[key] < 1:
            raise SettingError(f"trainer.{key}={trainer.get(key)}: must be a whole number from 1")
    if trainer.get("val_check_interval") not in (None, 1.0):
        raise SettingError(
            f"trainer.val_check_interval={trainer['val_check_interval']}: must be 1.0, for a run "
            f"resumed from the middle of an epoch would leave out validations within it"
        )
    strategy = trainer.get("strategy")
    if "spawn" in str(strategy) or "fork" in str(strategy):  # figures would stay in the children
        raise SettingError(
            f"trainer.strategy={strategy}: must start processes of its own, as ddp does"
        )
    other_sizes = set(data_module.sides) - {IMAGE_SIZE}
    check_network(classifier.network, len(classifier.classes), other_sizes)
    classifier.set_memory_format(hardware.layout.value == "channels last")

    stopwatch, history = Stopwatch(), History()
    built: list[Callback] = [agreement, stopwatch, history, page, RandomStates()]
    for name, spec in chosen(callbacks, "callbacks"):
        if str(spec.get("monitor")).startswith("val/") and not data_module.has_validation:
            continue  # there is nothing to monitor, and the last epoch is the result
        place = {} if "dirpath" in spec else {"dirpath": str(folder)}
        built.append(instantiate(spec, f"callbacks.{name}", Callback, **place))
    # Last, so that it holds what the others made of the same epoch.
    built.sort(key=lambda callback: isinstance(callback, LastCheckpoint))
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    if on_terminal:
        built.append(ProgressBar(refresh_rate=5, leave=False))
    loggers = []
    for name, spec in chosen(logger, "logger"):
        place = {} if "save_dir" in spec else {"save_dir": str(folder)}
        loggers.append(instantiate(spec, f"logger.{name}", Logger, **place))
    defaults: Group = {"enable_progress_bar": on_terminal, "deterministic": deterministic}
    if not data_module.has_validation:
        defaults["limit_val_batches"] = 0
    built_trainer = instantiate(
        defaults | trainer | {"precision": hardware.precision.value},
        "trainer",
        L.Trainer,
        callbacks=built,
        plugins=[AtomicCheckpointIO()],
        logger=loggers,
        default_root_dir=str(folder),
    )
    if hardware.compile.value != "eager":
        classifier.network.compile()  # in place, so that checkpoints keep their keys
    return Components(data_module, classifier, built_trainer, stopwatch, history, hardware)


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
            flat[group] = str(values) if isinstance(values, list) else values
        elif group in ("data", "model", "optimizer", "scheduler", "trainer"):
            for key, value in values.items():
                if key == "_target_":
                    flat[group] = str(value).rpartition(".")[2]
                elif key not in ("dir", "sources", "download", "seed"):
                    plain_value = isinstance(value, bool | int | float | str)
                    flat[f"{group}.{key}"] = value if plain_value else str(value)
    return flat
