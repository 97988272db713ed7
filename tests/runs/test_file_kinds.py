"""Files that are no checkpoints, handed over as models: named at once, and not unpacked."""

import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cifar10.core.errors import UserError
from cifar10.runs.checkpoint import read_checkpoint
from tests.processes import run_python

WEIGHTS = {"weight": torch.zeros(3)}


def torchscript(path):
    torch.jit.script(nn.ReLU()).save(path)


def exported(path):
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(2),)), path)


def old_format(path):
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**7))


def overlapping(path):
    """Two entries of the directory for the same bytes: unpacks to more than it holds."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", bytes(10**5))
        archive.filelist += archive.filelist * 100


FILES = {
    "a TorchScript model": torchscript,
    "a model of torch.export": exported,
    "a safetensors file": lambda path: save_file(WEIGHTS, path),
    "format before 1.6": old_format,
    "an ONNX model": lambda path: path.write_bytes(b"\x08\x0a\x12\x07pytorch"),
    "an HDF5 file": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"),
    "unpacks to 10,000,000 bytes": bomb,
    "unpacks to 10,100,000 bytes": overlapping,
    "not a regular file": os.mkfifo,
    "no file of torch.save": lambda path: path.write_bytes(b"text"),
    "not a checkpoint of a run": lambda path: torch.save(WEIGHTS, path),
    "a run: unexpected content": lambda path: torch.save({"state_dict": {}, "run": [1]}, path),
    "unexpected content": lambda path: torch.save({"state_dict": {}, "global_step": "x"}, path),
    "not a regular": lambda path: path.symlink_to("/dev/zero"),
    "no file of torch.sav": lambda path: path.write_bytes(pickle.dumps(WEIGHTS)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("reason", FILES)
def test_a_file_that_is_no_checkpoint_is_named(reason, tmp_path):
    path = tmp_path / "model"
    FILES[reason](path)
    with pytest.raises(UserError, match=f"{path}: .*{reason}") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_NTASKS"])
def test_a_variable_of_a_launcher_that_is_no_number_is_named(name, type_in, monkeypatch):
    monkeypatch.setenv(name, "abc")
    code, stderr = type_in("data=sample")
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"{name}=abc: this environment variable must be a whole number" in stderr


@pytest.mark.parametrize("command", ["train.cli()", "from cifar10.cli import main; main()"])
def test_such_a_variable_is_named_before_lightning_reads_it(command, tmp_path):
    done = run_python(f"import train; {command}", tmp_path, RANK="abc")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: RANK=abc: ")


@pytest.mark.parametrize("number", ["9999", "'9999'"])
def test_more_processes_than_a_machine_can_start_are_refused(number, type_in):
    code, stderr = type_in("data=sample", f"trainer.devices={number}", "trainer.accelerator=cpu")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "trainer.devices=9999: must be at most" in stderr
