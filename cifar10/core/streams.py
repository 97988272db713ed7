"""Standard output that never stops the program."""

import io
import os
import sys
from pathlib import Path
from typing import Any


class Forgiving(io.RawIOBase):
    """Writes to a file descriptor; once that fails, it says so on stderr and discards the rest."""

    def __init__(self, descriptor: int, name: str):
        self.descriptor, self.label, self.broken = descriptor, name, False

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def fileno(self) -> int:
        return self.descriptor

    def write(self, data: Any) -> int:
        if not self.broken:
            try:
                return os.write(self.descriptor, data)
            except OSError as error:
                self.broken = True
                if self.label == "stdout" and sys.stderr is not None:
                    why = error.strerror
                    print(f"stdout: {why}; the run continues, see train.log", file=sys.stderr)
        return len(data)


def guard_output() -> None:
    """Have output that nobody can read, or that its encoding lacks, not end a training."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
        elif type(stream) is io.TextIOWrapper:  # not one of a notebook or a test
            stream.flush()
            buffer = io.BufferedWriter(Forgiving(stream.fileno(), name), 1 << 13)
            guarded = io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", None, True)
            setattr(sys, name, guarded)
