"""The LightningModule: normalisation, network, loss, metrics."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar10.core.errors import SettingError, UserError, one_line
from cifar10.core.instantiate import instantiate
from cifar10.data import CLASSES, MEAN, STD
from cifar10.training.hardware import autocast
from cifar10.training.metrics import metrics
from cifar10.training.muon import Fraction, parameter_groups
from cifar10.training.network_check import check_network
from cifar10.training.tta import six_view_tta


class NonFiniteError(UserError):
    """A loss or a prediction is NaN or infinite."""


class Classifier(L.LightningModule):
    """A network with its normalisation, loss, metrics and optimizer.

    The arguments are plain values, saved in checkpoints: loading one runs no stored code.

    Args:
        model: specification (see `cifar10.core.instantiate`) of a network from float
            (N, 3, 32, 32) to logits (N, classes); it may take `num_classes`, and have the methods
            `load_initial_weights()` and `init_from_images(images)`, called in this order before
            training, the second with normalised training images.
        optimizer: specification of a torch optimizer of `parameter_groups(network)`.
        scheduler: specification of a learning-rate schedule, stepped after every batch.
        label_smoothing: of the training loss; val and test losses have none.
        test_views: also log the test set's 6-view TTA as `test_views/`, at six times the cost.
        classes: class names in the order of the labels.

    Raises:
        SettingError: a specification or the network does not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any],
        label_smoothing: Fraction,
        test_views: bool,
        classes: Sequence[str] = CLASSES,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.classes = tuple(classes)
        self.network = instantiate(model, "model", nn.Module, num_classes=len(classes))
        check_network(self.network, len(classes))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        self.set_memory_format(channels_last=False)
        tops, count = (1, 3, 5), len(classes)
        self.train_metrics = metrics("train/", (1,), count)
        self.val_metrics = metrics("val/", tops, count)
        self.test_metrics = metrics("test/", tops, count)
        self.test_views_metrics = metrics("test_views/", tops, count) if test_views else None
        self.teachers: list[tuple[Classifier, float]] = []  # a list hides it from state_dict
        self.weight_names = set(self.state_dict())

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float (N, classes), of images, uint8 (N, 3, 32, 32)."""
        return self.network(self.normalise(images))

    @torch.inference_mode()
    def predict(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """Return single-view probabilities, float (N, classes), of images, uint8 (N, 3, 32, 32)."""
        self.eval()
        with autocast(self.device.type):
            logits = [self(batch.to(self.device)) for batch in images.split(batch_size)]
        probabilities = torch.cat(logits).float().softmax(1).cpu()
        if not probabilities.isfinite().all():
            raise NonFiniteError("the network outputs NaN or infinity; its weights are corrupted")
        return probabilities

    def normalise(self, images: Tensor) -> Tensor:
        """Scale bytes to floats of mean 0 and standard deviation 1 over the training set."""
        scale, shift = 1 / (255 * self.std), -self.mean / self.std
        x = images.to(scale.dtype, memory_format=self.memory_format, copy=True)
        if self.memory_format == torch.contiguous_format:
            return torch.addcmul(shift, x, scale, out=x)
        rows = x.permute(0, 2, 3, 1).flatten(2)  # (N, H, 3 * W): loops over 3 channels are slow
        scale, shift = (value.view(3).repeat(images.size(-1)) for value in (scale, shift))
        torch.addcmul(shift, rows, scale, out=rows)  # rows is a view of x
        return x

    def setup(self, stage: str) -> None:
        # Lightning loads a checkpoint after this hook, which then replaces these values.
        if stage != "fit":
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # Trainer.fit sets it
        for buffer, values in zip((self.mean, self.std), data.normalisation(), strict=True):
            buffer.copy_(torch.tensor(values).view(3, 1, 1))
        if init := getattr(self.network, "init_from_images", None):
            init(self.normalise(data.images(data.train_indices[:5000])))

    def on_train_start(self) -> None:
        if added := self.state_dict().keys() - self.weight_names:
            reason = "to the model, so its checkpoints could not be loaded; keep it in the callback"
            raise SettingError(f"callbacks: one of them adds the weight {min(added)} {reason}")

    def load_initial_weights(self) -> None:
        """Have the network load pretrained weights, before a training starts from them.

        Never called when a checkpoint is loaded, which holds all weights.
        """
        if load := getattr(self.network, "load_initial_weights", None):
            try:
                load()
            except (OSError, RuntimeError, ValueError) as error:  # no network, another shape
                reason = f"model: cannot load initial weights: {one_line(error)}"
                raise SettingError(reason) from error

    def set_memory_format(self, channels_last: bool) -> None:
        """Choose the memory layout of weights and images; values do not change."""
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the metrics of an unfinished epoch, summed over all ranks."""
        sums = checkpoint["train_metrics"] = {}
        for name, metric in self.train_metrics.items():
            with metric.sync_context(should_unsync=True):
                sums[name] = {key: getattr(metric, key).clone() for key in metric._defaults}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is None or self.trainer.global_rank > 0:  # rank 0 holds the sums
            return
        for name, metric in self.train_metrics.items():
            for key, value in checkpoint.get("train_metrics", {}).get(name, {}).items():
                setattr(metric, key, value.to(self.device))

    def on_train_epoch_start(self) -> None:
        self.train_metrics.reset()  # a checkpoint from the end of an epoch still holds its sums

    def set_teacher(self, teacher: "Classifier", weight: float) -> None:
        """Distil a teacher at temperature 1 (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

        The teacher, in eval mode, sees the same augmented images (Beyer et al. 2022,
        https://arxiv.org/abs/2106.05237). Its probabilities have `weight` in the targets, in
        [0, 1], and the label has the rest. It is not saved in checkpoints.
        """
        self.teachers = [(teacher.requires_grad_(False), weight)]

    def on_fit_start(self) -> None:
        for teacher, _ in self.teachers:
            teacher.to(self.device)

    def targets(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the labels, or their mean with a teacher's probabilities, float (N, classes)."""
        for teacher, weight in self.teachers:
            soft = teacher(images).float().softmax(1)
            return weight * soft + (1 - weight) * F.one_hot(labels, soft.size(1))
        return labels

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        with torch.no_grad():
            targets = self.targets(images, labels)
        logits = self(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.hparams["label_smoothing"])
        # Reading the loss stalls a GPU, so it is checked only on logged steps there.
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Trainer sets it
        if self.device.type == "cpu" or index % every == 0:
            self.require_finite(loss, "training loss")
        self.train_metrics.update(logits.detach(), labels)
        self.log("train/loss_step", loss)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("train/lr", torch.full((), rate, device=self.device))  # a float stalls a GPU
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        trainer: Any = self.trainer
        if trainer.is_last_batch or trainer.should_stop or trainer.global_step == trainer.max_steps:
            self.log_dict(self.train_metrics, on_step=False, on_epoch=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        self.val_metrics.update(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        self.require_finite(self.val_metrics["loss"].compute(), "val/loss")
        self.log_dict(self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        self.test_metrics.update(logits, labels)
        if self.test_views_metrics:
            self.test_views_metrics.update(six_view_tta(self, images, logits), labels)
        return logits

    def on_test_epoch_end(self) -> None:
        self.require_finite(self.test_metrics["loss"].compute(), "test/loss")
        self.log_dict(self.test_metrics)
        if self.test_views_metrics:
            self.log_dict(self.test_views_metrics)

    def require_finite(self, loss: Tensor, name: str) -> None:
        if not loss.isfinite():
            where = f"in epoch {self.current_epoch + 1}, step {self.global_step}"
            full = self.trainer.precision in ("32-true", "64-true")
            advice = "lower optimizer.lr" + " or use trainer.precision=32-true" * (not full)
            saved = "; best.ckpt and last.ckpt hold earlier epochs" * (self.current_epoch > 0)
            raise NonFiniteError(f"the {name} is {loss.item()} {where}: {advice}{saved}")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer, schedule = self.build_optimizer(total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def build_optimizer(self, total_steps: int) -> tuple[Optimizer, LRScheduler]:
        spec, groups = self.hparams["optimizer"], parameter_groups(self.network)
        optimizer = instantiate(spec, "optimizer", Optimizer, params=groups)
        steps = dict(optimizer=optimizer, total_steps=total_steps)
        scheduler = instantiate(self.hparams["scheduler"], "scheduler", LRScheduler, **steps)
        return optimizer, scheduler


def total_steps(trainer: L.Trainer) -> int:
    """The optimizer steps of a training; gradients may accumulate differently in each epoch."""
    steps = int(trainer.estimated_stepping_batches)  # as if they did as in the first epoch
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Trainer sets it
        if isinstance(callback, GradientAccumulationScheduler):
            batches, epochs = trainer.num_training_batches, range(trainer.max_epochs or 0)
            counts = map(callback.get_accumulate_grad_batches, epochs)
            steps = sum(math.ceil(batches / count) for count in counts)
            return min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps
    return steps
