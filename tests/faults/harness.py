"""Small runs that can be killed, and the comparison of what they computed."""

import functools
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cifar10.data.checksums import Checksums
from cifar10.runs import result as results
from tests.processes import TrainProcess

# 800 training images, 8 steps an epoch, a checkpoint every 5.
SMALL = (
    "data=sample",
    "data.batch_size=100",
    "model._target_=tests.network.Small",
    "~model.dropout",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "callbacks.last.every_n_steps=5",
    "report=false",  # takes longer than all the rest
    "threads=1",
    "seed=7",
)
# The same from data that a run must prepare first; see `use_checksums`.
PREPARING = ("data=cifar10", "data.val_size=200", "data.download=false", *SMALL[1:])
# What a checkpoint must have in common with that of the undisturbed run, besides its history.
STATES = ("state_dict", "trained_weights", "optimizer_states", "lr_schedulers", "global_step")
# What may differ: times, overrides and the state of the checkout.
TIMES = ("started", "seconds", "images_per_second", "overrides", "resumed", "commit", "clean")


class Run(TrainProcess):
    """A run that may use the small network of these tests.

    Args:
        arguments: of train.py.
        folder: the working directory; its output goes to files beside it.
        prepare: called in the process before train.py starts.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, prepare: Callable[[], None] | None = None
    ):
        environment = {"CIFAR10_TRUST": "tests"}
        super().__init__(folder, *arguments, environment=environment, prepare=prepare)


def use_checksums(checksums: Checksums, then: Callable[[], None] | None = None) -> None:
    """Make the process take a small data set for CIFAR-10, which it then prepares first."""
    from cifar10.data import module, prepare

    module.TRAIN_SIZES["cifar10"] = sum(checksums.records[:5])
    prepare.prepare_dataset = functools.partial(prepare.prepare_dataset, checksums=checksums)
    if then:
        then()


def die_after_saves(count: int = 6) -> None:
    """Have the process be killed right after it has saved its sixth file."""
    rename, done = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal done
        done += 1
        moved = rename(self, target)
        if done == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    Path.replace = replace


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a finished run computed: weights, optimizer, figures; no times."""
    result = results.read_result(folder / results.RESULT_FILE)
    history = [
        {key: value for key, value in epoch.items() if key != "train/images_per_second"}
        for epoch in result.pop("history")
    ]
    left = {key: value for key, value in result.items() if key not in TIMES}
    states = {
        str(file.relative_to(folder)): torch.load(file, weights_only=True)
        for file in sorted(folder.glob("**/*.ckpt"))
        if file.name != "previous.ckpt"
    }
    return left | {
        "history": history,
        "states": {name: {key: state.get(key) for key in STATES} for name, state in states.items()},
    }


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def reference(
    folder: Path,
    arguments: Sequence[str] = SMALL,
    prepare: Callable[[], None] | None = None,
) -> tuple[dict[str, Any], float]:
    """The results of an uninterrupted run, and the seconds it took."""
    start = time.perf_counter()
    run = Run([*arguments, f"hydra.run.dir={folder}"], folder.parent, prepare)
    assert run.wait() == 0, run.output
    return outcome(folder), time.perf_counter() - start
