"""The objects that settings become: order, optional callbacks and loggers."""

import pytest
import torch

from cifar10.core.errors import SettingError
from cifar10.runs.components import build_components, hyperparameters
from cifar10.runs.last_checkpoint import LastCheckpoint

EARLY_STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


def test_the_seed_changes_the_order_of_the_images(settings, tmp_path):
    def order(seed):
        parts = build_components(settings("data=sample", f"seed={seed}"), tmp_path)
        parts.data.setup()
        return torch.cat([labels for _, labels in parts.data.train_dataloader()])

    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))


def test_callbacks_and_loggers_can_be_left_out(settings, tmp_path):
    parts = build_components(settings("callbacks.best=null", "~logger"), tmp_path)
    assert [callback.filename for callback in parts.trainer.checkpoint_callbacks] == ["last"]
    assert parts.trainer.loggers == []


def test_a_callback_can_be_added_and_the_last_checkpoint_is_saved_after_all_others(
    settings, tmp_path
):
    checkpoint = "lightning.pytorch.callbacks.ModelCheckpoint"
    chosen = settings(
        f"+callbacks.stop._target_={EARLY_STOPPING}",
        "+callbacks.stop.monitor=val/loss",
        f"+callbacks.mine._target_={checkpoint}",
        "+callbacks.mine.monitor=val/top1",
    )
    trainer = build_components(chosen, tmp_path).trainer
    assert [type(c).__name__ for c in trainer.callbacks].count("EarlyStopping") == 1
    assert len(trainer.checkpoint_callbacks) == 3
    assert isinstance(trainer.callbacks[-1], LastCheckpoint)


def test_a_teacher_needs_to_exist_and_to_know_the_same_classes(
    settings, tmp_path, photos, broken_run
):
    with pytest.raises(SettingError, match=r"^teacher=nobody: nobody: "):
        build_components(settings("teacher=nobody"), tmp_path)
    with pytest.raises(SettingError, match=r"^teacher=.*: the network outputs NaN or infinity"):
        build_components(settings(f"teacher='{broken_run}'"), tmp_path)
    folder = settings("data=folder", f"data.dir={photos}", "teacher=airnet")
    with pytest.raises(SettingError, match="teacher=airnet: has other classes: airplane, "):
        build_components(folder, tmp_path)


def test_runs_are_compared_by_plain_settings_that_change_results(settings):
    flat = hyperparameters(settings("optimizer=adamw"))
    assert flat["optimizer"] == "AdamW"
    assert flat["optimizer.lr"] == settings("optimizer=adamw")["optimizer"]["lr"]
    assert all(isinstance(value, bool | int | float | str | None) for value in flat.values())
    assert {"report", "data.dir", "data.download", "callbacks.last"}.isdisjoint(flat)
