"""The report of a finished run is drawn again, or for the first time."""

import shutil

import pytest

from cifar10 import launch
from cifar10.core.errors import UserError
from cifar10.inference.report import draw_report
from cifar10.runs.result import write_result


@pytest.mark.slow
def test_a_report_is_drawn_anew_with_the_same_content(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    (folder / "report.html").unlink()
    shutil.rmtree(folder / "figures")
    assert draw_report(folder) == folder / "report.html"
    assert {path.name: path.read_bytes() for path in (folder / "figures").iterdir()} == before


@pytest.mark.slow
def test_resuming_a_finished_run_draws_the_report_that_it_lacks(
    trained, tmp_path, type_in, monkeypatch
):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "report.html").unlink()
    code, _ = type_in(f"resume={folder}")
    assert code == 0
    assert (folder / "report.html").exists()
    monkeypatch.setattr("cifar10.inference.report.draw_report", None)  # not drawn again
    assert type_in(f"resume={folder}")[0] == 0
    (folder / "report.html").unlink()

    def fails(*_):
        raise UserError("the data is gone")

    monkeypatch.setattr("cifar10.inference.report.draw_report", fails)
    monkeypatch.setattr(launch.StartHook, "prepared", None)
    assert type_in(f"resume={folder}")[0] == 0


def test_an_unfinished_run_has_no_report(tmp_path):
    write_result(tmp_path, {"status": "interrupted", "overrides": []})
    with pytest.raises(UserError, match="has no results yet, its status is interrupted"):
        draw_report(tmp_path)
    with pytest.raises(UserError, match="no such run folder"):
        draw_report(tmp_path / "nowhere")
