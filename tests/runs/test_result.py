"""result.json: what is written is what is read; the summary against figures by hand."""

import json

import pytest

from cifar10.core.errors import UserError
from cifar10.runs import result as results
from cifar10.runs.run_dir import claim_run_dir
from cifar10.sweeps import summary


def result(seed, top1, overrides=(), status="ok", training=60.0):
    return {
        "status": status,
        "overrides": [*overrides, f"seed={seed}"],
        "seed": seed,
        "epochs": 4,
        "commit": "0123456789" * 4,
        "precision": {"value": "32-true"},
        "versions": {"torch": "2.14.1"},
        "device": "A CPU, 2 threads",
        "settings": {"seed": seed, **dict(o.split("=") for o in overrides if "hydra" not in o)},
        "started": f"2026-01-01T00:00:{len(overrides):02d}",
        "seconds": {"training": training},
        "test": {"loss": 0.5, "top1": top1, "top3": 0.96, "top5": 0.99},
    }


def test_a_summary_gives_mean_and_sample_deviation_by_hand():
    runs = [result(0, 0.80, training=50), result(1, 0.82, training=70), result(2, 0.84)]
    runs += [result(0, 0.70, ["optimizer=sgd"]), result(1, 0.1, status="failed")]
    lines = summary.summarise(runs).splitlines()
    assert lines[2] == (
        "| `python train.py` | 4 | 60 s | 82.00% ± 2.00% | 96.00% ± 0.00% | 99.00% ± 0.00% "
        "| 0.5000 ± 0.0000 | 3 |"
    )
    assert lines[3].startswith("| `python train.py optimizer=sgd` | 4 | 60 s | 70.00% |")
    assert "A CPU, 2 threads, 32-true, torch 2.14.1" in lines[5]
    assert lines[-1] == "1 not finished."


def test_only_the_seed_and_hydras_own_settings_are_averaged_over():
    runs = [
        result(0, 0.8, ["hydra.run.dir=a", "optimizer.lr=0.1"]),
        result(1, 0.8, ["optimizer.lr=0.1", "hydra.run.dir=b"]),
        result(0, 0.8, ["data.val_seed=1"]),
    ]
    runs[1]["seed"] = runs[1]["settings"]["seed"] = 1
    table = summary.summarise(runs)
    assert "80.00% ± 0.00%" in table
    assert "`python train.py optimizer.lr=0.1`" in table
    assert "`python train.py data.val_seed=1`" in table
    assert len([line for line in table.splitlines() if line.startswith("| `")]) == 2


def test_writing_replaces_whole_files(tmp_path):
    whole = result(0, 0.8)
    claim_run_dir(tmp_path, {"status": "running"})
    results.write_result(tmp_path, whole)
    assert results.read_result(tmp_path / "result.json") == whole
    with pytest.raises(TypeError, match="not JSON serializable"):
        results.write_result(tmp_path, {"status": object()})
    assert results.read_result(tmp_path / "result.json") == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.lock", "result.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "ok"}', "\x00\x01"])
def test_what_is_no_result_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json") as caught:
        results.read_result(tmp_path / "result.json")
    assert "\n" not in str(caught.value)


def test_find_looks_below_folders(tmp_path):
    for name in ("a", "b/c"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "other.json").write_text("{}")
        (folder / "result.json").write_text(json.dumps(result(name, 0.5)))
    assert [found["seed"] for found in summary.find([tmp_path])] == ["a", "b/c"]


def test_numbers_that_json_cannot_hold_are_null(tmp_path):
    results.write_result(
        tmp_path, result(0, float("nan"), status="failed") | {"history": [float("inf")]}
    )
    written = results.read_result(tmp_path / "result.json")
    assert written["test"]["top1"] is None
    assert written["history"] == [None]


def test_a_claim_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(result):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "to_json", full)
    with pytest.raises(UserError, match="cannot be written to: No space left on device"):
        claim_run_dir(tmp_path, {"status": "running"})
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]


def test_what_cannot_be_read_is_passed_over_by_name(tmp_path, caplog):
    (tmp_path / "result.json").write_text("")
    assert summary.find([tmp_path]) == []
    assert "result.json is no readable result.json" in caplog.text


def test_a_setting_that_came_later_parts_runs_only_where_it_was_typed():
    runs = [result(seed, 0.8) for seed in range(3)]
    runs[1]["settings"]["data.crops"] = "[32]"
    runs[2]["settings"]["data.crops"] = "[28]"
    runs[2]["overrides"].insert(0, "data.crops=[28]")
    rows = summary.summarise(runs).splitlines()[2:4]
    assert rows[0].endswith("| 2 |")
    assert rows[1].startswith("| `python train.py 'data.crops=[28]'`")


def test_a_command_is_told_without_seed_and_place_but_with_what_changed_later():
    run = {"overrides": ["experiment=x", "seed=3", "resume=auto", "hydra.run.dir=y"]}
    assert summary.command(run) == "python train.py experiment=x"
    run["resumed"] = [{"overrides": ["resume=z"]}, {"overrides": ["trainer.max_epochs=9"]}]
    assert summary.command(run) == (
        "python train.py experiment=x && python train.py resume=RUN trainer.max_epochs=9"
    )
