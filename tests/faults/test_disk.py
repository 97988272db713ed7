"""A full disk: one line of error, nothing lost, and the run resumes once there is room."""

import errno
import functools
import os
import shutil
import subprocess

import pytest

from tests.faults.harness import SMALL, Run, outcome, same
from tests.processes import assert_one_error


def full_at(nth: int) -> None:
    """Have the disk be full from the process's nth write of a file on."""
    flush, count = os.fsync, 0

    def fsync(file: int) -> None:
        nonlocal count
        count += 1
        if count >= nth:
            os.ftruncate(file, os.fstat(file).st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    os.fsync = fsync


def test_a_run_resumes_after_a_full_disk_at_any_write(tmp_path, reference, long, survived):
    expected, _ = reference
    for nth in range(1, 30) if long else (1, 2, 5):
        folder = tmp_path / f"run{nth}"
        arguments = [*SMALL, "resume=auto", f"hydra.run.dir={folder}"]
        run = Run(arguments, tmp_path, functools.partial(full_at, nth))
        if run.wait() == 0:  # there are no more writes than that
            assert nth > 8
            break
        assert_one_error(run, 1, "No space left on device")
        again = Run(arguments, tmp_path)
        assert again.wait() == 0, again.output
        good = same(outcome(folder), expected)
        survived("disk full at a write, resumed when there was room", good)
        assert good


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 450 kB, where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=450k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_run_resumes_after_a_full_file_system(small_disk, reference, chance, long, survived):
    expected, _ = reference
    for _ in range(20 if long else 2):
        folder, filler = small_disk / "run", small_disk / "filler"
        arguments = [*SMALL, "resume=auto", f"hydra.run.dir={folder}"]
        filler.write_bytes(bytes(1000 * chance.randint(100, 440)))
        run = Run(arguments, small_disk.parent)
        if run.wait():
            assert_one_error(run, 1, "No space left on device")
        filler.unlink()
        again = Run(arguments, small_disk.parent)
        assert again.wait() == 0, again.output
        good = same(outcome(folder), expected)
        survived("file system full, resumed when there was room", good)
        assert good
        shutil.rmtree(folder)
