"""Runs that are killed or interrupted at any moment end with the same results."""

import functools
import os
import signal
import time
from pathlib import Path

import pytest

from cifar10.data.prepare import PREPARED_FILE
from tests.faults.harness import (
    PREPARING,
    SMALL,
    Run,
    die_after_saves,
    outcome,
    same,
    use_checksums,
)
from tests.faults.harness import reference as reference_of

STOPS_AT_MOST = 4


def ended_properly(code: int, number: int, output: str) -> bool:
    """Whether a signal ended a run as it should."""
    if number == signal.SIGKILL:
        return code == -number and "Traceback" not in output
    if "run folder" not in output:  # train.py may not have installed its handlers yet
        return code in (-number, 1, 128 + number)
    return code == 128 + number and "Traceback" not in output


def die_in_write(nth: int) -> None:
    """Have the process be killed in its nth write of a file.

    Half of the bytes are there when it dies, as after a full write to a disk that lost power.
    """
    flush, count = os.fsync, 0

    def fsync(file: int) -> None:
        nonlocal count
        count += 1
        if count == nth:
            os.ftruncate(file, os.fstat(file).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        flush(file)

    os.fsync = fsync


def until_finished(
    folder: Path, chance, seconds: float, number: int, settings=SMALL, before=None
) -> int:
    """Restart a run until it is done, stopping it at random moments; returns the number of stops.

    Args:
        seconds: within which a run is stopped, if it is not done before.
    """
    arguments = [*settings, "resume=auto", f"hydra.run.dir={folder}"]
    stops = 0
    while True:
        prepare, stopping = before, stops < STOPS_AT_MOST
        in_write = stopping and number == signal.SIGKILL and chance.random() < 0.4
        if in_write:
            kind = chance.choice([die_in_write, die_after_saves])
            prepare = functools.partial(kind, chance.randint(1, 16))
            if before:
                prepare = functools.partial(before, then=prepare)
        run = Run(arguments, folder.parent, prepare)
        if stopping and not in_write:
            time.sleep(chance.uniform(0, seconds))
            run.kill(number)
        code = run.wait()
        if code == 0:
            return stops
        assert ended_properly(code, number, run.output), (code, run.output)
        stops += 1


@pytest.mark.parametrize(
    ("number", "rounds"), [(signal.SIGKILL, 100), (signal.SIGTERM, 20), (signal.SIGINT, 20)]
)
def test_an_interrupted_run_ends_with_the_results_of_an_undisturbed_one(
    number, rounds, tmp_path, chance, reference, long, survived
):
    expected, seconds = reference
    done = tried = 0
    while done < (rounds if long else 2):
        folder = tmp_path / f"run {tried}"
        stops = until_finished(folder, chance, seconds, number)
        good = same(outcome(folder), expected) and not list(folder.glob(".*.tmp"))
        tried += 1
        if stops:
            done += 1
            survived(f"run ended by {number.name}, resumed until finished", good)
        else:
            seconds *= 0.9  # the machine is quicker now than when the reference was computed
        assert good, folder


def test_a_run_killed_while_it_prepares_its_data_resumes_to_the_same_results(
    forms, tmp_path, chance, long, survived
):
    data = tmp_path / "data"
    data.mkdir()
    forms.write("cifar-10-python.tar.gz", data)
    settings = [*PREPARING, f"data.dir={data}"]
    before = functools.partial(use_checksums, forms.checksums)
    expected, _ = reference_of(tmp_path / "reference", settings, before)
    done = tried = 0
    while done < (20 if long else 2):
        (data / PREPARED_FILE).unlink()
        folder = tmp_path / f"run {tried}"
        # Preparing takes a tenth of a second, so early moments are tried most.
        stops = until_finished(folder, chance, 0.5, signal.SIGKILL, settings, before)
        good = same(outcome(folder), expected) and not list(data.glob(".*.tmp"))
        tried += 1
        if stops:
            done += 1
            survived("run killed from data preparation on, resumed until finished", good)
        assert good, folder
