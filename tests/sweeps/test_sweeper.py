"""Grids: every combination of values, failed runs, resuming, launchers, bad input."""

import statistics
from datetime import datetime
from pathlib import Path

import pytest
from hydra.experimental.callback import Callback

from cifar10.core.settings import safe_filename
from cifar10.runs.result import write_result
from cifar10.runs.run_dir import NAME_MODELS
from cifar10.sweeps.sweeper import ResumableSweeper
from tests.sweeps.conftest import TINY, read, read_csv, start


@pytest.mark.slow
def test_a_killed_grid_resumes_and_reports_failed_runs(tmp_path, sweep):
    words = ("optimizer.lr=0.02,0.05,1e30", "seed=0,1", "sweep.dir='s w'")
    folder = tmp_path / "s w"
    process = start(tmp_path, *words)
    process.wait_until(lambda: any(folder.glob("*/last.ckpt")))
    process.kill()
    process.wait()
    done = [*folder.glob("*/last.ckpt")]
    first = done[0].parent.name
    started = read(folder)[first]["started"]

    code, out, err = sweep(*words)
    assert code == 1
    assert err.splitlines()[-1].startswith("error: 2 runs failed; to retry: python train.py ")
    runs = read(folder)
    rates = ("0.02", "0.05", "1e+30")
    assert set(runs) == {f"optimizer.lr-{lr}_seed-{seed}" for lr in rates for seed in (0, 1)}
    for name, run in runs.items():
        assert run["status"] == ("failed" if "1e+30" in name else "ok"), name
    assert runs[first]["started"] == started  # resumed, not started again
    assert not any("sweep." in word for run in runs.values() for word in run["overrides"])
    assert "Traceback" not in out + err
    lines = out.splitlines()
    assert any(line.startswith("run 2 of 6: lr=0.02 seed=1") for line in lines)
    assert lines[lines.index("") - 2].startswith("run 6 of 6: lr=1e+30 seed=1, about ")
    assert lines[lines.index("") - 1].startswith("run 6 of 6: failed: the training loss is")
    assert len(lines[: lines.index("")]) == 1 + 2 * 6  # loading, then two lines for each run

    rows = read_csv(folder)
    assert [row["n"] for row in rows] == ["2", "2"]
    for row in rows:
        lr = float(row["optimizer.lr"])
        losses = [run["val"]["loss"] for name, run in runs.items() if f"lr-{lr}_" in name]
        assert float(row["val/loss mean"]) == pytest.approx(statistics.mean(losses))
        assert float(row["val/loss std"]) == pytest.approx(statistics.stdev(losses))
    assert float(rows[0]["val/loss mean"]) <= float(rows[1]["val/loss mean"])
    for figure in ("curves", "settings"):
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 5000

    checkpoints = [folder / name / "last.ckpt" for name in runs if "1e+30" not in name]
    written = [path.stat().st_mtime_ns for path in checkpoints]
    code, out, _ = sweep(*words, "sweep.fail_fast=true")
    assert code == 1
    assert out.count("already finished, skipped") == 4
    assert out.count(": failed: the training loss is") == 1  # the second one did not start
    assert [path.stat().st_mtime_ns for path in checkpoints] == written

    code, out, err = sweep(*words, "optimizer.lr=0.02,0.05", "label_smoothing=0.2")
    assert code == 1
    assert out.count("failed: label_smoothing=0.2: the run ") == 4
    assert err.splitlines()[-1].startswith("error: 4 runs failed")


@pytest.mark.slow
def test_memory_stays_flat_over_many_runs(tmp_path):
    watch = f"+hydra.callbacks.watch._target_={__name__}.Watch"
    process = start(tmp_path, "seed=range(10)", watch, "sweep.dir=s")
    assert process.wait(300) == 0, process.output
    lines = process.out.splitlines()
    resident = [int(line.split()[1]) for line in lines if line.startswith("resident")]
    assert len(resident) == 10
    # The first runs fill caches and malloc's arenas.
    assert resident[-1] < 1.03 * resident[4]


class Watch(Callback):
    """A callback of Hydra that prints the memory of the process after each run."""

    def on_job_end(self, **_):
        lines = Path("/proc/self/status").read_text().splitlines()
        print("resident", next(line.split()[1] for line in lines if line.startswith("VmRSS")))


