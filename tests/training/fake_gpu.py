"""A GPU without hardware: its tensors have a device, a shape and a dtype, but no values.

Mixing devices raises, and so does reading a value, as `.item()`, `bool()` or `nonzero()` do, for
which the host waits until a GPU has finished its queue. Backward passes need a driver.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cifar10.core.settings import ROOT
from cifar10.data import augment
from cifar10.training.ema import EMA

OURS = str(ROOT / "cifar10")


class Copy(NamedTuple):
    """An operation on tensors of two devices."""

    phase: str
    module: str  # of this project that asked for it, or `library`
    operation: str


class Copies(TorchDispatchMode):
    """Lists the operations that touch both the host's memory and the GPU's."""

    def __init__(self):
        super().__init__()
        self.phase, self.found = "start", []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        if len({leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}) > 1:
            self.found.append(Copy(self.phase, caller(), str(operation)))
        return result


def caller() -> str:
    """The innermost function's module, if it is of this project and no library is in between."""
    frame = sys._getframe(2)
    while frame and "/torch/" in frame.f_code.co_filename:
        frame = frame.f_back
    file = frame.f_code.co_filename if frame else ""
    return file.rpartition("/")[2].removesuffix(".py") if file.startswith(OURS) else "library"


@contextmanager
def fake_gpu() -> Iterator[Copies]:
    """Tensors made meanwhile are fake; existing ones become fake copies where they are used."""
    augment.colour_moments.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        yield copies
    augment.colour_moments.cache_clear()  # a fake tensor


def pretend(patch: pytest.MonkeyPatch) -> None:
    """Have torch, torchmetrics and Lightning accept a GPU that has no driver and no values."""
    patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    patch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    patch.setattr("torchmetrics.metric.deepcopy", lambda state: state.clone())  # needs memory
    # Once per loop, before its first step, Lightning asks all ranks whether they have batches.
    for loop in ("fit_loop", "evaluation_loop"):
        patch.setattr(f"lightning.pytorch.loops.{loop}.has_len_all_ranks", lambda *_: True)
    # After the last step, `Trainer.test` returns numbers.
    to_numbers = "lightning.pytorch.trainer.trainer.convert_tensors_to_scalars"
    patch.setattr(to_numbers, lambda values: values)


def devices(*values) -> set[str]:
    """The devices of all tensors in values, of which there is at least one."""
    found = {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
    assert found
    return found


def sums(collection) -> list[Tensor]:
    """What metrics have added up."""
    return [getattr(metric, key) for metric in collection.values() for key in metric._defaults]


def make_up_gradients(module: nn.Module, loss: Tensor | None = None) -> None:
    """In place of a backward pass."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)


class AnyAccelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Accept a GPU."""


class FakeGPUStrategy(SingleDeviceStrategy):
    """Trains on the fake GPU; fake weights can be moved to it but not back."""

    def __init__(self):
        super().__init__("cuda:0", AnyAccelerator())

    def model_to_device(self) -> None:
        if next(self.model.parameters()).is_cpu:
            super().model_to_device()

    def teardown(self) -> None:
        pass


class Phases(Callback):
    """Names the part of the run that copies belong to; first of the callbacks."""

    def __init__(self, copies: Copies):
        self.copies = copies

    def step(self, index: int) -> None:
        # In a loop's first step, Lightning creates the sums of what is logged, on the host.
        self.copies.phase = "step" if index else "first step"

    def on_train_batch_start(self, trainer, module, batch, index):
        self.step(index)

    def on_validation_batch_start(self, trainer, module, batch, index, dataloader_idx=0):
        self.step(index)

    on_test_batch_start = on_validation_batch_start

    def pause(self, *_: object) -> None:
        self.copies.phase = "between steps"

    on_train_start = on_train_epoch_end = on_validation_start = on_validation_epoch_end = pause
    on_test_start = on_test_epoch_end = pause


class Holdings(Callback):
    """Notes the devices of all that a training holds after each of its steps."""

    def __init__(self, ema: EMA):
        self.ema, self.seen = ema, set()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        held = [teacher.state_dict() for teacher, _ in module.teachers]
        held += [module.state_dict(), sums(module.train_metrics), self.ema.average, batch, outputs]
        held += [trainer.callback_metrics, trainer.optimizers[0].state_dict()["state"]]
        self.seen |= devices(*held)
