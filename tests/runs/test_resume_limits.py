"""Resuming with other limits, settings that no record can hold, and another teacher."""

import shutil

import pytest
import torch

from cifar10.core.errors import SettingError, UserError
from cifar10.runs.result import read_result, write_result
from cifar10.runs.resume import resolve_settings
from cifar10.runs.run import run
from cifar10.runs.signals import Interrupted, signals


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("max_steps=6", "max_steps=5", "trainer.max_steps=5: the run is already at step 6"),
        ("max_time=00:02:00:00", "max_time={hours:1}", "less than the 00:02:00:00 that the run"),
        ("max_steps=6", "max_time=2h", "trainer.max_time=2h: must be DD:HH:MM:SS or a group"),
        ("max_steps=6", "max_time=3600", "trainer.max_time=3600: must be DD:HH:MM:SS"),
        ("max_steps=6", "max_steps=7", None),
        ("max_steps=6", "max_steps=-1", None),
    ],
)
def test_lower_limits_are_refused_for_a_finished_run(
    before, after, message, settings, tiny, finished, tmp_path, caplog
):
    folder = tmp_path / "run"
    typed = ["trainer.max_epochs=3", "+trainer.max_steps=6", f"++trainer.{before}"]
    run(tiny(*typed), folder, typed)

    def resume_run():
        words = [f"++trainer.{after}"]
        chosen, earlier, done = resolve_settings(settings(*words), str(folder), folder, words)
        return done or run(chosen, folder, words, earlier=earlier)["stopped"]

    if message:
        with pytest.raises(SettingError, match=message):
            resume_run()
    else:
        assert resume_run() == ("trainer.max_steps=7 was reached" if "7" in after else None)
        assert "epoch 2 ended early; its remaining batches are skipped" in caplog.text


def test_fewer_steps_than_were_made_are_refused(tiny, tmp_path, signal_at):
    signal_at(6)
    with pytest.raises(Interrupted):
        run(tiny("trainer.max_epochs=3"), tmp_path)
    signals.received = None
    signal_at(-1)
    with pytest.raises(SettingError, match="max_steps=3: the run is already at step 6; set more"):
        run(
            tiny("trainer.max_epochs=3", "+trainer.max_steps=3"),
            tmp_path,
            earlier=read_result(tmp_path / "result.json"),
        )


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_setting_that_no_record_can_hold_is_refused(value, settings, tmp_path):
    typed = [f"++callbacks.x.values=[1,{value}]"]
    with pytest.raises(SettingError, match=r"callbacks.x.values.1=-?(inf|nan): must be finite"):
        resolve_settings(settings(*typed), None, tmp_path, typed)


def test_a_teacher_is_resolved_at_the_start_and_must_stay_the_same(
    settings, tiny, finished, tmp_path, monkeypatch, signal_at
):
    monkeypatch.chdir(tmp_path)
    teacher = shutil.copytree(finished.folder, tmp_path / "outputs" / "teacher")
    resolved = resolve_settings(settings("teacher=latest"), None, tmp_path / "run", [])[0]
    assert resolved["teacher"] == str(teacher)
    (tmp_path / "run").mkdir()
    write_result(tmp_path / "run", {"status": "running", "overrides": [], "config": resolved})
    newer = shutil.copytree(finished.folder, tmp_path / "outputs" / "newer")
    (newer / "result.json").touch()
    # another process of the same run, or the same command in a job queue
    again = resolve_settings(settings("teacher=latest"), None, tmp_path / "run", [])[0]
    assert again["teacher"] == str(teacher)
    shutil.rmtree(tmp_path / "run")
    chosen = tiny("teacher=outputs/teacher", "trainer.max_epochs=2")
    signal_at(6)
    with pytest.raises(Interrupted):
        run(chosen, tmp_path / "run")
    signals.received = None
    signal_at(-1)
    earlier = read_result(tmp_path / "run" / "result.json")
    state = torch.load(teacher / "best.ckpt")
    state["state_dict"]["network.5.bias"] += 1
    torch.save(state, teacher / "best.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt: saved before teacher's weights changed"):
        run(chosen, tmp_path / "run", earlier=earlier)
