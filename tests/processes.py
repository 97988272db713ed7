"""Runs of train.py in processes of their own.

torch and Lightning are imported once, in a server process; each run is a fork of it.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path

from cifar10.core.settings import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["train", "cifar10.runs.run", "cifar10.reports.run_report", "torch.utils.tensorboard"]
)
# A run on the sample that takes a fraction of a second.
TINY = (
    "data=sample",
    "model._target_=tests.network.Small",
    "trainer.max_epochs=1",
    "+trainer.limit_train_batches=4",
    "report=false",
)

numbers = itertools.count()


def start_server() -> None:
    """Start the server in the project's folder, from where it imports the project."""
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()


def run_train(
    arguments: list[str],
    folder: str,
    files: tuple[str, str],
    environment: dict[str, str],
    prepare: Callable[[], None] | None,
) -> None:
    """In a new process: `python train.py ARGUMENTS`, with stdout and stderr in files."""
    for target, name in enumerate(files, start=1):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), target)
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [str(ROOT / "train.py"), *arguments]
    sys.modules["__main__"].__spec__ = None  # Lightning starts other ranks as it was started itself
    import train

    if prepare:
        prepare()
    train.cli()


class TrainProcess:
    """`python train.py ARGUMENTS` in a process of its own.

    Args:
        folder: the working directory; stdout and stderr go to files beside it.
        arguments: of train.py.
        environment: further environment variables.
        stdout: a terminal to write to in place of the file.
        prepare: called in the process before train.py starts; may change its code.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        stdout: str | None = None,
        prepare: Callable[[], None] | None = None,
    ):
        number = next(numbers)
        self.files = [folder.with_name(f"{folder.name}.{number}.{name}") for name in ("out", "err")]
        start_server()
        self.process = SERVER.Process(
            target=run_train,
            args=(
                list(arguments),
                str(folder),
                (stdout or str(self.files[0]), str(self.files[1])),
                dict(environment or {}),
                prepare,
            ),
        )
        self.process.start()

    @property
    def out(self) -> str:
        return self.files[0].read_text(errors="replace") if self.files[0].exists() else ""

    @property
    def err(self) -> str:
        return self.files[1].read_text(errors="replace") if self.files[1].exists() else ""

    @property
    def output(self) -> str:
        return self.out + self.err

    def wait(self, seconds: float = 200) -> int:
        """The exit code; negative for the number of the signal that ended the process."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.output}")
        return self.process.exitcode

    def wait_until(self, condition: Callable[[], bool], seconds: float = 200) -> None:
        """Wait until a condition holds, or fail."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process.is_alive():  # else its number may be another process's by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


def train(folder: Path, *arguments: str, **options) -> TrainProcess:
    """A finished run that must succeed."""
    run = TrainProcess(folder, *arguments, **options)
    assert run.wait() == 0, run.output
    return run


def run_python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code with this project in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


def last_epoch(run: TrainProcess) -> int:
    """The number of the last epoch that a run has printed; 0 before the first."""
    lines = [line for line in run.out.splitlines() if line.startswith("epoch ")]
    return int(lines[-1].split()[1].partition("/")[0]) if lines else 0


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def assert_one_error(run: TrainProcess, code: int, message: str) -> None:
    """A run ended with an exit code and one line of error."""
    assert run.wait() == code, run.output
    (line,) = error_lines(run.err)
    assert message in line
    assert "Traceback" not in run.output
