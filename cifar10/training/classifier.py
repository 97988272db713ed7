"""The LightningModule: normalisation, network, loss, metrics."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar10.core.errors import SettingError, UserError
from cifar10.data import CLASSES, MEAN, STD
from cifar10.data.inputs import to_batch
from cifar10.data.module import InMemoryDataModule
from cifar10.training.hardware import autocast
from cifar10.training.metrics import metrics, restore_sums, sums, top1
from cifar10.training.modes import evaluating
from cifar10.training.muon import Fraction
from cifar10.training.network_check import check_network, distinct
from cifar10.training.normalisation import normalise
from cifar10.training.recipe import (
    MUON,
    TRIANGLE,
    Specification,
    build_network,
    build_optimizer,
    build_scheduler,
    first_images,
    load_initial_weights,
    specification,
    total_steps,
)
from cifar10.training.tta import six_view_tta


class NonFiniteError(UserError):
    """A loss or a prediction is NaN or infinite."""


class Classifier(L.LightningModule):
    """A network with its normalisation, loss, metrics and optimizer.

    Batches are images, uint8 (n, 3, 32, 32), and labels, int64 (n,), of any data module or loader.
    In training, labels may also be the share of each class, float (n, classes).

    Args:
        network: from float (N, 3, 32, 32) to logits (N, classes): a module, the name of one
            (`convnet`, `airnet`, `resnet18`) or a specification (see `cifar10.core.instantiate`).
            Its methods `load_initial_weights()` and `init_from_images(images)`, with normalised
            images, are called before training. A module is not saved in checkpoints: give one of
            the same class to `load_from_checkpoint(PATH, network=...)`.
        optimizer: specification of a torch optimizer, or a function that returns it, such as
            `functools.partial(torch.optim.SGD, lr=0.1)`; gets `parameter_groups(network)`.
        scheduler: the same of a learning-rate schedule for the optimizer, stepped per batch.
        label_smoothing: of the training loss; val and test losses have none.
        test_views: also log the test set's 6-view TTA as `test_views/`, at six times the cost.
        classes: class names in the order of the labels.
        mean, std: of R, G and B, in [0, 1]; by default those of the data module or of CIFAR-10.
        model: `network`, as checkpoints name it.

    Raises:
        SettingError: a specification or the network does not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module | str | Specification | None = None,
        optimizer: Specification | Callable[..., Optimizer] = MUON,
        scheduler: Specification | Callable[..., LRScheduler] = TRIANGLE,
        label_smoothing: Fraction = 0.1,
        test_views: bool = False,
        classes: Sequence[str] = CLASSES,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        model: Specification | None = None,
    ):
        super().__init__()
        network = (model or "convnet") if network is None else network
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        model, optimizer, scheduler = map(specification, (network, optimizer, scheduler))
        self.save_hyperparameters(ignore=("network", "mean", "std"), logger=False)
        self.classes = distinct(classes)
        self.network = build_network(network, len(classes))
        check_network(self.network, len(classes))
        self.fixed_mean, self.is_fresh = not (mean is std is None), True
        self.frozen: list[nn.Module] = []  # layers of the network
        self.head_lr_factor = 1.0
        for name, given, default in (("mean", mean, MEAN), ("std", std, STD)):
            values = torch.tensor(default) if given is None else torch.as_tensor(given).float()
            self.register_buffer(name, values.clone().view(3, 1, 1))
        self.set_memory_format(channels_last=False)
        tops, count = (1, 3, 5), len(classes)
        self.train_metrics = metrics("train/", (1,), count)
        self.val_metrics = metrics("val/", tops, count)
        self.test_metrics = metrics("test/", tops, count)
        self.test_views_metrics = metrics("test_views/", tops, count) if test_views else None
        self.teachers: list[tuple[Classifier, float]] = []  # a list hides it from state_dict
        self.weight_names: set[str] | None = None  # a run refuses others

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float (N, classes), of images, uint8 (N, 3, 32, 32)."""
        if images.dtype != torch.uint8:
            reason = "must be uint8, 0 to 255, such as torchvision's PILToTensor() returns"
            raise UserError(f"images: {images.dtype}: {reason}")
        return self.network(self.normalise(images))

    def predict(self, images: Any, batch_size: int = 500) -> Tensor:
        """Return single-view probabilities, float (N, classes), of images as for `to_batch`."""
        with evaluating(self), torch.inference_mode(), autocast(self.device.type):
            logits = [self(batch.to(self.device)) for batch in to_batch(images).split(batch_size)]
            probabilities = torch.cat(logits).float().softmax(1).cpu()
        if not probabilities.isfinite().all():
            raise NonFiniteError("the network outputs NaN or infinity; its weights are corrupted")
        return probabilities.clone()  # an ordinary tensor, which can be changed in place

    def normalise(self, images: Tensor) -> Tensor:
        """Scale bytes to floats of mean 0 and standard deviation 1 over the training set."""
        return normalise(images, self.mean, self.std, self.memory_format)

    def setup(self, stage: str) -> None:
        trainer: Any = self.trainer
        data = trainer.datamodule if isinstance(trainer.datamodule, InMemoryDataModule) else None
        if data and tuple(data.classes) != self.classes:
            raise SettingError("classes: differ from those of the data; give classes=data.classes")
        if stage != "fit":
            return
        if not self.training:  # `load` returns it in eval mode
            self.train()
        if data and not self.fixed_mean:
            for buffer, values in zip((self.mean, self.std), data.normalisation(), strict=True):
                buffer.copy_(torch.tensor(values).view(3, 1, 1))
        if self.is_fresh:  # Lightning loads a checkpoint after this hook, which replaces all this
            load_initial_weights(self.network)
            if init := getattr(self.network, "init_from_images", None):
                init(self.normalise(first_images(trainer).to(self.mean.device)))
        self.is_fresh, self.fixed_mean = False, True

    def on_train_start(self) -> None:
        for module in self.frozen:  # running statistics do not change, no dropout
            module.eval()
        if self.weight_names and (added := self.state_dict().keys() - self.weight_names):
            reason = "to the model, so its checkpoints could not be loaded; keep it in the callback"
            raise SettingError(f"callbacks: one of them adds the weight {min(added)} {reason}")

    def set_memory_format(self, channels_last: bool) -> None:
        """Choose the memory layout of weights and images; values do not change."""
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_metrics"] = sums(self.train_metrics)  # of an unfinished epoch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.is_fresh, self.fixed_mean = False, True
        if self._trainer is not None and self.trainer.global_rank == 0:  # which holds the sums
            restore_sums(self.train_metrics, checkpoint.get("train_metrics", {}))

    def on_train_epoch_start(self) -> None:
        self.train_metrics.reset()  # a checkpoint from the end of an epoch still holds its sums

    def set_teacher(self, teacher: "Classifier", weight: float) -> None:
        """Distil a teacher at temperature 1 (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

        The teacher, in eval mode, sees the same augmented images (Beyer et al. 2022,
        https://arxiv.org/abs/2106.05237). Its probabilities have `weight` in the targets, in
        [0, 1], and the labels have the rest. It is not saved in checkpoints.
        """
        self.teachers = [(teacher.requires_grad_(False), weight)]

    def on_fit_start(self) -> None:
        for teacher, _ in self.teachers:
            teacher.to(self.device)

    def targets(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the labels, or their mean with a teacher's probabilities, float (N, classes)."""
        for teacher, weight in self.teachers:
            soft = teacher(images).float().softmax(1)
            shares = labels if labels.is_floating_point() else F.one_hot(labels, soft.size(1))
            return weight * soft + (1 - weight) * shares
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
        self.log_dict({"train/loss_step": loss.float(), "train/top1_step": top1(logits, labels)})
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("train/lr", torch.full((), rate, dtype=torch.float32, device=self.device))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        trainer: Any = self.trainer
        if trainer.is_last_batch or trainer.should_stop or trainer.global_step == trainer.max_steps:
            self.log_dict(self.train_metrics, on_step=False, on_epoch=True)

    def predict_step(self, batch: Any, index: int) -> Tensor:
        """Return probabilities, float (n, classes), of images with or without labels."""
        images = batch[0] if isinstance(batch, list | tuple) else batch
        return self(images).float().softmax(1)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.val_metrics.update(self(batch[0]), batch[1])

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
        factor = self.head_lr_factor
        optimizer = build_optimizer(self.make_optimizer, self.network, factor)
        return optimizer, build_scheduler(self.make_scheduler, optimizer, total_steps, factor)
