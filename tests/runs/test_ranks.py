"""Several processes that train one network, and one process that resumes their run."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from cifar10 import launch
from cifar10.core.settings import ROOT
from cifar10.runs.result import read_result
from tests.processes import TrainProcess, assert_one_error, train

# Without dropout, which each rank draws for itself; SGD, since Muon amplifies rounding.
SETTINGS = (
    "data=sample",
    "model._target_=tests.network.Plain",
    "~model.dropout",
    "optimizer=sgd",
    "optimizer.lr=0.01",
    "trainer.max_epochs=3",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
    "threads=1",
)
STEPS = 3 * 16
TWO_RANKS = ("trainer=ddp", "trainer.devices=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, *SETTINGS, "report=false", "hydra.run.dir=run")
    return folder / "run"


def assert_close(one, other) -> None:
    """Equal but for rounding: gradients are summed in another order."""
    weights, expected = (
        torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (one, other)
    )
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-5)
    result, expected = (read_result(run / "result.json") for run in (one, other))
    assert result["epochs"] == expected["epochs"]
    for split in ("val", "test"):
        assert result[split]["top1"] == pytest.approx(expected[split]["top1"], abs=0.003)
        assert result[split]["loss"] == pytest.approx(expected[split]["loss"], abs=1e-3)


@pytest.mark.slow
def test_two_ranks_train_what_one_process_trains(alone, tmp_path):
    run = train(tmp_path, *SETTINGS, *TWO_RANKS, "hydra.run.dir=run")
    assert_close(tmp_path / "run", alone)
    assert re.findall(r"^epoch (\d/\d) ", run.out, re.MULTILINE) == ["1/3", "2/3", "3/3"]
    assert (tmp_path / "run" / "report.html").is_file()
    assert run.out.count("test top-1") == 1


def test_one_process_resumes_what_two_interrupted_ranks_began(alone, tmp_path):
    more = ("callbacks.last.every_n_steps=2", "report=false", "hydra.run.dir=run")
    run = TrainProcess(tmp_path, *SETTINGS, *TWO_RANKS, *more)
    run.wait_until((tmp_path / "run" / "last.ckpt").exists)
    run.kill(signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM, run.output
    done = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < done < STEPS
    train(tmp_path, "resume=run", "trainer.devices=1")
    assert_close(tmp_path / "run", alone)


@pytest.mark.slow
def test_two_nodes_train_what_one_process_trains(alone, tmp_path):
    """What torchrun starts on two machines, here both on the loopback address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nodes = []
    for number in range(2):
        line = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={number}"]
        line += ["--master-addr=127.0.0.1", f"--master-port={port}", str(ROOT / "train.py")]
        line += ["trainer=ddp", *SETTINGS, "report=false", "hydra.run.dir=run"]
        nodes.append(
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *line],
                cwd=tmp_path,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    (first, *_), (second, *_) = outputs = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert_close(tmp_path / "run", alone)
    assert read_result(tmp_path / "run" / "result.json")["device"].startswith("2 x ")
    assert "test top-1" in first and second == ""  # only the first process prints


def test_processes_started_from_outside_need_a_common_folder(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    run = TrainProcess(folder, "trainer=ddp", "data=sample", environment=environment)
    assert_one_error(run, 2, "hydra.run.dir: required with torchrun and SLURM")
    assert [*folder.iterdir()] == []


def test_a_later_slurm_task_joins_the_folder_that_the_first_one_created(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    overrides = {"hydra": ["hydra.run.dir=run"], "task": []}
    monkeypatch.setenv("SLURM_NTASKS", "2")
    prepared = launch.Prepared({}, None, False, None)
    monkeypatch.setattr(launch, "prepare", lambda *_: prepared)
    monkeypatch.setattr(launch.StartHook, "prepared", None)
    monkeypatch.setattr(launch, "referred", lambda _: contextlib.nullcontext())
    for rank in ("1", "0"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        config = OmegaConf.create(
            {
                "resume": None,
                "hydra": {"run": {"dir": str(folder)}, "runtime": {}, "overrides": overrides},
            }
        )
        if rank == "1":
            launch.StartHook().on_run_start(config)
        else:
            with pytest.raises(SystemExit):
                launch.StartHook().on_run_start(config)
