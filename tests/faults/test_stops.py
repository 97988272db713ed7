"""Runs that are killed or asked to stop at any moment end as if nothing had happened."""

import functools
import os
import signal
import time
from pathlib import Path

import pytest

from cifar10.data import archive
from tests.faults.harness import PREPARING, SMALL, Run, die_after_saves, outcome, same, use_edition
from tests.faults.harness import reference as reference_of

STOPS_AT_MOST = 4
# Killed by the signal before train.py could listen, or stopped by it afterwards.
CODES = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {-signal.SIGTERM, 128 + signal.SIGTERM},
    signal.SIGINT: {-signal.SIGINT, 1, 128 + signal.SIGINT},
}


def die_in_write(nth: int) -> None:
    """Have the process be killed in its nth write of a file that must not be seen half-written.

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
    """Start a run again until it is done, stopping it at random moments; gives how often."""
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
        run = Run(arguments, folder.with_suffix(".log"), prepare)
        if stopping and not in_write:
            time.sleep(chance.uniform(0, 1.2 * seconds))
            run.kill(number)
        code = run.wait()
        if code == 0:
            return stops
        assert code in CODES[number], run.said
        assert "Traceback" not in run.said or number == signal.SIGINT, run.said
        stops += 1


@pytest.mark.parametrize(
    "number,rounds", [(signal.SIGKILL, 100), (signal.SIGTERM, 20), (signal.SIGINT, 20)]
)
def test_stopped_runs_end_as_the_undisturbed_one(
    number, rounds, tmp_path, chance, reference, long, survived
):
    expected, seconds = reference
    for round in range(rounds if long else 3):
        folder = tmp_path / f"run {round}"
        stops = until_finished(folder, chance, seconds, number)
        good = same(outcome(folder), expected)
        assert not list(folder.glob(".*.tmp"))
        if stops:
            survived(f"run stopped by {number.name} and resumed until done", good)
        assert good, folder


def test_killed_while_data_is_prepared_and_later(forms, tmp_path, chance, long, survived):
    data = tmp_path / "data"
    data.mkdir()
    forms.write("cifar-10-python.tar.gz", data)
    settings = [*PREPARING, f"data.dir={data}"]
    before = functools.partial(use_edition, forms.edition)
    expected, _ = reference_of(tmp_path / "reference", settings, before)
    for round in range(20 if long else 2):
        (data / archive.PREPARED).unlink()
        folder = tmp_path / f"run {round}"
        # Preparing takes a tenth of a second, so early moments are tried most.
        stops = until_finished(folder, chance, 0.5, signal.SIGKILL, settings, before)
        good = same(outcome(folder), expected) and not list(data.glob(".*.tmp"))
        if stops:
            survived("run killed from its data's preparation on, resumed until done", good)
        assert good, folder
