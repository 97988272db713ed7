"""The summary of a sweep on the terminal and as CSV."""

import json

import pytest
from filelock import FileLock

from cifar10.core.errors import UserError
from cifar10.runs.run_dir import LOCK
from cifar10.sweeps.table import summarise
from tests.sweeps.conftest import read_csv


def write(folder, name, seed, lr, loss, status="ok", **more):
    (folder / name).mkdir(parents=True)
    result = {
        "status": status,
        "error": None,
        "overrides": ["data=sample", f"optimizer.lr={lr}", f"seed={seed}"],
        "seed": seed,
        "settings": {"optimizer.lr": lr, "seed": seed, "data.batch_size": 250},
        "epochs": 1,
        "seconds": {"training": 1.0},
        "device": "x",
        "data": {"train": 2, "val": 2, "test": 2},
        "precision": {"value": "32-true"},
        "versions": {"torch": "2"},
        "val": {"loss": loss, "top1": 0.5},
        "test": {"loss": loss + 0.1, "top1": 0.4},
        "history": [{"epoch": 1, "val/loss": loss}],
    }
    (folder / name / "result.json").write_text(json.dumps(result | more))


def test_the_summary_averages_seeds_and_sorts_by_validation_loss(tmp_path):
    for seed, loss in enumerate((1.0, 1.2, 1.4)):
        write(tmp_path, f"a{seed}", seed, 0.1, loss)
    for seed, loss in enumerate((0.9, 1.1)):
        write(tmp_path, f"b{seed}", seed, 0.2, loss)
    reason = "NotFinite: the loss is not a finite number, so that the run ended after one step"
    write(tmp_path, "c", 0, 0.3, 0.1, status="failed", error=reason, test={})
    write(tmp_path, "d", 0, 0.4, 3.0, status="pruned", test={})
    assert summarise([tmp_path]).splitlines() == [
        "lr          val loss       val top-1      test top-1  runs",
        "0.2  1.0000 ± 0.1414  50.00% ± 0.00%  40.00% ± 0.00%     2",
        "0.1  1.2000 ± 0.2000  50.00% ± 0.00%  40.00% ± 0.00%     3",
        "",
        "failed      lr=0.3 seed=0: NotFinite: the loss is not a finite number, so that",
        "            the run ended after one step",
        "pruned      1 of 7 trials",
        "best        python train.py data=sample optimizer.lr=0.2",
        f"            {tmp_path / 'b0'}",
        f"            {tmp_path / 'b1'}",
        f"files       {tmp_path / 'summary.csv'}, {tmp_path / 'figures'}",
    ]
    rows = read_csv(tmp_path)
    assert [row["optimizer.lr"] for row in rows] == ["0.2", "0.1"]
    assert float(rows[1]["test/loss mean"]) == pytest.approx(1.3)
    assert float(rows[1]["test/loss std"]) == pytest.approx(0.2)


def test_many_settings_fit_into_80_columns(tmp_path):
    keys = ("model.dropout", "label_smoothing", "data.shift", "data.cutout")
    for number in range(4):
        values = dict.fromkeys(keys, number // 2 / 7)
        write(tmp_path, str(number), number % 2, 0.1, 1.0, settings=values)
    lines = summarise([tmp_path]).splitlines()
    assert lines[0].split()[:5] == ["dropout", "label", "smoothing", "shift", "cutout"]
    assert lines[1].split()[:4] == ["0"] * 4 and lines[2].split()[:4] == ["0.1429"] * 4
    assert max(map(len, lines[:3])) <= 80


def test_a_folder_without_runs_or_with_a_single_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"contains no result\.json"):
        summarise([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        summarise([tmp_path / "x"])
    (tmp_path / "result.json").write_text('{"status": "failed", "overrides": []}')
    with pytest.raises(UserError, match="is a single run"):
        summarise([tmp_path])


@pytest.mark.parametrize(
    "wrong", ['"settings": 3', '"val": null', '"val": {"loss": "abc"}', '"overrides": null']
)
def test_a_result_with_wrong_types_is_reported_and_skipped(tmp_path, wrong, caplog):
    (tmp_path / "a").mkdir()
    text = '{"status": "running", "overrides": [], ' + wrong + "}"
    (tmp_path / "a" / "result.json").write_text(text)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "result.json").write_text('{"status": "failed", "overrides": ["x=1"]}')
    assert "failed      b: interrupted" in summarise([tmp_path])
    assert "skipped" in caplog.text


def test_a_run_in_another_process_is_not_called_interrupted(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text('{"status": "running", "overrides": ["x=1"]}')
    with FileLock(tmp_path / "a" / LOCK):
        assert "running     a: in another process" in summarise([tmp_path])
    assert "running     a: interrupted" in summarise([tmp_path])
