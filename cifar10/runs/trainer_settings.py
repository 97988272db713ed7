"""Settings of Lightning's Trainer: limits, profilers, and runs on a part of the data."""

import glob
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    PassThroughProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import check_types, instantiate

Positive = Annotated[int, Ge(1)]
Share = Annotated[float, Interval(ge=0, le=1)] | Annotated[int, Ge(0)]
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
PROFILE = "profile"  # name of a profiler's file, without the stage before it
PARTS = (
    "fast_dev_run",
    *(f"limit_{split}_batches" for split in ("train", "val", "test")),
)
WHOLE = ((float, 1.0), (float, 0.0), (int, 0))  # the values of these that mean all of the data


def limits(
    max_epochs: Positive,
    log_every_n_steps: Positive,
    min_epochs: Positive | None,
    max_steps: Positive | Literal[-1],
    min_steps: Positive | None,
    limit_train_batches: Share | None,
    limit_val_batches: Share | None,
    limit_test_batches: Share | None,
    limit_predict_batches: Share | None,
    fast_dev_run: bool | Annotated[int, Ge(0)],
    check_val_every_n_epoch: Positive,
    num_sanity_val_steps: Annotated[int, Ge(-1)] | None,
    accumulate_grad_batches: Positive,
    gradient_clip_val: Annotated[float, Interval(ge=0, lt=math.inf)] | None,
    gradient_clip_algorithm: Literal["norm", "value"] | None,
    reload_dataloaders_every_n_epochs: Annotated[int, Ge(0)],
    num_nodes: Positive,
    enable_progress_bar: bool | None,
    enable_model_summary: bool | None,
    enable_checkpointing: bool | None,
) -> None:
    """The Trainer's arguments that it checks late or not at all, with their limits."""


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Raise a SettingError for what Lightning's Trainer accepts and a run here cannot do."""
    check_types(limits, trainer, "trainer.")
    if (interval := trainer.get("val_check_interval")) not in (None, 1.0):
        raise SettingError(
            f"trainer.val_check_interval={interval}: must be 1.0; a run that resumes in the middle "
            f"of an epoch would skip validations within it"
        )
    strategy = trainer.get("strategy")
    if "spawn" in str(strategy) or "fork" in str(strategy):  # results would stay in the children
        raise SettingError(f"trainer.strategy={strategy}: not supported; use ddp")
    if overfit := trainer.get("overfit_batches"):
        reason = "not supported: each epoch draws other batches (trainer.limit_train_batches too)"
        raise SettingError(f"trainer.overfit_batches={overfit}: {reason}")
    if (least := trainer.get("min_epochs") or 0) > trainer["max_epochs"]:
        reason = f"more than trainer.max_epochs={trainer['max_epochs']}"
        raise SettingError(f"trainer.min_epochs={least}: {reason}")
    if trainer.get("barebones"):
        raise SettingError("trainer.barebones=true: a run needs its metrics and checkpoints")


def build_profiler(spec: Any, folder: Path) -> Profiler | None:
    """A profiler that writes its report to the run's folder; Lightning would only log it."""
    if spec is None or isinstance(spec, Mapping):
        given = {key: spec[key] for key in ("dirpath", "filename") if key in spec} if spec else {}
        defaults = {"dirpath": str(folder), "filename": PROFILE} | given
        rest = {key: value for key, value in (spec or {}).items() if key not in given}
        return instantiate(rest, "trainer.profiler", Profiler, **defaults) if spec else None
    if spec not in PROFILERS:
        raise SettingError(f"trainer.profiler={spec}: choose from {', '.join(PROFILERS)}")
    return PROFILERS[spec](dirpath=str(folder), filename=PROFILE)


def profile_files(profiler: Profiler) -> list[Path]:
    """The reports that a profiler has written."""
    if isinstance(profiler, PassThroughProfiler) or not (folder := profiler.dirpath):
        return []
    name = glob.escape(str(profiler.filename).replace("/", "_"))  # as the profilers do
    return sorted(Path(folder).glob(f"*{name}*"))


def partial_data(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by which a run uses a part of its data only, by dotted key."""
    limited = {}
    for key in PARTS:
        value = trainer.get(key)
        is_whole = value is None or value is False or (type(value), value) in WHOLE
        if not is_whole:
            limited[f"trainer.{key}"] = value
    return limited
