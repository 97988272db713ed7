"""Sweeps: every combination, a search, killed, gone on with, summed up."""

import csv
import json
import signal
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from filelock import FileLock

from cifar10.core.errors import SettingError, UserError
from cifar10.core.settings import CHECKOUT, safe_filename
from cifar10.runs.run_dir import LOCK
from cifar10.sweeps import search, space
from cifar10.sweeps import table as sweeps

TINY = (
    "data=sample",
    "trainer.max_epochs=1",
    "+trainer.limit_train_batches=2",
    "callbacks.gallery=null",
    "threads=1",
    "logger=csv",
)


def sweep(folder, *words):
    return subprocess.Popen(
        [sys.executable, CHECKOUT / "train.py", "--multirun", *TINY, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def table(folder):
    return list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))


def record(path):
    return json.loads((path / "result.json").read_text())


def test_a_sweep_with_a_bad_job_is_killed_and_gone_on_with(tmp_path):
    words = ("optimizer.lr=0.02,0.05,1e30", "seed=0,1", "sweep.dir=s w")
    process = sweep(tmp_path, *words)
    while not (done := [*tmp_path.glob("s w/*/last.ckpt")]) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert done and process.returncode == -signal.SIGKILL
    first = done[0].parent
    before = record(first)

    code, out, err = finish(sweep(tmp_path, *words))
    assert code == 1
    assert err.splitlines()[-1].startswith("error: 2 jobs failed; the same command with sweep.dir=")
    runs = {path.parent.name: record(path.parent) for path in tmp_path.glob("s w/*/result.json")}
    rates = ("0.02", "0.05", "1e+30")
    assert set(runs) == {f"optimizer.lr-{lr}_seed-{seed}" for lr in rates for seed in (0, 1)}
    for name, run in runs.items():
        assert run["status"] == ("failed" if "1e+30" in name else "ok"), name
    assert runs[first.name]["started"] == before["started"]  # gone on with, not begun again
    assert [run["status"] for run in runs.values()].count("ok") == 4
    assert out.count("error: the training loss is") == 2
    assert "Traceback" not in out + err

    rows = table(tmp_path / "s w")
    assert [row["n"] for row in rows] == ["2", "2"]
    for row in rows:
        lr = float(row["optimizer.lr"])
        losses = [run["val"]["loss"] for name, run in runs.items() if f"lr-{lr}_" in name]
        assert float(row["val/loss mean"]) == pytest.approx(statistics.mean(losses))
        assert float(row["val/loss std"]) == pytest.approx(statistics.stdev(losses))
    assert float(rows[0]["val/loss mean"]) <= float(rows[1]["val/loss mean"])
    for picture in ("curves", "settings", "parallel"):
        assert (tmp_path / "s w" / "figures" / f"{picture}.png").stat().st_size > 5000

    written = {
        name: (tmp_path / "s w" / name / "last.ckpt").stat().st_mtime_ns
        for name in runs
        if "1e+30" not in name
    }
    code, out, _ = finish(sweep(tmp_path, *words, "sweep.fail_fast=true"))
    assert code == 1
    assert out.count("is finished") == 4
    assert out.count("error: the training loss is") == 1  # the second bad job was not begun
    for name, moment in written.items():
        assert (tmp_path / "s w" / name / "last.ckpt").stat().st_mtime_ns == moment


def test_two_processes_work_on_one_search_and_it_survives_a_kill(tmp_path):
    pytest.importorskip("optuna")
    words = (
        "optimizer.lr=tag(log,interval(0.005,0.2))",
        "data.shift=range(0,3)",
        "sweep.trials=6",
        "sweep.pruner=none",
        "sweep.dir='s é'",
    )
    victim, other = sweep(tmp_path, *words), sweep(tmp_path, *words)
    while not [*tmp_path.glob("s é/*/result.json")] and victim.poll() is None:
        time.sleep(0.05)
    time.sleep(1)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    code, _, err = finish(other)
    assert code == 0, err
    code, out, err = finish(sweep(tmp_path, *words))
    assert code == 0, err
    study = search.open_study(
        f"sqlite:///{tmp_path}/s é/study.db", 0, {"metric": "val/loss", "pruner": "none"}
    )
    assert [trial.state.name for trial in study.trials if trial.number < 6] == ["COMPLETE"] * 6
    # One more was asked for only where both wanted the last, and then nothing was run.
    assert all(not trial.user_attrs for trial in study.trials[6:])
    runs = [record(path.parent) for path in tmp_path.glob("s é/*/result.json")]
    assert sorted(run["val"]["loss"] for run in runs) == sorted(
        trial.value for trial in study.trials if trial.number < 6
    )
    assert out.splitlines()[-3].startswith("best: python train.py data=sample")

    code, _, err = finish(sweep(tmp_path, *words, "data.shift=1,2"))
    assert code == 2
    assert "holds another search" in err.splitlines()[-1]