RATES = "optimizer.lr=0.1,0.2"
BAD = {
    ("sweep.trials=3", "optimizer.lr=0.1"): "nothing to search; give a setting several values",
    ("sweep.trials=0", RATES): "sweep.trials=0: must be at least 1",
    ("sweep.trials=2", RATES, "sweep.metric=test/loss"): "'val/loss', 'val/top1'",
    ("seed=0,1", "sweep.metric=loss"): "sweep.metric='loss': must be 'val/loss', ",
    ("sweep.trials=2", RATES, "sweep.pruner=x"): "sweep.pruner='x': must be 'median', ",
    ("sweep.trials=2", RATES, "sweep.storage=x"): "sweep.storage=x: ",
    ("sweep.trials=2", RATES, "sweep.storage=nosuchdb://x/y"): "sweep.storage=nosuchdb://x/y: ",
    ("sweep.trials=2", "optimizer.lr=interval(2,1)"): "optimizer.lr=interval(2,1): ",
    ("sweep.trials=2", "optimizer.rate=0.1,0.2"): "optimizer.rate=",
    ("optimizer.lr=interval(0.1,0.2)",): "add sweep.trials=N to search it",
    ("seed=range(0,0)",): "nothing to run",
    ("seed=0,1", "sweep.params=3"): "sweep.params=3: must be a group of settings",
    ("seed=0,1", "sweep.params={foo: 1}"): "only for presets; type its KEY=VALUES directly",
    ("seed=0,1", "+sweep.trails=3"): "sweep.trails=3: unknown setting; did you mean sweep.trials?",
    ("seed=0,1", "sweep.trial=3"): "sweep.trial=3: must be null",
    ("seed=0,1", "sweep.seed=x"): "sweep.seed='x': must be an integer",
    ("seed=0,1", "sweep.fail_fast=maybe"): "sweep.fail_fast='maybe': must be true or false",
    ("sweep=lr2",): "choose from architecture, default, lr, regularisation, smoke",
    ("seed=0,1", "hydra/launcher=nowhere"): "hydra/launcher=nowhere",
}


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_an_invalid_sweep_ends_in_one_line(words, tmp_path, type_in):
    pytest.importorskip("optuna")
    code, err = type_in("--multirun", *TINY, *words, "sweep.dir=s")
    assert code == 2
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert BAD[words] in err
    assert not [*tmp_path.glob("s/*/result.json")]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_run_jobs_in_parallel(launcher, tmp_path, sweep):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    words = ["optimizer.lr=0.02,1e30", f"hydra/launcher={launcher}", "sweep.dir=s"]
    if launcher == "joblib":
        words.append("hydra.launcher.n_jobs=2")
    code, _, err = sweep(*words)
    assert code == 1, err
    runs = list(read(tmp_path / "s").values())
    assert [run["status"] for run in runs] == ["ok", "failed"]
    assert err.splitlines()[-1].startswith("error: 1 run failed")
    begun = [datetime.fromisoformat(run["started"]).timestamp() for run in runs]
    ended = [start + run["seconds"]["total"] for start, run in zip(begun, runs, strict=True)]
    assert max(begun) < min(ended) + 1  # `started` is in whole seconds


@pytest.mark.parametrize("key", NAME_MODELS)
def test_the_latest_run_is_one_for_all_jobs_also_of_a_continued_sweep(key, tmp_path, monkeypatch):
    def finish(folder, **config):
        result = {"status": "interrupted", "overrides": [], "config": {"data": {}} | config}
        (tmp_path / folder).mkdir(parents=True)
        write_result(tmp_path / folder, result)

    def begin() -> ResumableSweeper:
        sweeper = ResumableSweeper()
        sweeper.folder, sweeper.typed, sweeper.models = tmp_path / "sweep", {"airnet"}, {}
        return sweeper

    monkeypatch.chdir(tmp_path)
    finish("outputs/first")
    first = f"{key}={tmp_path / 'outputs' / 'first'}"
    sweeper = begin()
    words = (f"{key}=latest", f"++{key}=latest", f"{key}='latest'", f'{key}="latest"')
    assert {sweeper.name_model(word) for word in words} == {first}
    finish("outputs/second")
    assert sweeper.name_model(f"{key}=latest") == first
    assert sweeper.name_model(f"{key}=null") == f"{key}=null"
    assert begin().name_model(f"{key}=latest").endswith("/second")
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "result.json").write_text("damaged")
    finish("sweep/1", **{key: "airnet"})
    finish("sweep/2", **{key: first.partition("=")[2]})
    assert begin().name_model(f"{key}=latest") == first


def test_values_that_differ_only_in_special_characters_have_different_folders():
    names = {safe_filename(f"teacher-{value}") for value in ("a/b", "a b", 'a"b', "a-b")}
    assert len(names) == 4
    assert safe_filename("optimizer.lr-0.05_seed-0") == "optimizer.lr-0.05_seed-0"
