"""result.json: what is written is what is read."""

import pytest

from cifar10.core.errors import UserError
from cifar10.runs import result as results
from cifar10.runs.run_dir import claim_run_dir


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


def test_a_run_is_repeated_without_its_seed_and_folder_but_with_later_changes():
    run = {"overrides": ["experiment=x", "seed=3", "resume=auto", "hydra.run.dir=y", "sweep.run=1"]}
    assert results.repeat_command(run) == "python train.py experiment=x"
    run["resumed"] = [{"overrides": ["resume=z"]}, {"overrides": ["trainer.max_epochs=9"]}]
    assert results.repeat_command(run) == (
        "python train.py experiment=x && python train.py resume=RUN trainer.max_epochs=9"
    )