def test_a_search_tells_of_failed_trials_and_outlives_a_mistyped_line(tmp_path):
    pytest.importorskip("optuna")
    code, _, err = finish(sweep(tmp_path, "model=convnet,airnett", "sweep.trials=2", "sweep.dir=s"))
    assert code == 2 and "airnett" in err
    words = ("optimizer.lr=0.02,1e30", "sweep.trials=4", "sweep.dir=s")
    code, out, err = finish(sweep(tmp_path, *words))
    assert code == 1
    runs = [record(path.parent) for path in tmp_path.glob("s/*/result.json")]
    failed = sum(run["status"] == "failed" for run in runs)
    assert err.splitlines()[-1].startswith(f"error: {failed} jobs failed") and 0 < failed < 4
    code, out, err = finish(sweep(tmp_path, *words))
    assert (code, out.count("is finished")) == (0, 0)


def studied(folder, trials=2):
    """A process's view of a search, as the sweeper makes it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override("optimizer.lr=interval(0.1,0.2)")
    own = {"trials": trials, "at_once": 1, "metric": "val/loss", "pruner": "none"}
    return search.Search(own | {"storage": None, "seed": 0}, [override], folder)


def test_the_trial_of_a_dead_process_is_taken_over_once(tmp_path):
    pytest.importorskip("optuna")
    dead, one, other = (studied(tmp_path) for _ in range(3))
    (trial,) = dead.ask(1)
    assert one.ask(1)[0].number == 1  # that of a living process is left alone
    dead.lock.release()
    run = tmp_path / "000_x" / ".run.lock"
    run.parent.mkdir()
    with FileLock(run):  # its process has ended, its job has not
        assert other.ask(1) == []
    (taken,) = other.ask(1)
    assert (taken.number, taken.params) == (0, trial.params)
    assert studied(tmp_path).ask(1) == []


def test_two_processes_draw_different_points(tmp_path):
    pytest.importorskip("optuna")
    one, other = studied(tmp_path), studied(tmp_path)
    assert one.ask(1)[0].params != other.ask(1)[0].params


def test_a_run_that_was_broken_off_stays_to_be_done(tmp_path):
    pytest.importorskip("optuna")
    mine = studied(tmp_path)
    (trial,) = mine.ask(1)
    for status, state in (("running", "RUNNING"), ("interrupted", "RUNNING"), ("failed", "FAIL")):
        mine.tell(trial, {"status": status})
        assert mine.study.trials[0].state.name == state


def test_a_poor_trial_is_stopped_early(tmp_path):
    pytest.importorskip("optuna")
    words = ("trainer.max_epochs=2", "optimizer.lr=interval(0.0,10.0)", "sweep.trials=6")
    code, out, err = finish(sweep(tmp_path, *words, "sweep.dir=s"))
    assert code == 0, err
    runs = [record(path.parent) for path in tmp_path.glob("s/*/result.json")]
    statuses = [run["status"] for run in runs]
    assert statuses.count("pruned") == out.count("pruned after epoch 1") > 0
    assert len(statuses) == 6 and set(statuses) == {"ok", "pruned"}
    assert {len(run["history"]) for run in runs if run["status"] == "pruned"} == {1}
    assert f"{statuses.count('pruned')} stopped early" in out


def test_memory_stays_flat_over_many_jobs(tmp_path):
    watch = "+hydra.callbacks.watch._target_=tests.test_sweeps.Watch"
    code, out, err = finish(sweep(tmp_path, "seed=range(20)", watch, "sweep.dir=s"))
    assert code == 0, err
    resident = [int(line.split()[1]) for line in out.splitlines() if line.startswith("resident")]
    assert len(resident) == 20
    # The first job fills caches and malloc's arenas.
    assert resident[-1] < 1.03 * resident[4]


class Watch:
    """A Hydra callback that says how much memory the process has after each job."""

    def on_job_end(self, **_):
        lines = Path("/proc/self/status").read_text().splitlines()
        print("resident", next(line.split()[1] for line in lines if line.startswith("VmRSS")))

    def __getattr__(self, name):
        return lambda *_, **__: None


def fake(folder, name, seed, lr, loss, status="ok", **more):
    place = folder / name
    place.mkdir(parents=True)
    result = {
        "status": status,
        "error": None,
        "overrides": [f"optimizer.lr={lr}", f"seed={seed}"],
        "seed": seed,
        "settings": {"optimizer.lr": lr, "seed": seed, "data.batch_size": 250},
        "epochs": 1,
        "seconds": {"training": 1.0},
        "device": "x",
        "precision": {"value": "32-true"},
        "versions": {"torch": "2"},
        "val": {"loss": loss, "top1": 0.5},
        "test": {"loss": loss + 0.1, "top1": 0.4},
        "history": [{"epoch": 1, "val/loss": loss}],
    }
    (place / "result.json").write_text(json.dumps(result | more))


def test_the_summary_merges_seeds_and_sorts_by_validation_loss(tmp_path):
    for seed, loss in enumerate((1.0, 1.2, 1.4)):
        fake(tmp_path, f"a{seed}", seed, 0.1, loss)
    for seed, loss in enumerate((0.9, 1.1)):
        fake(tmp_path, f"b{seed}", seed, 0.2, loss)
    fake(tmp_path, "c", 0, 0.3, 0.1, status="failed", error="NotFinite: no", test={})
    fake(tmp_path, "d", 0, 0.4, 3.0, status="pruned", test={})
    shown = sweeps.summarise(tmp_path)
    lines = shown.splitlines()
    assert lines[0].split() == ["lr", "val/loss", "val/top1", "test/top1", "test/loss", "runs"]
    assert lines[1].split()[:4] == ["0.2", "1.0000", "±", "0.1414"] and lines[1].endswith("2")
    assert lines[2].split()[:4] == ["0.1", "1.2000", "±", "0.2000"] and lines[2].endswith("3")
    assert lines[3] == "failed: optimizer.lr=0.3 seed=0: NotFinite: no"
    assert lines[4].startswith("1 stopped early")
    assert lines[5] == "best: python train.py optimizer.lr=0.2"
    rows = table(tmp_path)
    assert [row["optimizer.lr"] for row in rows] == ["0.2", "0.1"]
    assert float(rows[1]["test/loss mean"]) == pytest.approx(1.3)
    assert float(rows[1]["test/loss std"]) == pytest.approx(0.2)


def test_a_folder_without_runs_is_told_of(tmp_path):
    with pytest.raises(UserError, match=r"there is no result\.json"):
        sweeps.summarise(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        sweeps.summarise(tmp_path / "x")


BAD = {
    ("sweep.trials=3", "optimizer.lr=0.1"): "nothing is sought",
    (
        "sweep.trials=0",
        "optimizer.lr=0.1,0.2",
    ): "sweep.trials=0: must be greater than or equal to 1",
    ("sweep.trials=2", "optimizer.lr=0.1,0.2", "sweep.metric=test/loss"): "'val/loss', 'val/top1'",
    ("seed=0,1", "sweep.metric=loss"): "sweep.metric='loss': must be 'val/loss', ",
    (
        "sweep.trials=2",
        "optimizer.lr=0.1,0.2",
        "sweep.pruner=x",
    ): "sweep.pruner='x': must be 'median', ",
    ("sweep.trials=2", "optimizer.lr=0.1,0.2", "sweep.storage=x"): "sweep.storage=x: ",
    ("sweep.trials=2", "optimizer.lr=interval(2,1)"): "optimizer.lr=interval(2,1): ",
    ("sweep.trials=2", "optimizer.rate=0.1,0.2"): "optimizer.rate=",
    ("optimizer.lr=interval(0.1,0.2)",): "sweep.trials=N searches it",
    ("seed=range(0,0)",): "there is no job",
    ("seed=0,1", "sweep.params=3"): "sweep.params=3: must be",
    ("seed=0,1", "sweep.params={foo: 1}"): "is for presets; type their KEY=VALUES",
    ("seed=0,1", "sweep.seed=x"): "sweep.seed='x': must be",
    ("seed=0,1", "sweep.fail_fast=maybe"): "sweep.fail_fast='maybe': must be",
    ("sweep=lr2",): "sweep=lr2: there are architecture, default, lr, regularisation, smoke",
    ("seed=0,1", "hydra/launcher=nowhere"): "hydra/launcher=nowhere",
}


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_a_sweep_that_cannot_be_ends_in_one_line(words, tmp_path, type_in):
    pytest.importorskip("optuna")
    code, err = type_in("--multirun", *TINY, *words, "sweep.dir=s")
    assert code == 2
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert BAD[words] in err
    assert not [*tmp_path.glob("s/*/result.json")]


@pytest.mark.parametrize(
    ("word", "kind", "low", "high"),
    [
        ("optimizer.lr=interval(0.1,0.5)", "FloatDistribution", 0.1, 0.5),
        ("data.cutout=int(interval(0,8))", "IntDistribution", 0, 8),
        ("data.cutout=range(0,9,4)", "IntDistribution", 0, 8),
        ("optimizer.lr=tag(log,interval(0.1,0.5))", "FloatDistribution", 0.1, 0.5),
    ],
)
def test_ranges_and_intervals_are_drawn_from_as_written(word, kind, low, high):
    pytest.importorskip("optuna")
    from hydra.core.override_parser.overrides_parser import OverridesParser

    drawn = space.distribution(OverridesParser.create().parse_override(word))
    assert (type(drawn).__name__, drawn.low, drawn.high) == (kind, low, high)
    assert drawn.log == ("log" in word)


def test_choices_are_drawn_as_they_were_typed():
    pytest.importorskip("optuna")
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override("data.flip=none,random")
    assert space.distribution(override).choices == ("none", "random")
    empty = OverridesParser.create().parse_override("seed=range(3,3)")
    with pytest.raises(SettingError):
        space.distribution(empty)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_run_side_by_side(launcher, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    words = ["optimizer.lr=0.02,1e30", "seed=0,1", f"hydra/launcher={launcher}", "sweep.dir=s"]
    if launcher == "joblib":
        words.append("hydra.launcher.n_jobs=2")
    code, out, err = finish(sweep(tmp_path, *words))
    assert code == 1, err
    statuses = [record(path.parent)["status"] for path in sorted(tmp_path.glob("s/*/result.json"))]
    assert statuses == ["ok", "ok", "failed", "failed"]
    assert out.count("NotFinite: the training loss is") == 2
    assert err.splitlines()[-1].startswith("error: 2 jobs failed")
    runs = [record(path.parent) for path in tmp_path.glob("s/*lr-0.02*/result.json")]
    begun = [datetime.fromisoformat(run["started"]).timestamp() for run in runs]
    ended = [start + run["seconds"]["total"] for start, run in zip(begun, runs, strict=True)]
    assert max(begun) < min(ended) + 1  # `started` is in whole seconds


def test_another_setting_in_the_folder_of_a_grid_fails_and_says_so(tmp_path):
    words = ("seed=0,1", "sweep.dir=s")
    assert finish(sweep(tmp_path, *words))[0] == 0
    code, out, err = finish(sweep(tmp_path, *words, "label_smoothing=0.2"))
    assert code == 1
    assert out.count("the run has label_smoothing=") == 2
    assert err.splitlines()[-1].startswith("error: 2 jobs failed")


def test_values_that_differ_only_in_what_no_file_name_takes_have_folders_of_their_own():
    names = {safe_filename(f"teacher-{value}") for value in ("a/b", "a b", 'a"b', "a-b")}
    assert len(names) == 4
    assert safe_filename("optimizer.lr-0.05_seed-0") == "optimizer.lr-0.05_seed-0"


def test_of_several_runs_with_one_seed_the_latest_counts():
    runs = [
        {"status": "ok", "seed": seed, "started": str(n), "settings": {"lr": 1}, "val": {"loss": v}}
        for n, (seed, v) in enumerate([(0, 1.0), (0, 2.0), (1, 4.0)])
    ]
    (row,) = sweeps.settings(runs, "val/loss")
    assert row.figures("val", "loss") == [2.0, 4.0]


def test_a_networks_own_settings_count_only_where_they_differ_among_its_runs():
    def run(**settings):
        return {"settings": settings}

    runs = [run(model="ConvNet", dropout=0.1), run(model="AirNet", width=64)]
    assert sweeps.varied(runs) == ["model"]
    assert sweeps.varied([*runs, run(model="AirNet", width=128)]) == ["model", "width"]


def test_one_runs_own_folder_is_no_sweep(tmp_path):
    (tmp_path / "result.json").write_text('{"status": "failed", "overrides": []}')
    with pytest.raises(UserError, match="is one run"):
        sweeps.summarise(tmp_path)


@pytest.mark.parametrize(
    "wrong", ['"settings": 3', '"val": null', '"val": {"loss": "abc"}', '"overrides": null']
)
def test_a_result_of_wrong_types_is_passed_over(tmp_path, wrong, caplog):
    (tmp_path / "a").mkdir()
    own = '{"status": "running", "overrides": [], ' + wrong + "}"
    (tmp_path / "a" / "result.json").write_text(own)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "result.json").write_text('{"status": "failed", "overrides": ["x=1"]}')
    assert "failed: x=1: broken off" in sweeps.summarise(tmp_path)
    assert "passed over" in caplog.text


def test_a_run_that_another_process_works_on_is_not_called_broken_off(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text('{"status": "running", "overrides": ["x=1"]}')
    with FileLock(tmp_path / "a" / LOCK):
        assert "running: x=1: in another process" in sweeps.summarise(tmp_path)
    assert "running: x=1: broken off" in sweeps.summarise(tmp_path)


def test_a_password_is_not_repeated():
    from cifar10.sweeps.search import without_password

    assert without_password("postgresql+psycopg://a:secret@host/b") == (
        "postgresql+psycopg://a:***@host/b"
    )
    assert without_password("sqlite:////tmp/a@b:c/study.db") == "sqlite:////tmp/a@b:c/study.db"
