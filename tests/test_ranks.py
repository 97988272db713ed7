"""Several processes that train one network, and one that goes on alone."""

import signal
import time

import pytest
import torch

from cifar10 import results
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
TWO = ("trainer.devices=2", "+trainer.strategy=ddp")


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
    result, expected = (results.read(run / results.NAME) for run in (one, other))
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
