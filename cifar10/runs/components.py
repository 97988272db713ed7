"""The objects of a run, built from settings that are checked first."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import lightning as L
from annotated_types import Ge
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from cifar10.core.errors import SettingError, UserError
from cifar10.core.instantiate import call_checked, instantiate
from cifar10.data import IMAGE_SIZE
from cifar10.data.module import InMemoryDataModule, Seed
from cifar10.runs.callbacks import History, Stopwatch, TensorBoardHParams, TestLogits
from cifar10.runs.checkpoint import AtomicCheckpointIO
from cifar10.runs.console import RunProgress
from cifar10.runs.last_checkpoint import LastCheckpoint, RandomStates
from cifar10.runs.load import load
from cifar10.training.classifier import Classifier, check_network
from cifar10.training.hardware import Hardware
from cifar10.training.muon import Fraction

# Lightning's notices about devices and related products; a run prints what matters itself.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)

T = TypeVar("T")
Group = dict[str, Any]


@dataclass
class Components:
    """All objects of a run. Building them writes no file and needs no network."""

    data: InMemoryDataModule
    classifier: Classifier
    trainer: L.Trainer
    stopwatch: Stopwatch
    history: History
    test_logits: TestLogits
    hardware: Hardware


def build_components(
    settings: Group, folder: Path, callbacks: Sequence[Callback] = ()
) -> Components:
    """Check a run's settings and build its objects.

    `callbacks` are further ones, of which one that raises Pruned ends the run untested.
    """
    given = {"hparams": hyperparameters(settings), "more_callbacks": callbacks}
    return call_checked(build, settings, "", folder=folder, **given)


def build(
    folder: Path,
    hparams: dict[str, Any],
    more_callbacks: Sequence[Callback],
    seed: Seed,
    label_smoothing: Fraction,
    teacher: str | None,
    teacher_weight: Fraction,
    test_views: bool,
    report: bool,
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
    classes = list(data_module.classes)
    classifier = Classifier(model, optimizer, scheduler, label_smoothing, test_views, classes)
    if teacher is not None:
        add_teacher(classifier, teacher, teacher_weight)
    classifier.build_optimizer(total_steps=1)  # finds wrong settings before data is downloaded
    check_trainer(trainer)
    check_network(classifier.network, len(classes), set(data_module.sizes.values()) - {IMAGE_SIZE})
    classifier.set_memory_format(hardware.layout.value == "channels last")

    stopwatch, history, test_logits = Stopwatch(), History(), TestLogits()
    built: list[Callback] = [stopwatch, history, test_logits, TensorBoardHParams(hparams)]
    built += [RandomStates(), *more_callbacks]
    if not data_module.has_validation:  # nothing to monitor: the last epoch is the result
        callbacks = {
            name: spec
            for name, spec in (callbacks or {}).items()
            if not (isinstance(spec, dict) and str(spec.get("monitor")).startswith("val/"))
        }
    built += instantiate_each(callbacks, "callbacks", Callback, dirpath=str(folder))
    # The last checkpoint holds the state of all others after the same epoch.
    built.sort(key=lambda callback: isinstance(callback, LastCheckpoint))
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    defaults: Group = {"enable_progress_bar": on_terminal, "deterministic": deterministic}
    if not data_module.has_validation:
        defaults["limit_val_batches"] = 0
    trainer_settings = defaults | trainer | {"precision": hardware.precision.value}
    if trainer_settings["enable_progress_bar"] and on_terminal:
        built.append(RunProgress())
    built_trainer = instantiate(
        trainer_settings,
        "trainer",
        L.Trainer,
        callbacks=built,
        plugins=[AtomicCheckpointIO()],
        logger=instantiate_each(logger, "logger", Logger, save_dir=str(folder)),
        default_root_dir=str(folder),
    )
    if hardware.compile.value != "eager":
        classifier.network.compile()  # in place: checkpoints keep their keys
    return Components(
        data_module, classifier, built_trainer, stopwatch, history, test_logits, hardware
    )


def instantiate_each(group: Group | None, where: str, kind: type[T], **defaults: Any) -> list[T]:
    """The objects of a group of specifications, without those set to null."""
    objects = []
    for name, spec in (group or {}).items():
        if spec is not None:
            typed = spec if isinstance(spec, dict) else {}
            given = {key: value for key, value in defaults.items() if key not in typed}
            objects.append(instantiate(spec, f"{where}.{name}", kind, **given))
    return objects


def add_teacher(classifier: Classifier, model: str, weight: float) -> None:
    """Have a classifier learn from a trained one, which must have the same classes."""
    try:
        teacher = load(model, "cpu")
    except UserError as error:
        raise SettingError(f"teacher={model}: {error}") from error
    if teacher.classes != classifier.classes:
        raise SettingError(f"teacher={model}: has other classes: {', '.join(teacher.classes)}")
    classifier.set_teacher(teacher, weight)


def check_trainer(trainer: Group) -> None:
    """Raise a SettingError for what Lightning's Trainer accepts and a run here cannot do."""
    for key in ("max_epochs", "log_every_n_steps"):  # Lightning accepts -1 and 0
        value = trainer.get(key)
        if type(value) is not int or value < 1:
            raise SettingError(f"trainer.{key}={value}: must be an integer of at least 1")
    if (interval := trainer.get("val_check_interval")) not in (None, 1.0):
        raise SettingError(
            f"trainer.val_check_interval={interval}: must be 1.0; a run that resumes in the middle "
            f"of an epoch would skip validations within it"
        )
    strategy = trainer.get("strategy")
    if "spawn" in str(strategy) or "fork" in str(strategy):  # results would stay in the children
        raise SettingError(f"trainer.strategy={strategy}: not supported; use ddp")


LOCAL_DATA = ("dir", "sources", "download", "seed")
GROUPS = ("data", "model", "optimizer", "scheduler", "trainer")


def hyperparameters(settings: Group) -> dict[str, Any]:
    """The settings that runs are compared by: dotted keys, plain values, lists as text."""
    flat: dict[str, Any] = {}
    for group, values in settings.items():
        if not isinstance(values, dict):
            if group != "report":
                flat[group] = str(values) if isinstance(values, list) else values
        elif group in GROUPS:
            for key, value in values.items():
                if key == "_target_":
                    flat[group] = str(value).rpartition(".")[2]
                elif key not in LOCAL_DATA:
                    is_plain = isinstance(value, bool | int | float | str)
                    flat[f"{group}.{key}"] = value if is_plain else str(value)
    return flat
