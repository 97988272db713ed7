"""The command line as a person types it: what it prints, writes and exits with."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from cifar10.core.settings import ROOT
from tests.processes import TINY, TrainProcess, last_epoch


def test_one_command_trains_tests_and_reports(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    typed = [word for word in TINY if word != "report=false"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *typed],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = (path for path in (folder / "outputs").iterdir() if not path.is_symlink())
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "ok"
    assert result["overrides"] == typed
    for name in ("best.ckpt", "last.ckpt", "report.html", "figures/confusion.png"):
        assert (run / name).is_file()

    lines = done.stdout.splitlines()
    assert lines[0] == "loading …"
    (epoch,) = (n for n, line in enumerate(lines) if line.startswith("epoch 1/1  train/loss "))
    start = lines[1:epoch]
    assert [line.split()[0] for line in start] == ["data", "network", "device", "run"]
    assert lines[epoch + 1] == "drawing the report …"
    summary = lines[epoch + 3 :]
    assert summary[0].startswith(
        f"test top-1  {result['test']['top1']:.2%}  (95% confidence interval "
    )
    assert f"run folder  {run}" in summary
    assert "report.html" in done.stdout and "cifar10 predict --model latest" in done.stdout
    assert all(len(line) <= 80 for line in summary if "outputs/" not in line)

    details = (run / "train.log").read_text()
    for line in (*start, "layout: ", "compile: eager", "epoch 1/1"):
        assert line in details
    assert "layout: " not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_a_saved_step(number, tmp_path):
    run = TrainProcess(tmp_path, *TINY, "trainer.max_epochs=1000", "hydra.run.dir=run")
    run.wait_until(lambda: last_epoch(run) >= 2)  # then the first is saved
    run.kill(number)
    assert run.wait() == 128 + number
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert result["error"] == f"interrupted by {number.name}"
    assert result["epochs"] >= 2
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert run.err.splitlines() == [
        "",
        "Stopping after this step. Press Ctrl-C again to quit immediately.",
        f"interrupted by {number.name}; resume with: python train.py resume={tmp_path / 'run'}",
    ]


def test_slurms_signal_saves_and_requeues_the_job(tmp_path):
    """With a stand-in for scontrol that records its arguments."""
    tool = tmp_path / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/called"\n')
    tool.chmod(0o755)
    environment = {"SLURM_JOB_ID": "42", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    typed = (*TINY, "trainer.max_epochs=1000", "hydra.run.dir=run", "resume=auto")
    run = TrainProcess(tmp_path, *typed, environment=environment)
    run.wait_until(lambda: last_epoch(run) >= 2)
    run.kill(signal.SIGUSR1)
    assert run.wait() == 128 + signal.SIGUSR1
    assert run.err.splitlines()[-1].startswith("interrupted by SIGUSR1; resume with: ")
    assert (tmp_path / "called").read_text() == "requeue 42\n"


@pytest.mark.slow
def test_a_multirun_runs_every_combination_in_its_own_folder(tmp_path):
    tiny = [word for word in TINY if not word.startswith("model.")]  # batch norm survives any rate
    run = TrainProcess(tmp_path, *tiny, "--multirun", "optimizer.lr=0.01,1e30", "seed=0,1")
    run.wait()
    paths = sorted(tmp_path.glob("outputs/*/*/result.json"))
    results = [json.loads(path.read_text()) for path in paths]
    assert len(results) == 4, run.output
    assert [result["seed"] for result in results] == [0, 1, 0, 1]
    assert [result["status"] for result in results] == ["ok", "ok", "failed", "failed"]
    assert len(re.findall("^error: ", run.err, re.MULTILINE)) >= 1
