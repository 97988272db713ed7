"""Callbacks of every run: timing, last validation, history, test logits, HPARAMS."""

import itertools
import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from cifar10.runs.console import epoch_line

log = logging.getLogger(__name__)

MAX_RATES = 1000  # learning rates kept; of longer runs every second, fourth, ... step


class Stopwatch(Callback):
    """Measures training, evaluation, and `train/images_per_second` of each epoch.

    Attributes:
        training, evaluation: seconds so far, those before a resume included.
        images: training images so far.
        started: time.perf_counter() at which training started or resumed.
    """

    def __init__(self) -> None:
        self.training = self.evaluation = 0.0
        self.images = 0
        self.whole_epochs = (0, 0.0)  # images and seconds of the finished epochs
        self.started: float | None = None
        self.lap_start = 0.0

    def state_dict(self) -> dict[str, Any]:
        names = ("training", "evaluation", "images", "whole_epochs")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.whole_epochs = (state_dict["images"], state_dict["training"])  # as of version 0.1
        vars(self).update(state_dict)

    def lap(self, trainer: L.Trainer, synchronize: bool = True) -> float:
        """Seconds since the last lap; by default, a GPU finishes its queue first."""
        if synchronize and (device := trainer.strategy.root_device).type == "cuda":
            torch.cuda.synchronize(device)
        start, self.lap_start = self.lap_start, time.perf_counter()
        return self.lap_start - start

    def on_train_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.lap(trainer)
        self.started = self.lap_start

    def on_train_epoch_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.lap(trainer)  # what happens between two epochs is not training

    def on_train_batch_end(
        self, trainer: L.Trainer, _: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.images += len(batch[1]) * trainer.world_size
        self.training += self.lap(trainer, synchronize=False)  # a GPU's queue must not run dry

    def on_validation_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        seconds = self.lap(trainer)
        if trainer.state.fn == TrainerFn.FITTING:  # Lightning validates within the epoch
            self.training += seconds

    def on_validation_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.evaluation += self.lap(trainer)

    def on_test_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.lap(trainer)

    def on_test_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.evaluation += self.lap(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.training += self.lap(trainer)
        images = self.images - self.whole_epochs[0]
        seconds = self.training - self.whole_epochs[1]
        self.whole_epochs = (self.images, self.training)
        if seconds > 0:
            module.log("train/images_per_second", images / seconds)

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.training if self.training else None


def to_floats(metrics: Mapping[str, Tensor | float], prefix: str = "") -> dict[str, float]:
    """The metrics of whole epochs whose key starts with `prefix`, rounded to six digits."""
    return {
        key: round(float(value), 6)
        for key, value in metrics.items()
        if key.startswith(prefix) and not key.endswith("_step")
    }


class FinalValidation(Callback):
    """Validates after the last epoch, wherever and why training ends, if Lightning did not."""

    step = -1  # of the last validation

    def on_validation_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        loop = trainer.fit_loop
        ends = (
            trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
            or trainer.global_step == trainer.max_steps
            or (trainer.should_stop and loop._can_stop_early)
        )
        if not ends or self.step == trainer.global_step or not trainer.enable_validation:
            return
        trainer.validating = True  # as Lightning does around its own validation
        loop.epoch_loop.val_loop.run()
        trainer.training = True


class History(Callback):
    """Records the learning rate of each step, and the metrics of each epoch, logged as one line."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []  # epochs so far and learning rate, before a step
        self.every, self.step = 1, -1  # steps from one to the next; step of the last
        self.epochs: list[dict[str, Any]] = []  # number, from 1, and metrics
        self.by_step: dict[int, dict[str, Any]] = {}  # epoch and validation metrics
        self.fresh: dict[str, float] = {}  # validation metrics of this epoch

    def state_dict(self) -> dict[str, Any]:
        names = ("rates", "every", "step", "epochs", "by_step", "fresh")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    def on_train_epoch_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.fresh = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, _: L.LightningModule, batch: Any, index: int
    ) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step != self.step:
            self.step = trainer.global_step
            epochs = trainer.current_epoch + index / trainer.num_training_batches
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self.rates.append([round(epochs, 4), float(f"{rate:.6g}")])
        if len(self.rates) >= MAX_RATES:
            self.rates, self.every = self.rates[::2], 2 * self.every

    def on_validation_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.fresh = to_floats(trainer.callback_metrics, "val/")
        self.by_step[trainer.global_step] = {"epoch": trainer.current_epoch + 1} | self.fresh

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        training = to_floats(trainer.callback_metrics, "train/")
        values, epoch = training | self.fresh, trainer.current_epoch + 1
        self.epochs.append({"epoch": epoch} | values)
        self.by_step.setdefault(trainer.global_step, {"epoch": epoch})
        if trainer.is_global_zero:
            log.info(epoch_line(epoch, trainer.max_epochs, values))


def gather(world_size: int, value: Any) -> list[Any]:
    """A value of each rank."""
    values = [value] * world_size
    if world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


class TestLogits(Callback):
    """Collects the logits of the test set: `batches` of float (n, classes), in its order."""

    __test__ = False  # pytest takes it for a test

    def __init__(self) -> None:
        self.batches: list[Tensor] = []
        self.weights: dict[str, Tensor] = {}  # those of the first batch

    def differs_from(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether the first test batch met other weights than these."""
        return any(
            not torch.equal(value.to(weights[k]), weights[k]) for k, value in self.weights.items()
        )

    def on_test_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.batches = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        index: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.batches.append(outputs.float())  # a copy to the host here would stall a GPU
        if index == 0:
            self.weights = {key: value.clone() for key, value in module.state_dict().items()}

    def on_test_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        ranks = gather(trainer.world_size, [batch.cpu() for batch in self.batches])
        # The loader deals out each global batch to the ranks image by image.
        self.batches = []
        for parts in itertools.zip_longest(*ranks, fillvalue=torch.empty(0, 1)):
            logits = torch.empty(sum(map(len, parts)), parts[0].size(1))
            for rank, part in enumerate(parts):
                logits[rank :: len(parts)] = part
            self.batches.append(logits)


class Hyperparameters(Callback):
    """Logs a run's flat settings; in TensorBoard, as a trial of the HPARAMS page.

    `TensorBoardLogger.log_hyperparams` would add an invented first value to each curve.
    """

    def __init__(self, settings: dict[str, Any], first: Collection[str] = (), trial: str = ""):
        self.settings, self.first, self.trial = settings, first, trial

    def on_fit_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.settings)
            elif trainer.is_global_zero:
                logger.hparams.update(self.settings)
                self.add_trial(logger.experiment._get_file_writer())

    def add_trial(self, writer: Any) -> None:
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from torch.utils.tensorboard.summary import hparams

        names = (f"{split}/{metric}" for split in ("val", "test") for metric in ("loss", "top1"))
        experiment, start, end = hparams(self.settings, dict.fromkeys(names, 0.0))
        for summary in (experiment, start, end):
            plugin = summary.value[0].metadata.plugin_data
            content = HParamsPluginData.FromString(plugin.content)
            for column in content.experiment.hparam_infos:
                column.differs = column.name in self.first  # these come first
            if content.HasField("session_start_info"):
                content.session_start_info.group_name = self.trial
            plugin.content = content.SerializeToString()
            writer.add_summary(summary)
