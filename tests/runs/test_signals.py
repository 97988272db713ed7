"""A signal that comes while Python finalises an object."""

import os
import signal
import subprocess
import sys

from cifar10.core.settings import ROOT


def test_a_signal_in_a_finaliser_is_not_lost():
    code = """
import os, signal, sys, time
from cifar10.runs.signals import signals
signals.listen()
sys.unraisablehook = signals.ignored
class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
del_me = Dying()
del del_me
time.sleep(30)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    shown = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=25
    )
    assert shown.returncode == 128 + signal.SIGTERM
    assert shown.stderr == ""
