"""Callbacks from settings: those that would falsify a result are refused, others completed."""

import contextlib
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from lightning.pytorch import callbacks as lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import check_types, import_class, is_user_code, signature_parameters
from cifar10.runs.checkpoint import LAST, PREVIOUS

Group = dict[str, Any]

REFUSED: dict[type[Callback], str] = {
    lightning.BatchSizeFinder: "changes data.batch_size during the run; set data.batch_size",
    lightning.LearningRateFinder: "changes optimizer.lr during the run; set optimizer.lr",
    lightning.StochasticWeightAveraging: "averages weights after the last checkpoint is saved; "
    "use callbacks=ema",
    lightning.ModelPruning: "replaces parameters, so checkpoints no longer fit the network",
    lightning.BackboneFinetuning: "needs a LightningModule with a `backbone`, which Classifier is "
    "not",
    lightning.OnExceptionCheckpoint: "makes every run resume from the file that it finds; "
    "callbacks.last already saves a run that is interrupted",
}
ABSTRACT = (lightning.BaseFinetuning, lightning.BasePredictionWriter, lightning.Checkpoint)
NEED_LOGGER = (
    lightning.LearningRateMonitor,
    lightning.DeviceStatsMonitor,
    lightning.ThroughputMonitor,
)
OWN_STOP = "a callback asked to stop"
STOPS = (lightning.EarlyStopping, lightning.Timer)  # callbacks that only end a training
AVERAGES = (".EMA", ".EMAWeightAveraging", ".WeightAveraging")  # of weights, in checkpoints
TRAIN_METRICS = ("train/loss", "train/top1")
VAL_METRICS = ("val/loss", "val/top1", "val/top3", "val/top5")


def complete_callbacks(
    group: Mapping[str, Any] | None, trainer: Group, folder: Path, validates: bool, has_logger: bool
) -> dict[str, Group]:
    """The specifications of a run's callbacks, with the arguments that follow from the others.

    Args:
        group: specifications by name; null leaves one out.
        trainer: settings of the Trainer.
        folder: of the run, where checkpoints are saved unless a `dirpath` is set.
        validates: whether the run has validation images; without, `best` is left out.

    Raises:
        SettingError: a callback would change a setting, save other weights than those that were
            evaluated, or monitors a metric that the run does not log.
    """
    complete: dict[str, Group] = {}
    files: dict[Path, str] = {}
    chosen = {name: spec for name, spec in (group or {}).items() if spec is not None}
    targets = [spec.get("_target_") for spec in chosen.values() if isinstance(spec, dict)]
    own_metrics = any(map(is_user_code, targets))  # which only their author knows
    averages = any(str(target).endswith(AVERAGES) for target in targets)
    for name, spec in chosen.items():
        where = f"callbacks.{name}"
        if not isinstance(spec, dict):
            raise SettingError(f"{where}={spec!r}: must be a group of settings with a _target_")
        cls = import_class(spec.get("_target_"), where, Callback)
        refuse_class(cls, where, has_logger)
        named, _ = signature_parameters(cls)
        spec = (
            dict(spec) if is_user_code(cls.__module__) else check_types(limits, spec, f"{where}.")
        )
        if "monitor" in named and (monitor := spec.get("monitor")):
            if name == "best" and not validates and monitor in VAL_METRICS:
                continue  # the last epoch is the result
            check_metric(f"{where}.monitor", monitor, validates, own_metrics)
            complete_monitor(spec, where, monitor, named, trainer)
        if issubclass(cls, lightning.ModelCheckpoint):
            if not isinstance(spec.get("dirpath"), str | None):
                raise SettingError(f"{where}.dirpath={spec['dirpath']!r}: must be text")
            spec["dirpath"] = os.path.normpath(folder.absolute() / (spec.get("dirpath") or ""))
            check_files(spec, where, files, folder)
            if averages and spec.get("save_weights_only"):
                reason = "the file would lack the averaged weights; remove the setting"
                raise SettingError(f"{where}.save_weights_only=true: {reason}")
        complete[name] = spec
    return complete


def limits(patience: Annotated[int, Ge(0)]) -> None:
    """Arguments of EarlyStopping that Lightning does not check."""


def refuse_class(cls: type[Callback], where: str, has_logger: bool) -> None:
    name = cls.__name__
    for refused, reason in REFUSED.items():
        if issubclass(cls, refused):
            raise SettingError(f"{where}: {name} {reason}")
    if cls in ABSTRACT:
        raise SettingError(f"{where}: {name} is a base class; use a subclass")
    if issubclass(cls, NEED_LOGGER) and not has_logger:
        raise SettingError(f"{where}: {name} needs a logger; add logger=csv")
    if issubclass(cls, lightning.DeviceStatsMonitor) and find_spec("psutil") is None:
        raise SettingError(f"{where}: {name} needs psutil; run pip install psutil")


def check_metric(where: str, metric: str, validates: bool, own_metrics: bool) -> None:
    logged = [*TRAIN_METRICS, *(VAL_METRICS if validates else ())]
    if metric in VAL_METRICS and not validates:
        reason = "the run has no validation images"
    elif metric in logged:
        return
    elif close := difflib.get_close_matches(
        metric.replace("_", "/"), logged, 1, 1 if own_metrics else 0.9
    ):
        raise SettingError(f"{where}={metric}: no such metric; did you mean {close[0]}?")
    elif own_metrics:
        return
    else:
        reason = "no such metric"
    raise SettingError(f"{where}={metric}: {reason}; choose from {', '.join(logged)}")


