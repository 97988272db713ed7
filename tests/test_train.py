"""The command line as a person types it: what it prints, leaves behind and exits with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cifar10.core.settings import ROOT

TINY = ("data=sample", "trainer.max_epochs=1", "+trainer.limit_train_batches=4")


def start(folder: Path, *overrides: str, environment: dict | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_one_command_trains_tests_and_tells(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    process = start(folder, *TINY)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (place,) = (folder / "outputs").iterdir()
    result = json.loads((place / "result.json").read_text())
    assert result["status"] == "ok"
    assert result["overrides"] == list(TINY)
    for name in ("best.ckpt", "last.ckpt"):
        assert (place / name).is_file()
    lines = out.splitlines()
    assert any(line.startswith("epoch 1/1  train/loss ") for line in lines)
    table = dict(line.split(maxsplit=2)[:2] for line in lines[-10:])
    assert set(table) == {"test", "best", "seconds", "checkpoint", "logs", "result", "report"}
    assert f"test top-1   {result['test']['top1']:.2%}" in lines
    assert f"'{place.parent}'" in out  # quoted, so that the line can be pasted
    assert err == ""


def test_help_and_cfg_do_without_torch(tmp_path):
    """Importing torch and Lightning takes seconds."""
    code = """
import sys, train
for flags in (["--help"], ["--cfg", "job"], ["--info", "config"]):
    sys.argv = ["train.py", *flags]
    train.cli()
heavy = {"torch", "lightning", "matplotlib", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "python train.py experiment=original" in shown.stdout
    assert "optimizer: adamw, muon, muon_sgd, sgd" in shown.stdout
    assert "ns_steps: 3" in shown.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            "optimizer.lrr=1",
            "optimizer.lrr=1: there is no such setting; did you mean optimizer.lr?",
        ),
        ("data.batchsize=8", "did you mean data.batch_size?"),
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("optimiser=adamw", "did you mean optimizer?"),
        ("sed=1", "sed=1: there is no such setting; did you mean seed?"),
        ("+trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("model=resnet5000", "model=resnet5000: there are "),
        ("experiment=nothing", "experiment=nothing: there are "),
        ("data.batch_size=0", "data.batch_size=0: must be greater than or equal to 1"),
        ("optimizer.lr=", "optimizer.lr='': must be number"),
        ("trainer.precision=8", "trainer.precision=8: must be one of auto, 32-true"),
        ("optimizer.lr=${nothing}", "nothing"),
        ("optimizer.lr=???", "optimizer.lr"),
        ("a=[", "a=["),
        ("hydra.run.dirr=x", "hydra.run.dirr"),
        ("hydra.mode=foo", "hydra.mode=foo: Invalid value 'foo'"),
        ("model=null", "model=null: a group needs one of its files"),
    ],
)
def test_a_wrong_setting_ends_in_one_line_before_anything_is_touched(
    typed, line, type_in, tmp_path
):
    code, stderr = type_in(typed)
    assert code == 2
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert line in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_one_line(type_in, tmp_path):
    (tmp_path / "file").write_text("")
    code, stderr = type_in(*TINY, "hydra.run.dir=file/run")
    assert code == 1
    assert stderr == "error: file/run: Not a directory\n"


def test_a_log_that_cannot_be_written_is_one_line(type_in, tmp_path):
    (tmp_path / "run" / "train.log").mkdir(parents=True)
    code, stderr = type_in(*TINY, "hydra.run.dir=run")
    assert code == 1
    assert stderr == f"error: {tmp_path / 'run' / 'train.log'}: Is a directory\n"


def test_a_folder_that_holds_a_run_is_left_alone(type_in, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    code, stderr = type_in(*TINY, "hydra.run.dir=run")
    assert code == 1
    assert "already holds a run" in stderr
    assert stderr.count("\n") == 1
    assert (tmp_path / "run" / "result.json").read_text() == "precious"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_keeps_what_it_has(number, tmp_path):
    process = start(tmp_path, *TINY, "trainer.max_epochs=1000", "hydra.run.dir=run")
    for line in process.stdout:
        if line.split()[:2] == ["epoch", "2/1000"]:  # by when the first is saved
            process.send_signal(number)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert result["error"] == f"stopped by {number.name}"
    assert result["epochs"] >= 2
    assert (tmp_path / "run" / "last.ckpt").is_file()
    where = tmp_path / "run"
    assert err.splitlines() == [
        "",
        "stopping after this step; again to stop at once",
        f"stopped by {number.name}; go on with: python train.py resume={where}",
    ]


def test_slurms_signal_saves_and_queues_the_job_again(tmp_path):
    """With a stand-in for scontrol that notes what it was called with."""
    tool = tmp_path / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/called"\n')
    tool.chmod(0o755)
    environment = {"SLURM_JOB_ID": "42", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    line = (
        *TINY,
        "callbacks.gallery=null",
        "trainer.max_epochs=1000",
        "hydra.run.dir=run",
        "resume=auto",
    )
    process = start(tmp_path, *line, environment=environment)
    for shown in process.stdout:
        if shown.split()[:2] == ["epoch", "2/1000"]:
            process.send_signal(signal.SIGUSR1)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1
    assert err.splitlines()[-1].startswith("stopped by SIGUSR1; go on with: ")
    assert (tmp_path / "called").read_text() == "requeue 42\n"


def test_a_multirun_goes_over_its_values_in_folders_of_their_own(tmp_path):
    process = start(
        tmp_path, "-m", *TINY, "callbacks.gallery=null", "optimizer.lr=0.01,1e30", "seed=0,1"
    )
    out, err = process.communicate(timeout=400)
    runs = sorted(tmp_path.glob("outputs/*/*/result.json"))
    results = [json.loads(path.read_text()) for path in runs]
    assert len(results) == 4, err
    assert [result["seed"] for result in results] == [0, 1, 0, 1]
    assert [result["status"] for result in results] == ["ok", "ok", "failed", "failed"], out
