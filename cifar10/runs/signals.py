"""Signals that ask the program to stop."""

import logging
import os
import signal
import subprocess
import sys
import threading

log = logging.getLogger(__name__)


class Interrupted(BaseException):
    """A signal asked the program to stop.

    Not an Exception, so that no handler of errors takes it for one.

    Attributes:
        number, name: of the signal.
        exit_code: 128 + the signal's number.
        together: all ranks of a distributed run stop, after the same step.
    """

    def __init__(self, number: int, together: bool = False):
        super().__init__(number)
        self.number, self.name = number, signal.Signals(number).name
        self.exit_code, self.together = 128 + number, together

    def __str__(self) -> str:
        return f"stopped by {self.name}"


class Signals:
    """SIGINT, SIGTERM and SLURM's: the first stops the program when it can, a second at once.

    Attributes:
        asked: the number of the signal that came, if one did.
    """

    def __init__(self):
        self.asked: int | None = None
        self.listening = self.held = False

    def listen(self) -> None:
        """Take over the signals from whoever has them."""
        self.listening = True
        for number in (signal.SIGINT, signal.SIGTERM, *pre_emption()):
            signal.signal(number, self.stop)

    def stop(self, number: int, _: object) -> None:
        if self.asked is not None:
            os._exit(128 + number)
        self.asked = number
        if not self.held:
            raise Interrupted(number)
        print("\nstopping after this step; again to stop at once", file=sys.stderr, flush=True)

    def ignored(self, what: "sys.UnraisableHookArgs") -> None:
        """For sys.unraisablehook: where Python dropped `Interrupted`, have the signal come again.

        It does so in a finaliser, which may run at any moment.
        """
        if isinstance(what.exc_value, Interrupted):
            self.asked = None
            threading.Timer(0.05, os.kill, (os.getpid(), what.exc_value.number)).start()
        else:
            sys.__unraisablehook__(what)

    def hold(self) -> None:
        """Have signals wait until someone looks at `asked`: a broken-off step is half done."""
        self.held = True
        if self.listening:
            self.listen()  # while it trains, Lightning has SIGTERM, and would exit with 0

    def release(self) -> None:
        self.held = False


def pre_emption() -> list[signal.Signals]:
    """The signal by which SLURM says that a job's time is nearly up (`--signal=SIGUSR1@90`)."""
    return [signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else []


def requeue() -> None:
    """Put this SLURM job back into its queue, as Lightning's own handler does."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.error("error: scontrol requeue %s: %s", job, getattr(error, "stderr", None) or error)


signals = Signals()  # a process has one handler for each
