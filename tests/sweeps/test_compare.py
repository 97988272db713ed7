"""Runs side by side, and summaries of several folders."""

import csv
import re
import shutil

import pytest

from cifar10.core.errors import UserError
from cifar10.runs.result import read_result, write_result
from cifar10.sweeps.compare import compare
from cifar10.sweeps.table import summarise


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of a finished run with other settings: folders by name."""

    def copy(name, seed=0, **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        shutil.copy(trained / "result.json", folder)
        result = read_result(folder / "result.json") | {"seed": seed, "partial": {}}
        result["settings"] = result["settings"] | {"seed": seed}
        for key, value in changes.items():
            group, _, setting = key.partition("__")
            result["config"].setdefault(group, {})[setting] = value
            if group == "trainer":
                result["settings"][f"{group}.{setting}"] = value
        write_result(folder, result)
        return folder

    return copy


def rows(folder, name):
    return list(csv.DictReader((folder / name).read_text().splitlines()))


EMA = {"_target_": "cifar10.training.ema.EMA", "decay": 0.9, "start": 0}
DIFFERENT = [
    dict(trainer__gradient_clip_val=0.01),
    dict(trainer__accumulate_grad_batches=8),
    dict(trainer__max_steps=5),
    dict(callbacks__ema=EMA),
    dict(callbacks__ema=EMA | {"decay": 0.99}),
    dict(callbacks__best=None),
    dict(callbacks__mine={"_target_": "mine.Callback"}),
    dict(model__dropout=0.3, trainer__precision="64-true"),
]


def test_runs_that_differ_in_a_flag_or_callback_are_never_merged(runs, tmp_path):
    paths = [runs("plain"), runs("again", seed=1)]
    paths += [runs(str(n), seed=n + 2, **changes) for n, changes in enumerate(DIFFERENT)]
    out = tmp_path / "out"
    text = summarise(paths, per_run=True, out=out)
    summary = rows(out, "summary.csv")
    assert [row["n"] for row in summary] == ["2"] + ["1"] * len(DIFFERENT)
    assert str(out / "runs.csv") in text
    each = rows(out, "runs.csv")
    assert len(each) == len(paths)
    clipped = next(row for row in each if row["folder"] == str(paths[2]))
    assert clipped["trainer.gradient_clip_val"] == "0.01"
    assert float(clipped["test/top1"]) == read_result(paths[2] / "result.json")["test"]["top1"]
    assert each[0]["trainer.gradient_clip_val"] == ""


def test_runs_on_a_part_of_the_data_enter_a_summary_only_if_asked(runs, trained, tmp_path):
    paths = [runs("whole"), trained]
    text = summarise(paths, out=tmp_path)
    assert "left out    1 runs on a part of the data; add --partial" in text
    assert [row["n"] for row in rows(tmp_path, "summary.csv")] == ["1"]
    summarise(paths, partial=True, out=tmp_path)
    assert sum(int(row["n"]) for row in rows(tmp_path, "summary.csv")) >= 1


def test_two_runs_are_compared_with_intervals(runs):
    lines = compare([runs("a"), runs("b", seed=1, trainer__gradient_clip_val=0.5)]).splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines[4:]}
    assert lines[3].split() == ["A", "B", "B", "-", "A"]
    assert table["trainer.gradient_clip_val"] == ["-", "0.5"]
    assert table["seed"] == ["0", "1"]
    assert "±" in table["test/top1"] and "to" in table["test/top1"]
    assert "trainer.max_epochs" not in table


def test_what_is_only_shown_or_saved_elsewhere_separates_no_runs(runs, tmp_path):
    best = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "elsewhere"}
    paths = [
        runs("plain"),
        runs("profiled", seed=1, trainer__profiler="simple"),
        runs("logged", seed=2, trainer__log_every_n_steps=1),
        runs("quiet", seed=3, trainer__enable_progress_bar=False),
    ]
    best |= read_result(paths[0] / "result.json")["config"]["callbacks"]["best"]
    paths.append(runs("elsewhere", seed=4, callbacks__best=best))
    summarise(paths, out=tmp_path)
    assert [row["n"] for row in rows(tmp_path, "summary.csv")] == ["5"]


def test_what_a_strangers_result_holds_is_shown_safely(runs, tmp_path):
    paths = [runs("plain"), runs("theirs", trainer__max_time="[/x] \x1b[31m [bold]red")]
    result = read_result(paths[1] / "result.json")
    result["settings"]["=HYPERLINK(1)"] = result["settings"]["model.[/y]"] = 1
    write_result(paths[1], result)
    failed = {"status": "failed", "error": "\x1b[2J", "overrides": ["x=\x1b"]}
    write_result(runs("failed"), failed)
    text = (
        f"{compare(paths)}\n{summarise([*paths, tmp_path / 'failed'], out=tmp_path, per_run=True)}"
    )
    assert all(line.isprintable() for line in text.split("\n"))
    assert "[/x] \\x1b[31m [bold]red" in text
    for name in ("summary.csv", "runs.csv"):
        assert "'=HYPERLINK(1)" in rows(tmp_path, name)[0]


def test_runs_of_other_code_are_separate(runs, tmp_path):
    paths = [runs(name, seed=n) for n, name in enumerate("abc")]
    for path, digest in zip(paths, ("1", "1", "2"), strict=True):
        write_result(path, read_result(path / "result.json") | {"digests": {"module net": digest}})
    summarise(paths, out=tmp_path)
    assert sorted(row["n"] for row in rows(tmp_path, "summary.csv")) == ["1", "2"]


def test_a_loss_that_was_not_finite_is_left_out(runs):
    path = runs("a")
    result = read_result(path / "result.json")
    result["test"]["loss"] = None
    write_result(path, result)
    assert "test/loss" not in compare([path, runs("b")])


def test_the_interval_is_that_of_the_images_that_were_used(runs):
    wide, narrow = (runs(name) for name in "ab")
    result = read_result(wide / "result.json")
    result["data"] |= {"validated": 10}
    write_result(wide, result)
    line = next(line for line in compare([wide, narrow]).splitlines() if "val/top1" in line)
    ends = [float(end) for end in re.findall(r"[(o] ?(\d+\.\d+)%", line)]
    assert ends[1] - ends[0] > 2 * (ends[3] - ends[2])


@pytest.mark.parametrize(("name", "message"), [("none", "no such run folder"), ("", "not a run")])
def test_a_folder_without_a_run_is_not_compared(name, message, runs, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        compare([runs("a"), tmp_path / name])
    assert "\n" not in str(error.value)


def test_an_unfinished_run_is_not_compared(tmp_path):
    write_result(tmp_path, {"status": "failed", "overrides": []})
    with pytest.raises(UserError, match="has no results, its status is failed"):
        compare([tmp_path, tmp_path])
