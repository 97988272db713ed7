"""Searches: several processes, kills, failed and pruned trials, what values are suggested."""

import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser

from cifar10.core.errors import SettingError
from tests.sweeps.conftest import TINY, read, start

optuna = pytest.importorskip("optuna")

from cifar10.sweeps import search  # noqa: E402 - imports Optuna
from cifar10.sweeps.sweeper import SweepSettings  # noqa: E402


def parse(word):
    return OverridesParser.create().parse_override(word)


@pytest.mark.slow
def test_two_processes_share_a_search_and_survive_a_kill(tmp_path, sweep):
    words = (
        "optimizer.lr=tag(log,interval(0.005,0.2))",
        "data.shift=range(0,3)",
        "sweep.trials=6",
        "sweep.pruner=none",
        "sweep.dir='s é'",
    )
    folder = tmp_path / "s é"
    victim, other = start(tmp_path, *words), start(tmp_path, *words)
    victim.wait_until(lambda: any(folder.glob("*/result.json")))
    victim.kill()
    victim.wait()
    assert other.wait() == 0, other.output
    code, out, err = sweep(*words)
    assert code == 0, err
    study = search.open_study(f"sqlite:///{folder}/study.db", "val/loss", "none")
    assert [trial.state.name for trial in study.trials[:6]] == ["COMPLETE"] * 6
    # A seventh is only asked for when both processes want the sixth, and never run.
    assert all(not trial.user_attrs for trial in study.trials[6:])
    losses = sorted(run["val"]["loss"] for run in read(folder).values())
    assert losses == sorted(trial.value for trial in study.trials[:6])
    best = next(line for line in out.splitlines() if line.startswith("best "))
    assert best.removeprefix("best").strip().startswith(f"python train.py {' '.join(TINY)} ")

    code, _, err = sweep(*words, "data.shift=1,2")
    assert code == 2
    assert "holds a search with other settings or values" in err.splitlines()[-1]


@pytest.mark.slow
def test_a_search_reports_failed_trials_and_ignores_a_mistyped_command(tmp_path, sweep):
    code, _, err = sweep("model=convnet,airnett", "sweep.trials=2", "sweep.dir=s")
    assert code == 2 and "airnett" in err
    words = ("optimizer.lr=0.02,1e30", "sweep.trials=4", "sweep.dir=s")
    code, out, err = sweep(*words)
    assert code == 1
    failed = sum(run["status"] == "failed" for run in read(tmp_path / "s").values())
    assert 0 < failed < 4
    runs = "1 run" if failed == 1 else f"{failed} runs"
    assert err.splitlines()[-1] == f"error: {runs} failed; a search does not retry them"
    assert "trial 4 of 4: lr=" in out
    code, out, _ = sweep(*words)
    assert (code, out.count("trial ")) == (0, 0)


@pytest.mark.slow
def test_a_poor_trial_is_pruned(tmp_path, sweep):
    words = ("trainer.max_epochs=2", "optimizer.lr=interval(0.0,10.0)", "sweep.trials=6")
    code, out, err = sweep(*words, "sweep.dir=s")
    assert code == 0, err
    runs = read(tmp_path / "s").values()
    statuses = [run["status"] for run in runs]
    assert statuses.count("pruned") == out.count(": pruned after epoch 1, ") > 0
    assert len(statuses) == 6 and set(statuses) == {"ok", "pruned"}
    assert {len(run["history"]) for run in runs if run["status"] == "pruned"} == {1}
    assert f"{statuses.count('pruned')} of 6 trials" in out


def new_search(folder, trials=2):
    """A process's view of a search, as the sweeper creates it."""
    settings = SweepSettings(
        dir="s",
        fail_fast=False,
        params={},
        trials=trials,
        metric="val/loss",
        pruner="none",
        storage=None,
        at_once=1,
        seed=0,
    )
    return search.Search(settings, [parse("optimizer.lr=interval(0.1,0.2)")], folder)


def test_the_trial_of_a_dead_process_is_taken_over_once(tmp_path):
    dead, one, other = (new_search(tmp_path) for _ in range(3))
    (trial,) = dead.ask(1)
    assert one.ask(1)[0].number == 1  # the trial of a living process is left alone
    dead.lock.release()
    run = tmp_path / "000_x" / ".run.lock"
    run.parent.mkdir()
    with FileLock(run):  # its process has ended, its job has not
        assert other.ask(1) == []
    (taken,) = other.ask(1)
    assert (taken.number, taken.params) == (0, trial.params)
    assert new_search(tmp_path).ask(1) == []


def test_two_processes_try_different_values(tmp_path):
    one, other = new_search(tmp_path), new_search(tmp_path)
    assert one.ask(1)[0].params != other.ask(1)[0].params


def test_an_interrupted_run_keeps_its_trial_running(tmp_path):
    mine = new_search(tmp_path)
    (trial,) = mine.ask(1)
    for status, state in (("running", "RUNNING"), ("interrupted", "RUNNING"), ("failed", "FAIL")):
        mine.tell(trial, {"status": status})
        assert mine.study.trials[0].state.name == state


@pytest.mark.parametrize(
    ("word", "kind", "low", "high"),
    [
        ("optimizer.lr=interval(0.1,0.5)", "FloatDistribution", 0.1, 0.5),
        ("data.cutout=int(interval(0,8))", "IntDistribution", 0, 8),
        ("data.cutout=range(0,9,4)", "IntDistribution", 0, 8),
        ("optimizer.lr=tag(log,interval(0.1,0.5))", "FloatDistribution", 0.1, 0.5),
    ],
)
def test_ranges_and_intervals_become_distributions_with_the_same_limits(word, kind, low, high):
    drawn = search.distribution(parse(word))
    assert (type(drawn).__name__, drawn.low, drawn.high) == (kind, low, high)
    assert drawn.log == ("log" in word)


def test_listed_values_are_tried_as_typed_and_an_empty_range_is_an_error():
    assert search.distribution(parse("data.flip=none,random")).choices == ("none", "random")
    with pytest.raises(SettingError):
        search.distribution(parse("seed=range(3,3)"))


def test_a_password_is_not_printed():
    assert search.hide("postgresql+psycopg://a:secret@host/b") == (
        "postgresql+psycopg://***@host/b"
    )
    url = "sqlite:////tmp/a@b:c/study.db"
    assert search.hide(url) == url
