"""A classifier's network, optimizer and schedule, from specifications, names or objects."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cifar10.core.errors import SettingError, one_line
from cifar10.core.instantiate import instantiate
from cifar10.data.module import InMemoryDataModule
from cifar10.models import NETWORKS
from cifar10.training.finetune import scale_head, split_head
from cifar10.training.muon import parameter_groups

T = TypeVar("T")
Specification = dict[str, Any]
MUON: Specification = {"_target_": "cifar10.training.muon.Muon"}
TRIANGLE: Specification = {"_target_": "cifar10.training.schedules.Triangle"}
OBJECT = "_object_"  # in place of `_target_` for what was given as an object


def specification(given: Any) -> Specification:
    """What a checkpoint holds of a network, optimizer or schedule: a module is only named."""
    if isinstance(given, str):
        return {"_target_": NETWORKS.get(given, given)}
    if not (isinstance(given, dict) or callable(given)):  # an optimizer, for example
        advice = "give a specification or a function, such as functools.partial(CLASS, KEY=VALUE)"
        raise SettingError(f"an object of the class {type(given).__name__} was given; {advice}")
    return given if isinstance(given, dict) else {OBJECT: type(given).__qualname__}


def build_network(given: nn.Module | str | Specification, classes: int) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, type):
        name = given.__name__
        raise SettingError(f"network: {name} is a class; give an object of it, {name}(...)")
    if not isinstance(given, str | dict):
        needed = "must be an nn.Module, a name or a specification"
        raise SettingError(f"network: {needed}, not {type(given).__name__}")
    if isinstance(given, str) and given not in NETWORKS and "." not in given:
        raise SettingError(f"network={given}: unknown; choose from {', '.join(NETWORKS)}")
    spec = specification(given)
    if name := spec.get(OBJECT):
        advice = f"give one with load_from_checkpoint(PATH, network={name}(...))"
        raise SettingError(f"model: was given as an object of the class {name}; {advice}")
    return instantiate(spec, "model", nn.Module, num_classes=classes)


def build_optimizer(
    make: Specification | Callable[..., Optimizer], network: nn.Module, head_lr_factor: float = 1
) -> Optimizer:
    groups = parameter_groups(network)
    if head_lr_factor != 1:
        groups = split_head(groups, network)
    optimizer = make_checked(make, "optimizer", Optimizer, groups, params=groups)
    scale_head(optimizer, head_lr_factor)
    return optimizer


def build_scheduler(
    make: Specification | Callable[..., LRScheduler],
    optimizer: Optimizer,
    total_steps: int,
    head_lr_factor: float = 1,
) -> LRScheduler:
    rates = [group["lr"] for group in optimizer.param_groups]
    given = dict(optimizer=optimizer, total_steps=total_steps)
    scheduler = make_checked(make, "scheduler", LRScheduler, optimizer, **given)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise SettingError("scheduler: ReduceLROnPlateau needs a metric; schedules here have none")
    peaks = [group.get("max_lr", group.get("initial_lr")) for group in optimizer.param_groups]
    if head_lr_factor != 1 and peaks != rates:  # OneCycleLR, for example
        reason = f"{type(scheduler).__name__} sets its own learning rates; choose another scheduler"
        raise SettingError(f"head_lr_factor={head_lr_factor}: {reason}")
    return scheduler


def make_checked(make: Any, name: str, kind: type[T], argument: Any, **given: Any) -> T:
    """An optimizer or scheduler from a specification with `given`, or a function of `argument`."""
    if isinstance(make, dict):
        if OBJECT in make:  # all that a checkpoint has of it
            advice = f"give it with load_from_checkpoint(PATH, {name}=...)"
            raise SettingError(f"{name}: was given as an object, {make[OBJECT]}; {advice}")
        return instantiate(make, name, kind, **given)
    made = make(argument) if callable(make) else None
    if not isinstance(made, kind):
        takes = "the parameter groups" if name == "optimizer" else "the optimizer"
        needed = f"must be a specification or a function of {takes} that returns the {name}"
        raise SettingError(f"{name}: {needed}, such as functools.partial(CLASS, KEY=VALUE)")
    return made


def load_initial_weights(network: nn.Module) -> None:
    """Have a network load pretrained weights, to start a training from them."""
    if load := getattr(network, "load_initial_weights", None):
        try:
            load()
        except (OSError, RuntimeError, ValueError) as error:  # no internet, another shape
            reason = f"model: cannot load initial weights: {one_line(error)}"
            raise SettingError(reason) from error


def first_images(trainer: Any, count: int = 5000) -> Tensor:
    """The first training images of a trainer, uint8 (N, 3, 32, 32), for a network's start."""
    if isinstance(data := trainer.datamodule, InMemoryDataModule):
        return data.images(data.train_indices[:count])
    images: list[Tensor] = []
    for batch in trainer.fit_loop._data_source.dataloader():  # as given, for no rank in particular
        images.append(batch[0])
        if sum(map(len, images)) >= count:
            break
    return torch.cat(images)[:count]


def total_steps(trainer: L.Trainer) -> int:
    """The optimizer steps of a training; gradients may accumulate differently in each epoch."""
    if trainer.limit_train_batches == 0:  # type: ignore[attr-defined]  # Trainer sets it
        return 0
    estimate = trainer.estimated_stepping_batches  # as if they did as in the first epoch
    if not 0 <= estimate < math.inf:  # a loader without a length, or no last epoch
        reason = "the number of training steps is unknown, which the schedule needs"
        raise SettingError(f"trainer: {reason}; set max_epochs, or max_steps if data has no length")
    steps = int(estimate)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Trainer sets it
        if isinstance(callback, GradientAccumulationScheduler):
            batches, epochs = trainer.num_training_batches, range(trainer.max_epochs or 0)
            counts = map(callback.get_accumulate_grad_batches, epochs)
            steps = sum(math.ceil(batches / count) for count in counts)
            return min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps
    return steps
