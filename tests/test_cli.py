"""The command `cifar10`: help, wrong arguments and the data commands."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "words,reason",
    [
        (["predict", "-m", "x"], "Missing argument"),
        (["evaluate", "airnett"], "did you mean airnet?"),
        (["predict", "", "-m", "x"], "error: '': "),
        (["predict", "~nosuchuser/x.png", "-m", "x"], "~nosuchuser/x.png: "),
        (["evaluate", ""], "'': no such model"),
        (["predict", "nowhere.png", "-m", "x"], "error: nowhere.png: "),
        (["predict", ".", "-m", "x"], "error: .: "),
        (["predict", "a.png", "--top", "0"], "greater than or equal to 1"),
        (["predict", "a.png", "-m", "x", "--json", "--csv"], "choose one"),
        (["evaluate", "nowhere"], "nowhere: no such model, run or checkpoint"),
        (["evaluate", "latest"], "latest: no run in outputs/"),
        (["evaluate", "."], ".: no checkpoint in this folder"),
        (["evaluate", "x", "--split", "train"], "train"),
        (["export", "x", "--to", "caffe"], "caffe"),
        (["export", "x"], "Missing option '--to'. Choose from: onnx, torch"),
        (["summarize", "latest"], "latest: no run in outputs/"),
        (["data", "verify"], "not found"),
        (["evaluat"], "No such command"),
        (["predict", "--modle", "x"], "No such option"),
    ],
)
def test_wrong_arguments_end_in_one_line_and_exit_code_2(
    words, reason, cifar, monkeypatch, tmp_path
):
    monkeypatch.setenv("CIFAR10_DATA_DIR", str(tmp_path / "data"))
    code, _, err = cifar(*words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert reason in err


def test_the_prepared_data_is_located_and_verified(cifar, monkeypatch, tmp_path):
    folder = tmp_path / "my data"
    monkeypatch.setenv("CIFAR10_DATA_DIR", str(folder))
    code, out, _ = cifar("data", "where")
    assert (code, out) == (0, f"{folder / 'cifar-10.bin'}\n")
    folder.mkdir()
    (folder / "cifar-10.bin").write_bytes(b"half")
    code, _, err = cifar("data", "verify")
    assert code == 2
    assert "corrupted" in err


def test_help_does_not_import_torch(tmp_path):
    code = """
import sys
from cifar10 import cli
sys.argv = ["cifar10", "predict", "--help"]
try:
    cli.main()
except SystemExit:
    pass
assert not {"torch", "lightning", "PIL", "matplotlib"} & set(sys.modules)
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=os.environ,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    assert "--model" in process.stdout