def complete_monitor(
    spec: Group, where: str, monitor: str, named: Mapping[str, Any], trainer: Group
) -> None:
    """Set the mode that a metric has, and check it when its value is new."""
    right: Group = {}
    if monitor in (*TRAIN_METRICS, *VAL_METRICS):
        right["mode"] = "min" if monitor.endswith("loss") else "max"
        in_training = monitor in TRAIN_METRICS
        right |= dict.fromkeys(("save_on_train_epoch_end", "check_on_train_epoch_end"), in_training)
    elif "mode" in named and "mode" not in spec:
        raise SettingError(f"{where}.mode: required with monitor={monitor}; set min or max")
    for key in right.keys() & named.keys():
        if spec.get(key) not in (None, right[key]):
            reason = f"{monitor} needs {key}={str(right[key]).lower()}; remove the setting"
            raise SettingError(f"{where}.{key}={str(spec[key]).lower()}: {reason}")
        spec[key] = right[key]
    every = trainer.get("check_val_every_n_epoch", 1)
    if "check_on_train_epoch_end" in named and monitor in TRAIN_METRICS and every != 1:
        reason = f"must be 1 with {where}.monitor={monitor}"
        raise SettingError(f"trainer.check_val_every_n_epoch={every}: {reason}")
    for key in ("every_n_train_steps", "train_time_interval"):
        if spec.get(key) and key in named:
            reason = f"would save weights with an earlier {monitor}; remove it or the monitor"
            raise SettingError(f"{where}.{key}={spec[key]}: {reason}")


def check_files(spec: Group, where: str, files: dict[Path, str], folder: Path) -> None:
    """Refuse a ModelCheckpoint whose files would replace each other or those of another one."""
    name, target = spec.get("filename"), Path(spec["dirpath"])
    is_last = str(spec.get("_target_")).endswith(".LastCheckpoint")
    if is_last and target != folder.absolute():
        reason = "a run resumes from the file in its own folder; remove the setting"
        raise SettingError(f"{where}.dirpath={target}: {reason}")
    if spec.get("save_last") == "link":  # Lightning removes whatever has the link's name
        raise SettingError(f"{where}.save_last=link: not supported; set true for a copy")
    if spec.get("save_last") and target == folder.absolute():
        raise SettingError(f"{where}.save_last: callbacks.last already saves {LAST}; remove it")
    if re.search(r"[{}]", re.sub(r"\{[^\[\]{}!:]*(:[^{}]*)?\}", "", str(name))):
        form = "must have metrics alone in braces, as in {epoch} or {val/loss:.3f}"  # no attributes
        raise SettingError(f"{where}.filename={name}: {form}")
    if name is None or is_last:
        return
    if (file := target / f"{name}.ckpt").name in (LAST, PREVIOUS):
        raise SettingError(f"{where}.filename={name}: reserved for callbacks.last; choose another")
    if file in files:
        raise SettingError(f"{where}.filename={name}: also the file of {files[file]}")
    files[file] = where
    overwrites = spec.get("enable_version_counter") is False and "{" not in str(name)
    if overwrites and spec.get("save_top_k", 1) not in (0, 1):
        reason = f"the files need different names; set {where}.filename='{name}-{{epoch}}'"
        raise SettingError(f"{where}.save_top_k={spec['save_top_k']}: {reason}")


def stop_reason(named: Mapping[str, Any], trainer: Any) -> str | None:
    """Which callback or limit ended a training before its last epoch; None if none did.

    `named` has the run's callbacks by dotted key.
    """
    is_cut = not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    earlier = trainer.current_epoch < trainer.max_epochs
    if trainer.max_steps == trainer.global_step and (is_cut or earlier):
        return f"trainer.max_steps={trainer.max_steps} was reached"
    if not trainer.should_stop:
        return None
    for name, callback in named.items():
        if isinstance(callback, lightning.EarlyStopping) and callback.stopping_reason_message:
            Reason = EarlyStoppingReason
            reasons = {
                Reason.PATIENCE_EXHAUSTED: f"has not improved, patience {callback.patience}",
                Reason.STOPPING_THRESHOLD: f"reached {callback.stopping_threshold}",
                Reason.DIVERGENCE_THRESHOLD: f"passed {callback.divergence_threshold}",
            }
            reason = reasons.get(callback.stopping_reason, "is not finite")
            return f"{name}: {callback.monitor} {reason}"
    if any(
        isinstance(c, lightning.Timer) and (c.time_remaining() or 0) <= 0 for c in trainer.callbacks
    ):
        return "the time limit was reached"
    return OWN_STOP


def names_of_stops(group: Mapping[str, Any] | None) -> Sequence[str]:
    """The dotted names of the callbacks in a run's settings that only end its training."""
    found = []
    for name, spec in (group or {}).items():
        with contextlib.suppress(SettingError):  # of a class that is gone, or not trusted now
            target = spec.get("_target_") if isinstance(spec, dict) else None
            if issubclass(import_class(target, "", Callback), STOPS):
                found.append(f"callbacks.{name}")
    return found
