"""A training goes on when nobody can read its output."""

import os
import subprocess
import sys

import pytest

from cifar10.core.settings import ROOT
from tests.processes import TINY

COMMAND = [sys.executable, str(ROOT / "train.py"), *TINY, "hydra.run.dir=run"]


@pytest.mark.parametrize(
    ("shell", "lines"),
    [
        ("{} > /dev/full", 1),
        pytest.param("{} | head -1 > /dev/null", 1, marks=pytest.mark.slow),
        pytest.param("{} >&-", 0, marks=pytest.mark.slow),
        pytest.param(
            "PYTHONIOENCODING=ascii {} > /dev/null 2> /dev/full", 0, marks=pytest.mark.slow
        ),
    ],
)
def test_a_training_goes_on_without_its_output(shell, lines, tmp_path):
    text = subprocess.list2cmdline(COMMAND)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell.format(text)}"],
        check=False,
        cwd=tmp_path,
        env=os.environ | ({"PYTHONUNBUFFERED": "1"} if "head" in shell else {}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == lines
    assert '"status": "ok"' in (tmp_path / "run" / "result.json").read_text()
    if lines:
        assert "no further output; a training continues, see train.log" in done.stderr
