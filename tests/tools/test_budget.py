"""Sections of a benchmark that fail, die or hang."""

import json
import os
import signal
import subprocess
import sys
import time

from benchmarks.budget import run_sections

# The processes of sections import this file, so it imports little.


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


def is_gone(process, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        command = ["ps", "-o", "stat=", "-p", str(process)]
        state = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        if not state.strip() or state.startswith("Z"):
            return True
        time.sleep(0.1)
    return False


def test_a_section_that_fails_dies_or_hangs_is_recorded_and_the_others_run(tmp_path, capsys):
    sections = {"fails": (fails, 90), "dies": (dies, 90), "hangs": (hangs, 6), "ok": (measures, 90)}
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
    assert [file.name for file in path.parent.iterdir()] == ["gpu.json"]
    assert "ok: done" in capsys.readouterr().out


def test_sections_are_saved_while_they_measure(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("benchmarks.budget.rounded", lambda content: saved.append(content) or 0)
    assert run_sections(tmp_path / "gpu.json", {}, {"ok": (measures, 90)})
    assert len(saved) == 3
