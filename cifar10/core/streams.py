"""Standard output and logging: of a training they never stop it, of other commands they fail."""

import errno
import io
import logging
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, TextIO

from cifar10.core.secrets import SafeFormatter


class StdoutHandler(logging.StreamHandler):
    """Logs to the present sys.stdout, which a progress bar replaces while it is shown."""

    @property
    def stream(self) -> TextIO:
        return sys.stdout

    @stream.setter
    def stream(self, _: TextIO) -> None: ...


class LogFile(logging.FileHandler):
    """Appends to a file, but not through a link in a stranger's run folder."""

    def _open(self) -> Any:
        path = Path(self.baseFilename)
        if path.is_symlink():
            raise OSError(errno.ELOOP, "is a symbolic link, which is not followed", str(path))
        if path.exists() and path.stat().st_nlink > 1:  # also the name of another file
            copy = path.with_name(f".{path.name}.tmp")
            copy.unlink(missing_ok=True)
            copy.write_bytes(path.read_bytes())
            copy.replace(path)
        return super()._open()


class TolerantStream(io.RawIOBase):
    """Writes to a raw stream; once that fails, it says so on stderr and discards the rest."""

    def __init__(self, raw: io.RawIOBase, name: str):
        self.raw, self.label, self.broken = raw, name, False

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.raw.isatty()

    def fileno(self) -> int:
        return self.raw.fileno()

    def write(self, data: Any) -> int:
        if not self.broken:
            try:
                return self.raw.write(data) or 0
            except OSError as error:
                self.broken = True
                if self.label == "stdout" and sys.stderr is not None:
                    why = f"{error.strerror}; no further output"
                    print(f"stdout: {why}; a training continues, see train.log", file=sys.stderr)
        return len(data)


def report_thread_error(thread: threading.ExceptHookArgs) -> None:
    """Print a thread's traceback, unless the main thread reports the error."""
    if not isinstance(thread.exc_value, OSError):  # of TensorBoard's writer, which raises it again
        threading.__excepthook__(thread)


def set_up_streams() -> None:
    """Print all that a terminal can show, and log to stderr, for commands other than training."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - stdout was closed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger().handlers[0].setFormatter(SafeFormatter("%(message)s"))
    logging.getLogger("cifar10").setLevel(logging.INFO)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # unreadable images get one line of ours
    warnings.filterwarnings("ignore", module="PIL")


def guard_output() -> None:
    """Have output that nobody can read, or that its encoding lacks, not end a training."""
    threading.excepthook = report_thread_error
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
        elif type(stream) is io.TextIOWrapper:  # not one of a notebook or a test
            stream.flush()
            raw: Any = getattr(stream.buffer, "raw", stream.buffer)  # itself if unbuffered
            buffer = io.BufferedWriter(TolerantStream(raw, name), 1 << 13)
            guarded = io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", None, True)
            setattr(sys, name, guarded)
