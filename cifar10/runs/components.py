"""The objects of a run, built from settings that are checked first."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from annotated_types import Ge, Gt, Le
from lightning.pytorch.callbacks import Callback, ProgressBar
from torch import nn

from cifar10.core.errors import SettingError, UserError
from cifar10.core.instantiate import call_checked, instantiate
from cifar10.core.own_code import source_digests
from cifar10.core.secrets import as_typed
from cifar10.data import IMAGE_SIZE
from cifar10.data.module import REPLACED, InMemoryDataModule, Seed
from cifar10.reports.loggers import build_loggers
from cifar10.runs.callback_settings import complete_callbacks
from cifar10.runs.callbacks import (
    FinalValidation,
    History,
    Hyperparameters,
    Stopwatch,
    TestLogits,
)
from cifar10.runs.changes import fixed_settings, overridden_keys
from cifar10.runs.checkpoint import AtomicCheckpointIO, require_loadable
from cifar10.runs.console import RunProgress
from cifar10.runs.identity import weights_digest
from cifar10.runs.last_checkpoint import LastCheckpoint, RandomStates
from cifar10.runs.load import load
from cifar10.runs.trainer_settings import build_profiler, check_trainer
from cifar10.runs.weights import Start, start_from
from cifar10.training.classifier import Classifier
from cifar10.training.finetune import freeze as freeze_layers
from cifar10.training.hardware import Hardware
from cifar10.training.muon import Fraction
from cifar10.training.network_check import check_network, check_rebuilt

# Lightning's notices about devices and related products; a run prints what matters itself.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)

START = "the weights at the start"  # key of a digest
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
    named: dict[str, Any]  # the objects that settings name, by dotted key
    start: Start | None  # what was taken over of other weights
    # SHA-256 of what settings only name: the user's own modules, a teacher's weights.
    digests: dict[str, str] = field(default_factory=dict)


def build_components(
    settings: Group,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    is_start: bool = True,
    typed: Sequence[str] = (),
    trial: str = "",
) -> Components:
    """Check a run's settings and build its objects.

    Args:
        callbacks: further ones, of which one that raises Pruned ends the run untested.
        is_start: otherwise a checkpoint will replace the weights, and `weights` need not exist.
        typed: overrides, whose settings come first in logs.
        trial: the run's varied settings, as `lr=0.1 seed=0`, in a sweep.

    Raises:
        SettingError: a setting does not fit.
    """
    first = overridden_keys(typed)
    if is_start and settings["data"].get("transform"):
        for key in {"data.flip", "data.shift"} & first:
            raise SettingError(f"{key}: {REPLACED}")
    if trial:  # only what differs
        varied = {word.partition("=")[0] for word in trial.split()}
        first = {key for key in first if key.rpartition(".")[2] in varied}
        trial = re.sub(r"\bseed=", "s", f"{trial} ({folder.absolute().parent.name})")
    logged = Hyperparameters(hyperparameters(settings), first, trial)
    given: Group = {"hparams": logged, "more_callbacks": callbacks}
    components = call_checked(build, settings, "", folder=folder, is_start=is_start, **given)
    sources = source_digests(fixed_settings(settings))
    components.digests = {f"module {name}": digest for name, digest in sources.items()}
    for teacher, _ in components.classifier.teachers:
        components.digests["teacher's weights"] = weights_digest(teacher.state_dict())
    if components.start:
        components.digests[START] = components.start.digest
    return components


def build(
    folder: Path,
    hparams: Hyperparameters,
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
    weights: str | None = None,
    freeze: Sequence[str] = (),
    head_lr_factor: Annotated[float, Gt(0), Le(1e6)] = 1.0,
    is_start: bool = True,
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
    recipe = (model, optimizer, scheduler, label_smoothing, test_views)
    classifier = Classifier(*recipe, classes=classes)
    if teacher is not None:
        add_teacher(classifier, teacher, teacher_weight)
    classifier.weight_names = set(classifier.state_dict())
    start = start_from(classifier, weights) if weights and is_start else None
    classifier.frozen = freeze_layers(classifier.network, freeze)
    classifier.head_lr_factor = head_lr_factor
    classifier.build_optimizer(total_steps=1)  # finds wrong settings before data is downloaded
    check_trainer(trainer)
    check_network(classifier.network, len(classes), set(data_module.sizes.values()) - {IMAGE_SIZE})
    check_rebuilt(lambda: instantiate(model, "model", nn.Module, num_classes=len(classes)))
    classifier.set_memory_format(hardware.layout.value == "channels last")
    if hardware.precision.value == "64-true":
        classifier.double()  # Lightning would only after it has loaded a checkpoint in float32

    validates = data_module.has_validation and trainer.get("limit_val_batches") != 0
    specs = complete_callbacks(callbacks, trainer, folder, validates, bool(logger))
    named = {f"callbacks.{name}": spec for name, spec in specs.items()}
    own = {where: instantiate(spec, where, Callback) for where, spec in named.items()}
    require_loadable({name: first_state(callback) for name, callback in own.items()})
    stopwatch, history, test_logits = Stopwatch(), History(), TestLogits()
    built = [stopwatch, test_logits, hparams, RandomStates(), *own.values()]
    # The history follows what may stop the training, the last checkpoint holds the state of all.
    built += [FinalValidation(), history, *more_callbacks]
    built.sort(key=lambda callback: isinstance(callback, LastCheckpoint))
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    has_bar = any(isinstance(callback, ProgressBar) for callback in built)
    defaults: Group = {
        "enable_progress_bar": on_terminal or has_bar,
        "deterministic": deterministic,
    }
    if not data_module.has_validation:
        defaults["limit_val_batches"] = 0
    trainer_settings = defaults | trainer | {"precision": hardware.precision.value}
    if trainer_settings["enable_progress_bar"] and on_terminal and not has_bar:
        built.append(RunProgress())
    profiler = build_profiler(trainer_settings.pop("profiler", None), folder)
    loggers = build_loggers(logger, folder)
    built_trainer = instantiate(
        trainer_settings,
        "trainer",
        L.Trainer,
        callbacks=built,
        plugins=[AtomicCheckpointIO()],
        logger=list(loggers.values()),
        profiler=profiler,
        default_root_dir=str(folder),
    )
    objects: Group = {**own, **loggers, "trainer.profiler": profiler}
    objects |= {"data.transform": data_module.transform, "model": classifier.network}
    if hardware.compile.value != "eager":
        classifier.network.compile()  # in place: checkpoints keep their keys
    parts = data_module, classifier, built_trainer, stopwatch, history, test_logits, hardware
    return Components(*parts, objects, start)


def first_state(callback: Callback) -> dict[str, Any]:
    """A callback's state before training; empty if not available yet."""
    try:
        return callback.state_dict()
    except Exception:  # it may need the trainer
        return {}


def add_teacher(classifier: Classifier, model: str, weight: float) -> None:
    """Have a classifier learn from a trained one, which must have the same classes."""
    try:
        teacher = load(model, "cpu")
    except UserError as error:
        raise SettingError(f"teacher={model}: {error}") from error
    if teacher.classes != classifier.classes:
        raise SettingError(f"teacher={model}: has other classes: {', '.join(teacher.classes)}")
    try:
        teacher.predict(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8))
    except UserError as error:
        raise SettingError(f"teacher={model}: {error}") from error
    classifier.set_teacher(teacher, weight)


LOCAL_DATA = ("dir", "sources", "download", "seed")
GROUPS = ("data", "model", "optimizer", "scheduler", "trainer")


def hyperparameters(settings: Group) -> dict[str, Any]:
    """The settings that runs are compared by: dotted keys, plain values, lists as text."""
    flat: dict[str, Any] = {}
    for group, values in as_typed(settings).items():
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
