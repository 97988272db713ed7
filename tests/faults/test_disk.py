"""A disk that is full: one line, nothing lost, and the run goes on once there is room."""

import errno
import functools
import os
import shutil
import subprocess

import pytest

from tests.faults.harness import SMALL, Run, outcome, same


def full_at(nth: int) -> None:
    """Have the disk be full at the process's nth write of a file and ever after."""
    flush, count = os.fsync, 0

    def fsync(file: int) -> None:
        nonlocal count
        count += 1
        if count >= nth:
            os.ftruncate(file, os.fstat(file).st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    os.fsync = fsync


def assert_one_line(run: Run) -> None:
    assert run.wait() == 1, run.said
    errors = [line for line in run.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, run.said
    assert "No space left on device" in errors[0]
    assert "Traceback" not in run.said, run.said


def test_no_space_at_any_write(tmp_path, reference, long, survived):
    expected, _ = reference
    for nth in range(1, 30) if long else (1, 2, 5):
        folder = tmp_path / f"run{nth}"
        arguments = [*SMALL, "resume=auto", f"hydra.run.dir={folder}"]
        run = Run(arguments, tmp_path / f"{nth}.log", functools.partial(full_at, nth))
        if run.wait() == 0:  # there are no more writes than that
            assert nth > 8
            break
        assert_one_line(run)
        again = Run(arguments, tmp_path / f"{nth} again.log")
        assert again.wait() == 0, again.said
        good = same(outcome(folder), expected)
        survived("disk full at a write, resumed when there was room", good)
        assert good


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 450 kB, where one may be made."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=450k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_file_system_that_is_full(small_disk, reference, chance, long, survived):
    expected, _ = reference
    for round in range(20 if long else 2):
        folder, filler = small_disk / "run", small_disk / "filler"
        arguments = [*SMALL, "resume=auto", f"hydra.run.dir={folder}"]
        filler.write_bytes(bytes(1000 * chance.randint(100, 440)))
        run = Run(arguments, small_disk.parent / f"{round}.log")
        if run.wait():
            assert_one_line(run)
        filler.unlink()
        again = Run(arguments, small_disk.parent / f"{round} again.log")
        assert again.wait() == 0, again.said
        good = same(outcome(folder), expected)
        survived("file system full, resumed when there was room", good)
        assert good
        shutil.rmtree(folder)
