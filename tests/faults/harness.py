"""Runs of the command line in processes that can be killed, and what they leave behind.

The heavy imports happen once, in a server process; each run is a fork of it.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cifar10.data.checksums import Checksums
from cifar10.runs import result as results

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["train", "cifar10.runs.run"])

# 800 training images, 8 steps an epoch, a checkpoint every 5.
SMALL = (
    "data=sample",
    "data.batch_size=100",
    "model._target_=tests.faults.network.Small",
    "~model.dropout",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "callbacks.last.every_n_steps=5",
    "callbacks.gallery=null",  # it takes longer than all the rest
    "threads=1",
    "seed=7",
)
# The same from data that a run must prepare first; see `use_checksums`.
PREPARING = ("data=cifar10", "data.val_size=200", "data.download=false", *SMALL[1:])
# What may differ: times, what was typed, and the state of the checkout.
TIMES = ("started", "seconds", "images_per_second", "overrides", "resumed", "commit", "clean")


def command_line(arguments: Sequence[str], output: str, prepare: Callable[[], None] | None) -> None:
    """What a run's process does: `python train.py ARGUMENTS`, its output in a file."""
    file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ["CIFAR10_TRUST"] = "tests"
    sys.argv = ["train.py", *arguments]
    import train

    if prepare:
        prepare()
    train.cli()


class Run:
    """A run of the command line in a process of its own.

    Args:
        arguments: of train.py.
        output: file that what it prints is added to.
        prepare: called in the process before anything else.
    """

    def __init__(
        self, arguments: Sequence[str], output: Path, prepare: Callable[[], None] | None = None
    ):
        self.output = output
        self.process = SERVER.Process(
            target=command_line, args=(list(arguments), str(output), prepare)
        )
        self.process.start()

    def wait(self, seconds: float = 120) -> int:
        """The exit code; negative for the number of the signal that killed it."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.said}")
        return self.process.exitcode

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""


def use_checksums(checksums: Checksums, then: Callable[[], None] | None = None) -> None:
    """Make the process take a small data set for CIFAR-10, which it then prepares first."""
    from cifar10.data import module, prepare

    module.TRAIN_SIZES["cifar10"] = sum(checksums.records[:5])
    prepare.prepare_dataset = functools.partial(prepare.prepare_dataset, checksums=checksums)
    if then:
        then()


def die_after_saves(count: int = 6) -> None:
    """Have the process be killed right after it has put its sixth file in place."""
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
    """All that a finished run computed: weights, optimizer, figures; no times."""
    result = results.read_result(folder / results.RESULT_FILE)
    history = [
        {key: value for key, value in epoch.items() if key != "train/images_per_second"}
        for epoch in result.pop("history")
    ]
    left = {key: value for key, value in result.items() if key not in TIMES}
    states = {
        name: torch.load(folder / f"{name}.ckpt", weights_only=True) for name in ("last", "best")
    }
    return left | {
        "history": history,
        "states": {
            name: {key: state[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")}
            for name, state in states.items()
        },
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
    """What an uninterrupted run computes, and the seconds it took."""
    start = time.perf_counter()
    run = Run([*arguments, f"hydra.run.dir={folder}"], folder.with_suffix(".log"), prepare)
    assert run.wait() == 0, run.said
    return outcome(folder), time.perf_counter() - start
