"""The lines that a sweep prints for each of its runs."""

import json

from cifar10.sweeps import progress

GRID = {"run": 3, "runs": 8, "label": "lr=0.1 seed=2", "trial": None}
SEARCH = GRID | {"runs": 30, "trial": 2}


def finish(folder, name, started, seconds, status="ok"):
    (folder / name).mkdir(parents=True)
    result = {"status": status, "overrides": [], "started": f"2026-01-01T00:{started}+00:00"}
    if status == "ok":
        result |= dict(seed=0, settings={}, epochs=1, test={}, device="x", precision={"value": "x"})
        result |= {"versions": {"torch": "2"}, "data": {"train": 1, "val": 1, "test": 1}}
    result["seconds"] = {"total": seconds, "training": seconds}
    (folder / name / "result.json").write_text(json.dumps(result))


def test_a_run_begins_with_its_number_and_values_and_the_time_left(tmp_path):
    assert progress.begin_line(GRID, tmp_path) == "run 3 of 8: lr=0.1 seed=2"
    assert progress.begin_line(GRID | {"label": ""}, tmp_path) == "run 3 of 8: started"
    finish(tmp_path, "a", "00:00", 40)
    finish(tmp_path, "b", "01:00", 50, status="failed")
    finish(tmp_path, "c", "09:00", 1, status="interrupted")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "result.json").write_text("{")
    (tmp_path / "e").mkdir()  # could not start
    (tmp_path / "e" / "result.json").write_text('{"status": "failed", "overrides": []}')
    # Six runs of 45 s are left.
    assert progress.begin_line(GRID, tmp_path) == "run 3 of 8: lr=0.1 seed=2, about 4 min left"
    assert progress.begin_line(SEARCH, tmp_path).startswith("trial 3 of 30: lr=0.1 seed=2, about")


def test_a_run_ends_with_its_metrics_or_what_happened():
    val = {"top1": 0.839, "loss": 0.54449}
    result = {"status": "ok", "val": val, "seconds": {"total": 163.2}}
    line = "run 3 of 8: 83.90% val top-1, loss 0.5445, 2 min 43 s"
    assert progress.end_line(GRID, result) == line
    assert progress.end_line(GRID, result | {"val": {}}) == "run 3 of 8: finished, 2 min 43 s"
    pruned = {"status": "pruned", "error": "pruned after epoch 1", "seconds": {"total": 9.7}}
    assert progress.end_line(SEARCH, pruned) == "trial 3 of 30: pruned after epoch 1, 10 s"
