"""Callbacks of every run: timing, history, test logits, TensorBoard's HPARAMS."""

import logging
import time
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from cifar10.runs.console import epoch_line

log = logging.getLogger(__name__)


class Stopwatch(Callback):
    """Measures seconds of training and of evaluation, and training images per second.

    Logs `train/images_per_second` each epoch.

    Attributes:
        training, evaluation: seconds so far, those before a resume included.
        images: training images so far.
        started: time.perf_counter() at which training started or resumed.
    """

    SAVED = ("training", "evaluation", "images", "epoch_images", "epoch_evaluation")

    def __init__(self) -> None:
        self.training = self.evaluation = self.epoch_evaluation = 0.0
        self.evaluation_start = 0.0
        self.images = self.epoch_images = 0
        self.started: float | None = None
        self.epoch_start: float | None = None  # None between epochs

    def state_dict(self) -> dict[str, Any]:
        spent = time.perf_counter() - self.epoch_start if self.epoch_start is not None else None
        return {key: getattr(self, key) for key in self.SAVED} | {"epoch_spent": spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key in self.SAVED:
            setattr(self, key, state_dict[key])
        spent = state_dict["epoch_spent"]
        self.epoch_start = None if spent is None else time.perf_counter() - spent

    def on_train_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.started = synchronized_time(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.epoch_images = 0
        self.epoch_evaluation = self.evaluation
        self.epoch_start = synchronized_time(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, _: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.epoch_images += len(batch[1])

    def on_validation_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.evaluation_start = synchronized_time(trainer)

    def on_validation_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.evaluation += synchronized_time(trainer) - self.evaluation_start

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.on_validation_start(trainer, module)

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.on_validation_end(trainer, module)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        now = synchronized_time(trainer)
        # Lightning validates within the epoch.
        evaluation = self.evaluation - self.epoch_evaluation
        seconds = now - (now if self.epoch_start is None else self.epoch_start) - evaluation
        self.epoch_start = None
        images = self.epoch_images * trainer.world_size
        self.training += seconds
        self.images += images
        if seconds > 0:
            module.log("train/images_per_second", images / seconds)

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.training if self.training else None


def synchronized_time(trainer: L.Trainer) -> float:
    """time.perf_counter() after a GPU has finished its queue; called a few times per epoch."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def to_floats(metrics: Mapping[str, Tensor | float], prefix: str = "") -> dict[str, float]:
    """The metrics of whole epochs whose key starts with `prefix`, rounded to six digits."""
    return {
        key: round(float(value), 6)
        for key, value in metrics.items()
        if key.startswith(prefix) and not key.endswith("_step")
    }


class History(Callback):
    """Records the metrics of each epoch and logs them as one line.

    Attributes:
        epochs: for each finished epoch its number, from 1, and its metrics.
        by_step: for the optimizer step of each validation its epoch and `val/` metrics, which
            describe a checkpoint of that step.
    """

    def __init__(self) -> None:
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
        self.fresh = to_floats(trainer.callback_metrics, "val/")
        self.by_step[trainer.global_step] = {"epoch": trainer.current_epoch + 1} | self.fresh

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        # Lightning keeps the metrics of earlier epochs: an epoch that ended early or was not
        # validated would repeat them.
        training = to_floats(trainer.callback_metrics, "train/") if trainer.is_last_batch else {}
        values, epoch = training | self.fresh, trainer.current_epoch + 1
        self.epochs.append({"epoch": epoch} | values)
        self.by_step.setdefault(trainer.global_step, {"epoch": epoch})
        if trainer.is_global_zero:
            log.info(epoch_line(epoch, trainer.max_epochs, values))


class TestLogits(Callback):
    """Collects the logits of the test set for the report.

    Attributes:
        batches: float (n, classes) on the CPU for each global batch, in the order of the test set.
    """

    __test__ = False  # pytest takes it for a test

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def on_test_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.batches = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        _: L.LightningModule,
        outputs: Any,
        batch: Any,
        index: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.batches.append(outputs.float().cpu())

    def on_test_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        if trainer.world_size == 1:
            return
        ranks: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(ranks, self.batches)
        # The loader deals out each global batch to the ranks image by image.
        self.batches = []
        for parts in zip_longest(*ranks, fillvalue=torch.empty(0)):
            logits = parts[0].new_empty(sum(map(len, parts)), parts[0].size(1))
            for rank, part in enumerate(parts):
                if len(part):  # the last batch may have fewer images than there are ranks
                    logits[rank :: len(parts)] = part
            self.batches.append(logits)


class TensorBoardHParams(Callback):
    """Registers a run's settings and metrics with TensorBoard's HPARAMS page at its start.

    The page then reads the metrics from the curves and lists unfinished runs as well.
    `TensorBoardLogger.log_hyperparams` would add an invented first value to each curve.

    Args:
        settings: dotted keys and plain values.
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
