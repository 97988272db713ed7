"""Standard output that never stops the program."""

import io
import os
import sys
from pathlib import Path
from typing import Any


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


def guard_output() -> None:
    """Have output that nobody can read, or that its encoding lacks, not end a training."""
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
