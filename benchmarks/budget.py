"""Sections of a benchmark, each with a time limit, saved in one file as they measure."""

import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.measure import rounded
from cifar10.core.errors import one_line
from cifar10.core.files import atomic_write

Record = dict[str, Any]
# Yields what it has measured so far; gets its time limit in seconds and whether this is a trial.
Section = Callable[[float, bool], Iterator[Record]]


def serve(section: Section, seconds: float, trial: bool, pipe: Any) -> None:
    """Send what a section yields; runs in a process that leads all processes of the section."""
    os.setsid()
    try:
        for record in section(seconds, trial):
            pipe.send(record)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        pipe.send({"error": f"{type(error).__name__}: {one_line(error)}"})


def watch(section: Section, seconds: float, trial: bool) -> Iterator[Record]:
    """Run a section and yield its record whenever that grows; end it after its time limit.

    The last record has its `seconds` and, if it failed, its `error`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(section, seconds, trial, theirs))
    start, record = time.monotonic(), Record()
    process.start()
    assert process.pid
    theirs.close()  # so that the pipe ends with the process
    try:
        while ours.poll(max(0.0, start + seconds - time.monotonic())):
            record |= ours.recv()
            yield record
        record["error"] = f"ended after its limit of {seconds:g} s"
    except EOFError:
        process.join(10)
        if process.exitcode:
            record.setdefault("error", f"its process ended with exit code {process.exitcode}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    yield record | {"seconds": time.monotonic() - start}


def run_sections(
    path: Path, head: Record, sections: Mapping[str, tuple[Section, float]], trial: bool = False
) -> bool:
    """Run sections with their time limits and return whether none failed.

    `path` is a JSON file with `head` and `sections`, saved after each measurement.
    """
    records: dict[str, Record] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, (section, seconds) in sections.items():
        print(f"{name}: at most {seconds:g} s", flush=True)
        for records[name] in watch(section, seconds, trial):
            with atomic_write(path) as file:
                content = rounded(head | {"sections": records})
                file.write(json.dumps(content, indent=1).encode() + b"\n")
        state = records[name].get("error", "done")
        print(f"{name}: {state}, {records[name]['seconds']:.0f} s", flush=True)
    print(f"saved to {path}")
    return not any("error" in record for record in records.values())
