"""The folder of a run: one run and one process at a time."""

import os
from pathlib import Path

import pytest

from cifar10.core.errors import UserError
from cifar10.runs import result as results
from cifar10.runs.run import run
from cifar10.runs.run_dir import (
    choose_run_dir,
    claim_run_dir,
    is_free,
    latest_run,
    refuse_used_dir,
)


def test_a_folder_in_use_is_left_alone(tiny, tmp_path):
    lock = claim_run_dir(tmp_path, {"status": "running"})
    try:
        assert not is_free(tmp_path / ".run.lock")
        with pytest.raises(UserError, match="in use by another process"):
            run(tiny(), tmp_path, earlier={"overrides": [], "started": ""})
    finally:
        lock.release()
    assert is_free(tmp_path / ".run.lock")


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt"])
def test_a_checkpoint_without_the_result_of_its_run_is_left_alone(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"holds a {name} without the result.json of its run"):
        refuse_used_dir(tmp_path)


def test_a_folder_that_cannot_be_created_is_reported(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="run: cannot be written to: "):
        run(tiny(), tmp_path / "file" / "run")


def test_a_full_disk_at_the_start_leaves_no_result(tmp_path, monkeypatch):
    def full(result):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "to_json", full)
    with pytest.raises(UserError, match="cannot be written to: No space left on device"):
        claim_run_dir(tmp_path, {"status": "running"})
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]


def test_latest_is_the_newest_run_and_a_started_rank_takes_the_folder_of_the_first(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("sweep/a", "alone")):
        path = Path("outputs", name, "result.json")
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (number, number))
    assert choose_run_dir("latest", "outputs/new", False) == Path("outputs/alone")
    assert latest_run(pattern="*/*") == Path("outputs/sweep/a")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_run_dir("latest", "outputs/first", True) == Path("outputs/first")
