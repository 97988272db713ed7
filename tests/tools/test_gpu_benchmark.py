"""The benchmark of a GPU, without one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.budget import run_sections
from cifar10.core.settings import ROOT


def measures(seconds, trial):
    yield {"figures": [1 / 3]}
    yield {"figures": [1 / 3, 2.0]}


def fails(seconds, trial):
    yield {"figures": [1.0]}
    raise RuntimeError("no\nluck")


def dies(seconds, trial):
    yield {"figures": [1.0]}
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(seconds, trial):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield {"child": child.pid}
    child.wait()


def test_a_section_that_fails_dies_or_hangs_is_recorded_and_the_others_run(tmp_path, capsys):
    sections = {
        "fails": (fails, 90),
        "dies": (dies, 90),
        "hangs": (hangs, 6),
        "ok": (measures, 90),
    }
    path = tmp_path / "new" / "gpu.json"
    assert not run_sections(path, {"trial": True}, sections)
    record = json.loads(path.read_text())
    found = record["sections"]
    assert record["trial"] is True
    assert found["fails"]["error"] == "RuntimeError: no luck"
    assert found["dies"]["error"] == "its process ended with exit code -9"
    assert found["hangs"]["error"] == "ended after its limit of 6 s"
    assert found["fails"]["figures"] == found["dies"]["figures"] == [1.0]
    assert found["ok"]["figures"] == [0.33333, 2.0]
    assert "error" not in found["ok"]
    assert all(section["seconds"] > 0 for section in found.values())
    assert is_gone(found["hangs"]["child"])
    assert [path.name for path in path.parent.iterdir()] == ["gpu.json"]
    assert "ok: done" in capsys.readouterr().out


def is_gone(process, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(process)], check=False, capture_output=True, text=True
        )
        if not state.stdout.strip() or state.stdout.startswith("Z"):
            return True
        time.sleep(0.1)
    return False


def test_sections_are_saved_while_they_measure(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("benchmarks.budget.rounded", lambda content: saved.append(content) or 0)
    assert run_sections(tmp_path / "gpu.json", {}, {"ok": (measures, 90)})
    assert len(saved) == 3


def test_without_a_gpu_it_ends_in_one_line(tmp_path, monkeypatch, capsys):
    import torch

    from benchmarks import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: no CUDA device; see --help for a trial on the CPU\n"
    assert not any(tmp_path.iterdir())


def test_the_sections_take_less_than_ten_minutes_in_total():
    from benchmarks.gpu import SECTIONS

    assert sum(seconds for _, seconds in SECTIONS.values()) <= 580


def test_time_counts_if_the_mean_accuracy_reaches_the_target():
    from benchmarks.gpu_sections import accuracy

    def run(top1, seconds):
        return {
            "precision": {"value": "bf16-mixed"},
            "seconds": {"training": seconds, "total": 2 * seconds},
            "images_per_second": 1000.0,
            "test": {"top1": 0.9},
            "test_views": {"top1": top1},
        }

    reached = accuracy("airnet94", [run(0.945, 3.0), run(0.939, 2.0), run(0.94, 4.0)])
    assert reached["seconds_to_target"] == 3.0
    assert reached["training_seconds"]["n"] == 3
    assert reached["test_views_top1"]["std"] == pytest.approx(0.00321, abs=1e-5)
    missed = accuracy("airnet94", [run(0.93, 3.0)])
    assert missed["seconds_to_target"] is None
    assert missed["training_seconds"]["median"] == 3.0


@pytest.mark.slow
def test_a_trial_runs_everything_on_the_cpu(tmp_path):
    path = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--trial", str(path)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=600)
    record = json.loads(path.read_text())
    sections = record["sections"]
    assert record["trial"] and record["gpu"] is None and record["versions"]["torch"]
    assert set(sections["tests"]["outcomes"].values()) == {"skipped"}
    assert len(sections["step"]["rows"]) == 5
    assert all(row["n"] == 1 and row["median"] > 0 for row in sections["step"]["rows"].values())
    recipes = {"default", "original", "airnet94", "airbench94", "speedrun94"}
    assert sections["time_to_accuracy"].keys() == recipes | {"seconds"}
    for recipe in ("default", "airnet94"):
        assert sections["bit_equality"][recipe]["equal"]
