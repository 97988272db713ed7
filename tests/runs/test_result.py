"""result.json: writing, reading, validation, the command that repeats a run."""

import pytest

from cifar10.core.errors import UserError
from cifar10.runs.result import (
    read_result,
    repeat_command,
    without_local_paths,
    write_result,
)

FINISHED = {
    "status": "ok",
    "overrides": ["optimizer=sgd", "seed=0"],
    "seed": 0,
    "epochs": 4,
    "data": {"train": 45000, "val": 5000, "test": 10000},
    "precision": {"value": "32-true"},
    "versions": {"torch": "2.14.1"},
    "device": "A CPU, 2 threads",
    "settings": {"seed": 0},
    "seconds": {"training": 60.0},
    "test": {"loss": 0.5, "top1": 0.8, "top3": 0.96, "top5": 0.99},
    "another field": [1],
}


def test_a_result_is_replaced_completely_or_not_at_all(tmp_path):
    write_result(tmp_path, {"status": "running", "overrides": []})
    write_result(tmp_path, FINISHED)
    assert read_result(tmp_path / "result.json") == FINISHED
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_result(tmp_path, {"status": object()})
    assert read_result(tmp_path / "result.json") == FINISHED
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a readable result.json"),
        ("{", "not a readable result.json"),
        ("\x00\x01", "not a readable result.json"),
        ("[" * 100_000, "not a readable result.json"),
        ("[]", "not a result.json: content: "),
        ("{}", "not a result.json: status: Field required"),
        ('{"status": "done", "overrides": []}', "not a result.json: status: "),
        ('{"status": "ok", "overrides": []}', "not a result.json: settings: Field required"),
        ('{"status": "failed", "overrides": [1]}', "not a result.json: overrides.0: "),
    ],
)
def test_a_file_that_is_no_result_is_rejected_in_one_line(content, reason, tmp_path):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_result(tmp_path / "result.json")
    assert str(tmp_path / "result.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_that_json_lacks_are_null(tmp_path):
    infinite = FINISHED | {"test": {"top1": float("nan")}, "history": [{"a": float("inf")}]}
    write_result(tmp_path, infinite)
    written = read_result(tmp_path / "result.json")
    assert written["test"]["top1"] is None
    assert written["history"] == [{"a": None}]


def test_a_published_result_names_no_place_of_this_machine():
    result = FINISHED | {"config": {"data": {"dir": "here", "name": "x"}}, "config_digest": "0"}
    assert without_local_paths(result) == FINISHED | {"config": {"data": {"name": "x"}}}


def test_a_command_repeats_a_run_without_seed_and_folder_but_with_later_changes():
    run = {"overrides": ["experiment=x", "seed=3", "resume=auto", "hydra.run.dir=y"]}
    run["overrides"] += [" hydra.x=1", "+ hydra.x=1", '"hydra".launcher=1', "+{hydra}=1", "-m"]
    assert repeat_command(run) == "python train.py experiment=x"
    run["resumed"] = [{"overrides": ["resume=z"]}, {"overrides": ["trainer.max_epochs=9"]}]
    assert repeat_command(run) == (
        "python train.py experiment=x && python train.py resume=RUN trainer.max_epochs=9"
    )


def test_a_command_names_the_yaml_files_and_modules_that_it_needs():
    transform = [{"_target_": "shifts.far.Far"}, {"_target_": "torchvision.transforms.v2.Invert"}]
    config = {"model": {"_target_": "mynet.MyNet"}, "data": {"transform": transform}}
    run = {"overrides": ["model=mine"], "config": config, "config_dirs": ["my configs", "a\nrm b"]}
    assert repeat_command(run).splitlines() == [
        "python train.py model=mine",
        "# with --config-dir 'my configs' and --config-dir 'a\\nrm b' and "
        "CIFAR10_TRUST=mynet,shifts",
    ]
