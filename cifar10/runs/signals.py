"""Signals that ask the program to stop."""

import logging
import os
import signal
import subprocess
import sys

log = logging.getLogger(__name__)


class Interrupted(BaseException):
    """A signal, by `number`, asked the program (or `all_ranks`, after the same step) to stop.

    No Exception, so that error handlers do not catch it.
    """

    def __init__(self, number: int, all_ranks: bool = False):
        super().__init__(number)
        self.number, self.all_ranks = number, all_ranks
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.number).name}"


class Signals:
    """Handles SIGINT, SIGTERM and SLURM's signal: the first stops cleanly, a second at once."""

    def __init__(self) -> None:
        self.received: int | None = None  # the number of the first signal
        self.listening = self.deferred = self.raised = False

    def listen(self) -> None:
        """Install the handlers."""
        self.listening = True
        for number in (signal.SIGINT, signal.SIGTERM, *preemption_signals()):
            signal.signal(number, self.handle)

    def handle(self, number: int, _: object) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        self.raised = not self.deferred
        if self.raised:
            raise Interrupted(number)
        message = "\nStopping after this step. Press Ctrl-C again to quit immediately."
        print(message, file=sys.stderr, flush=True)

    def raise_again(self) -> None:
        """Raise Interrupted if a library replaced it with an error of its own."""
        if self.raised and self.received is not None:
            raise Interrupted(self.received)

    def defer(self) -> None:
        """Let signals wait until someone reads `received`, so that no step is left half done."""
        self.deferred = True
        if self.listening:
            self.listen()  # Lightning takes over SIGTERM while it trains, and would exit with 0

    def release(self) -> None:
        self.deferred = False


def preemption_signals() -> list[signal.Signals]:
    """SLURM's announcement that a job's time is nearly up (`--signal=SIGUSR1@90`)."""
    return [signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else []


def requeue() -> None:
    """Put this SLURM job back into its queue, as Lightning's own handler does."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.error("error: scontrol requeue %s failed: %s", job, reason)


signals = Signals()  # a process has one handler per signal
