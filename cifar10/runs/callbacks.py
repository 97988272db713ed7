"""What a run tells while it trains, and how long its parts take."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from cifar10.core.errors import SettingError
from cifar10.runs.resume import LOCAL_KEYS

log = logging.getLogger(__name__)


class Stopwatch(Callback):
    """Seconds of training and of evaluation apart, and training images a second.

    Logs `train/images_per_second` each epoch.

    Attributes:
        training, evaluation: seconds so far, those before a resume included.
        images: trained on so far.
        started: time.perf_counter() at which training began or went on.
    """

    KEPT = ("training", "evaluation", "images", "epoch_images", "epoch_evaluation")

    def __init__(self):
        self.training = self.evaluation = self.epoch_evaluation = 0.0
        self.images = self.epoch_images = 0
        self.started: float | None = None
        self.epoch_start: float | None = None  # None between epochs

    def state_dict(self) -> dict[str, Any]:
        spent = time.perf_counter() - self.epoch_start if self.epoch_start is not None else None
        return {key: getattr(self, key) for key in self.KEPT} | {"epoch_spent": spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key in self.KEPT:
            setattr(self, key, state_dict[key])
        spent = state_dict["epoch_spent"]
        self.epoch_start = None if spent is None else time.perf_counter() - spent

    def on_train_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.started = now(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.epoch_images = 0
        self.epoch_evaluation = self.evaluation
        self.epoch_start = now(trainer)

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self.epoch_images += len(batch[1])

    def on_validation_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.evaluation_start = now(trainer)

    def on_validation_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.evaluation += now(trainer) - self.evaluation_start

    on_test_start, on_test_end = on_validation_start, on_validation_end

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Lightning validates inside the epoch.
        seconds = now(trainer) - self.epoch_start
        self.epoch_start = None
        seconds -= self.evaluation - self.epoch_evaluation
        self.training += seconds
        self.images += self.epoch_images * trainer.world_size
        self.log("train/images_per_second", self.epoch_images * trainer.world_size / seconds)

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.training if self.training else None


def now(trainer: L.Trainer) -> float:
    """time.perf_counter() once a GPU has done all that was asked of it; a few times an epoch."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def to_floats(metrics: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Metrics as plain floats, without those of single steps."""
    return {k: round(float(v), 6) for k, v in metrics.items() if not k.endswith("_step")}


def of_split(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    values = to_floats(trainer.callback_metrics)
    return {key: value for key, value in values.items() if key.startswith(prefix)}


class History(Callback):
    """Keeps each epoch's figures, and prints them in one line.

    Attributes:
        epochs: for each finished epoch, its number from 1 and its metrics as plain floats.
        by_step: what a checkpoint of that optimizer step has to show: its epoch and `val/` metrics.
    """

    def __init__(self):
        self.epochs: list[dict[str, Any]] = []
        self.by_step: dict[int, dict[str, Any]] = {}
        self.fresh: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "by_step": self.by_step, "fresh": self.fresh}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    def on_train_epoch_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.fresh = {}

    def on_validation_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.fresh = of_split(trainer, "val/")
        self.by_step[trainer.global_step] = {"epoch": trainer.current_epoch + 1} | self.fresh

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        # Lightning keeps the figures of earlier epochs, so an epoch that was cut short or not
        # validated would repeat them.
        values = (of_split(trainer, "train/") if trainer.is_last_batch else {}) | self.fresh
        epoch = trainer.current_epoch + 1
        self.epochs.append({"epoch": epoch} | values)
        self.by_step.setdefault(trainer.global_step, {"epoch": epoch})
        if trainer.is_global_zero:
            parts = [f"epoch {epoch:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}"]
            score = "val/top1" if "val/top1" in values else "train/top1"
            for key in ("train/loss", "val/loss", score):  # no wider than 80 columns
                if key in values:
                    parts.append(f"{key} {values[key]:.4f}")
            if "train/images_per_second" in values:
                parts.append(f"{values['train/images_per_second']:,.0f} images/s")
            log.info("  ".join(parts))


class Agreement(Callback):
    """Sees, before training, that all ranks of a distributed run were given the same settings.

    Args:
        settings: flat; dotted key to plain value.
    """

    def __init__(self, settings: dict[str, Any]):
        own = ("threads", *LOCAL_KEYS)  # of each machine
        self.settings = {key: value for key, value in settings.items() if key not in own}

    def setup(self, trainer: L.Trainer, _: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or stage != "fit":
            return
        ranks: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(ranks, self.settings)
        for rank, settings in enumerate(ranks):
            for key in ranks[0] | settings:
                first, other = (flat.get(key, "not set") for flat in (ranks[0], settings))
                if first != other:
                    raise SettingError(
                        f"{key}: is {first} in the first process and {other} in the process of "
                        f"rank {rank}; all of a training need the same command line"
                    )


class TensorBoardHParams(Callback):
    """Tells TensorBoard's HPARAMS page, at the start, which settings and metrics belong to a run.

    The page then reads the metrics from the curves, so that unfinished runs are on it as well.
    `TensorBoardLogger.log_hyperparams` would draw a made-up first value into each curve.

    Args:
        settings: flat; dotted key to plain value.
    """

    METRICS = tuple(
        f"{split}/{metric}"
        for split in ("val", "test")
        for metric in ("loss", "top1", "top3", "top5")
    )

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings

    def on_fit_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        from torch.utils.tensorboard.summary import hparams

        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.hparams.update(self.settings)
                writer = logger.experiment._get_file_writer()
                for summary in hparams(self.settings, dict.fromkeys(self.METRICS, 0.0)):
                    writer.add_summary(summary)
