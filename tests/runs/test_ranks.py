"""Several processes that train one network, and one that goes on alone."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from omegaconf import OmegaConf

import train
from cifar10.core.settings import CHECKOUT
from cifar10.runs import result as results
from tests.test_train import start

# ConvNet without dropout, which each rank draws for itself; SGD, since Muon blows up rounding.
ALIKE = (
    "data=sample",
    "model.dropout=0",
    "optimizer=sgd",
    "optimizer.lr=0.01",
    "trainer.max_epochs=4",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
    "callbacks.last.every_n_steps=2",
    "threads=1",
)
TWO = ("trainer=ddp", "trainer.devices=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    process = start(folder, *ALIKE, "hydra.run.dir=run")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return folder / "run"


def assert_alike(one, other) -> None:
    """The same up to rounding: gradients are summed in another order."""
    weights, expected = (
        torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (one, other)
    )
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-5)
    result, expected = (results.read_result(run / results.RESULT_FILE) for run in (one, other))
    assert result["epochs"] == expected["epochs"]
    for split in ("val", "test"):
        assert result[split]["top1"] == pytest.approx(expected[split]["top1"], abs=0.003)
        assert result[split]["loss"] == pytest.approx(expected[split]["loss"], abs=1e-3)


def test_two_ranks_stopped_and_one_that_goes_on_train_what_one_alone_trains(alone, tmp_path):
    process = start(tmp_path, *ALIKE, *TWO, "hydra.run.dir=run")
    deadline = time.monotonic() + 200
    while not (tmp_path / "run" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGTERM, err
    done = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < done < 64
    process = start(tmp_path, "resume=run", "trainer.devices=1")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert_alike(tmp_path / "run", alone)


def test_two_ranks_train_what_one_alone_trains(alone, tmp_path):
    process = start(tmp_path, *ALIKE, *TWO, "hydra.run.dir=run")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert_alike(tmp_path / "run", alone)
    assert [line.split()[1] for line in out.splitlines() if line.startswith("epoch ")] == [
        f"{epoch}/4" for epoch in range(1, 5)
    ]


def two_nodes(folder, *words, second=()):
    """What torchrun starts on two machines, here both on the loopback address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nodes = []
    for number, own in enumerate(((), second)):
        line = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={number}"]
        line += ["--master-addr=127.0.0.1", f"--master-port={port}", str(CHECKOUT / "train.py")]
        nodes.append(
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *line, *words, *own],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return [(*node.communicate(timeout=300), node.returncode) for node in nodes]


def test_two_nodes_train_what_one_process_trains(alone, tmp_path):
    line = [word for word in ALIKE if not word.startswith("callbacks.")]
    first, second = two_nodes(tmp_path, "trainer=ddp", *line, "hydra.run.dir=run")
    assert (first[2], second[2]) == (0, 0), first[1] + second[1]
    assert_alike(tmp_path / "run", alone)
    result = results.read_result(tmp_path / "run" / results.RESULT_FILE)
    assert result["device"].startswith("2 x ")
    assert "test top-1" in first[0] and second[0] == ""  # one speaks


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("label_smoothing=0.3", "label_smoothing: is 0.1 in the first process and 0.3 in the"),
        ("+trainer.limit_test_batches=1", "limit_test_batches: is not set in the first process"),
        ("callbacks.last.every_n_steps=5", "every_n_steps: is 2 in the first process and 5 in the"),
    ],
)
def test_nodes_that_were_given_other_settings_are_told_so(word, told, tmp_path):
    words = [*ALIKE, "trainer=ddp", "hydra.run.dir=run"]
    for _, err, code in two_nodes(tmp_path, *words, second=[word]):
        assert code != 0
        assert told in err and "process of rank 1; all of a training" in err
    assert results.read_result(tmp_path / "run" / results.RESULT_FILE)["status"] == "failed"


def test_processes_started_from_outside_need_a_folder_in_common(tmp_path):
    environment = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    process = start(tmp_path, "trainer=ddp", "data=sample", environment=environment)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert err.startswith("error: hydra.run.dir: name it") and len(err.splitlines()) == 1
    assert [*tmp_path.iterdir()] == []


def test_a_slow_task_of_slurm_does_not_take_the_folder_for_a_used_one(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    overrides = {"hydra": ["hydra.run.dir=run"], "task": []}
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setattr(train, "settled", lambda *_: ({}, None))
    monkeypatch.setattr("cifar10.runs.components.build_components", lambda *_: None)
    for rank in ("1", "0"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        config = OmegaConf.create(
            {"resume": None, "hydra": {"run": {"dir": str(folder)}, "overrides": overrides}}
        )
        if rank == "1":
            train.Check().on_run_start(config)
        else:
            with pytest.raises(SystemExit):
                train.Check().on_run_start(config)
