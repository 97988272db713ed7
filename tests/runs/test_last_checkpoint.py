"""Interrupted runs: what last.ckpt restores, and when a signal stops training."""

import pytest
import torch

from cifar10.core.errors import UserError
from cifar10.runs import checkpoint
from cifar10.runs.checkpoint import step_of
from cifar10.runs.last_checkpoint import LastCheckpoint
from cifar10.runs.result import read_result
from cifar10.runs.run import run
from cifar10.runs.signals import Interrupted, signals


@pytest.fixture
def interrupt(signal_at):
    """Interrupts a run during a step; returns its result."""

    def interrupt(step, settings, folder):
        signal_at(step)
        with pytest.raises(Interrupted):
            run(settings, folder)
        signals.received = None
        signal_at(-1)
        earlier = read_result(folder / "result.json")
        assert earlier["status"] == "interrupted"
        return earlier

    return interrupt


def test_a_moved_run_resumes_with_its_weight_averages(tiny, tmp_path, interrupt):
    settings = tiny(
        "trainer.max_epochs=2",
        "+callbacks.average._target_=lightning.pytorch.callbacks.EMAWeightAveraging",
        "+callbacks.average.decay=0.5",
    )
    run(settings, tmp_path / "whole")
    earlier = interrupt(6, settings, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "there")  # Lightning compares resolved paths
    result = run(settings, tmp_path / "link", earlier=earlier)
    assert result["checkpoint"] == "best.ckpt"
    assert not (tmp_path / "here").exists()
    whole, parts = (torch.load(tmp_path / name / "last.ckpt") for name in ("whole", "there"))
    for kind in ("state_dict", "current_model_state"):
        for key, value in whole[kind].items():
            assert torch.equal(value, parts[kind][key]), key
    states = parts["callbacks"].values()
    paths = [state["best_model_path"] for state in states if "best_model_path" in state]
    assert all(path.startswith(str(tmp_path / "there")) for path in paths)


def test_a_corrupt_last_checkpoint_never_becomes_the_previous_one(
    tiny, tmp_path, interrupt, monkeypatch
):
    settings = tiny("trainer.max_epochs=3")
    earlier = interrupt(6, settings, tmp_path)
    last = tmp_path / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])

    def full(*_, **__):
        raise UserError("no space")

    monkeypatch.setattr(checkpoint.AtomicCheckpointIO, "save_checkpoint", full)
    with pytest.raises(UserError, match="no space"):
        run(settings, tmp_path, earlier=earlier)
    path, _ = checkpoint.find_resumable(tmp_path)
    assert path.name == "previous.ckpt"


@pytest.fixture
def end_before_the_test(monkeypatch):
    """Ends a run after its training, as a kill at that moment does."""

    def end(*_, **__):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning.Trainer.test", end)


@pytest.mark.parametrize(
    "overrides",
    [
        (
            "trainer.max_epochs=3",
            "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
            "+callbacks.stop.monitor=val/loss",
            "+callbacks.stop.stopping_threshold=100",
        ),
        ("+trainer.max_steps=2", "callbacks.last.every_n_steps=1", "data.val_size=0"),
    ],
    ids=["early stopping", "max_steps"],
)
def test_a_run_that_stopped_training_early_trains_no_further(
    overrides, tiny, tmp_path, end_before_the_test
):
    settings = tiny(*overrides)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path)
    result = run(settings, tmp_path, earlier=read_result(tmp_path / "result.json"))
    assert result["epochs"] == 1


def test_a_signal_at_the_end_of_training_stops_before_the_test(tiny, tmp_path, monkeypatch):
    end = LastCheckpoint.on_train_epoch_end

    def late(self, *arguments):
        end(self, *arguments)
        signals.received = 15

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", late)
    try:
        with pytest.raises(Interrupted):
            run(tiny(), tmp_path)
    finally:
        signals.received = None
    assert read_result(tmp_path / "result.json")["status"] == "interrupted"


@pytest.mark.parametrize("data", [b"", b"PK", b"x" * 1000])
def test_a_corrupt_best_checkpoint_has_no_step(data, tmp_path):
    (tmp_path / "best.ckpt").write_bytes(data)
    assert step_of(tmp_path / "best.ckpt") == -1
