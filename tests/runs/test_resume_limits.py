"""Resuming with other limits, settings that no record can hold, and another teacher."""

import shutil

import pytest
import torch

from cifar10.core.errors import SettingError, UserError
from cifar10.runs.result import read_result
from cifar10.runs.resume import resolve_settings
from cifar10.runs.run import run
from cifar10.runs.signals import Interrupted, signals


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("max_steps=6", "max_steps=5", "trainer.max_steps=5: the run finished with 6, so it"),
        ("max_time=00:02:00:00", "max_time={hours:1}", "the run finished with 00:02:00:00"),
        ("max_steps=6", "max_steps=7", None),
        ("max_steps=6", "max_steps=-1", None),
    ],
)
def test_a_finished_run_is_never_relabelled_by_a_lower_limit(
    before, after, message, settings, tiny, finished, tmp_path, caplog
):
    folder = tmp_path / "run"
    typed = ["trainer.max_epochs=3", "+trainer.max_steps=6", f"++trainer.{before}"]
    run(tiny(*typed), folder, typed)

    def go_on():
        words = [f"++trainer.{after}"]
        chosen, earlier, done = resolve_settings(settings(*words), str(folder), folder, words)
        return done or run(chosen, folder, words, earlier=earlier)["stopped"]

    if message:
        with pytest.raises(SettingError, match=message):
            go_on()
    else:
        assert go_on() == ("trainer.max_steps=7 was reached" if "7" in after else None)
        assert "the last epoch was cut short; the rest of it is left out" in caplog.text


def test_fewer_steps_than_were_made_are_refused(tiny, tmp_path, signal_at):
    signal_at(6)
    with pytest.raises(Interrupted):
        run(tiny("trainer.max_epochs=3"), tmp_path)
    signals.received = None
    signal_at(-1)
    with pytest.raises(SettingError, match="max_steps=3: the run has already made 6 steps"):
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
    assert resolved["teacher"] == "outputs/teacher"
    chosen = tiny("teacher=outputs/teacher", "trainer.max_epochs=2")
    signal_at(6)
    with pytest.raises(Interrupted):
        run(chosen, tmp_path / "run")
    signals.received = None
    signal_at(-1)
    earlier = read_result(tmp_path / "run" / "result.json")
    state = torch.load(teacher / "best.ckpt")
    state["state_dict"]["network.fc4.bias"] += 1
    torch.save(state, teacher / "best.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt: since it was saved, teacher changed"):
        run(chosen, tmp_path / "run", earlier=earlier)
