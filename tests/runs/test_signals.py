"""Signals: at once, or after the step where one is deferred."""

import contextlib
import signal
import subprocess

import pytest

from cifar10.core.errors import SettingError
from cifar10.core.hydra_errors import report_errors
from cifar10.runs import signals as module
from cifar10.runs.signals import Interrupted, Signals, preemption_signals, requeue


def test_a_signal_interrupts_at_once_or_waits_where_it_is_deferred(capsys):
    signals = Signals()
    with pytest.raises(Interrupted) as caught:
        signals.handle(signal.SIGTERM, None)
    assert str(caught.value) == "interrupted by SIGTERM"
    assert caught.value.exit_code == 143
    assert not isinstance(caught.value, Exception)

    signals = Signals()
    signals.defer()
    signals.handle(signal.SIGINT, None)
    assert signals.received == signal.SIGINT
    assert "Stopping after this step" in capsys.readouterr().err


@pytest.mark.parametrize("deferred", [False, True])
def test_a_signal_that_a_library_turned_into_an_error_is_raised_again(deferred, capsys):
    signals = Signals()
    signals.deferred = deferred
    signals.raise_again()
    with contextlib.suppress(Interrupted):  # pydantic's parts in Rust drop the cause
        signals.handle(signal.SIGTERM, None)
    wanted = SystemExit if deferred else Interrupted
    with pytest.raises(wanted), report_errors(signals.raise_again):
        raise SettingError("data: error building a serializer: interrupted by SIGTERM")


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    signals, codes = Signals(), []
    monkeypatch.setattr(module.os, "_exit", codes.append)
    signals.received = signal.SIGINT
    signals.deferred = True
    signals.handle(signal.SIGINT, None)
    assert codes == [130]


def test_a_slurm_job_is_requeued_and_a_failure_is_logged(monkeypatch, caplog):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert preemption_signals() == []
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert preemption_signals() == [signal.SIGUSR1]
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    commands = []

    def refuse(command, **_):
        commands.append(command)
        raise subprocess.CalledProcessError(1, command, stderr="not allowed")

    monkeypatch.setattr(module.subprocess, "run", refuse)
    requeue()
    assert commands == [["scontrol", "requeue", "40_3"]]
    assert "scontrol requeue 40_3 failed: not allowed" in caplog.text
