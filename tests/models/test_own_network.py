"""A user's own network: one Python file and one YAML file."""

import os
import subprocess
import sys

import pytest
from torch import nn

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import instantiate
from cifar10.core.settings import ROOT
from cifar10.training.classifier import Classifier

NETWORK = """
from torch import nn


class MyNet(nn.Module):
    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * 225, num_classes),
        )

    def forward(self, images):
        return self.layers(images)


class Flat(nn.Module):
    def forward(self, images):
        return images.flatten(1)


class Two(nn.Module):
    def forward(self, images):
        return images, images


class Broken(nn.Module):
    def forward(self, images):
        return self.nothing(images)


class Integers(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10].long()


class Exits(nn.Module):
    def __init__(self):
        raise SystemExit(3)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a user's network."""
    (tmp_path / "mynet.py").write_text(NETWORK)
    (tmp_path / "my configs" / "model").mkdir(parents=True)
    (tmp_path / "my configs" / "model" / "mine.yaml").write_text(
        "_target_: mynet.MyNet\nwidth: 8\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR10_TRUST", "mynet")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return tmp_path


@pytest.mark.slow
def test_it_trains_and_predicts_in_the_folder_of_its_file(folder, cifar):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = ["--config-dir", "my configs", "data=sample", "model=mine", "trainer.max_epochs=1"]
    words += ["hydra.run.dir=run", "report=false"]
    subprocess.run([sys.executable, ROOT / "train.py", *words], env=environment, check=True)
    sample = ROOT / "cifar10" / "data" / "sample.png"
    code, out, _ = cifar("predict", sample, "--model", "run", "--csv")
    assert code == 0
    assert len(out.splitlines()) == 6  # header and five classes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Flat", r"must return one logit per class, float \(N, 10\), not float32 \(N, 3072\)"),
        ("Two", "not tuple"),
        ("Broken", "cannot take images of 32x32 pixels: .*nothing"),
        ("Missing", "has no attribute 'Missing'"),
        ("Integers", r"not int64 \(N, 10\)"),
        ("Exits", "model: SystemExit: 3"),
    ],
)
def test_a_network_that_does_not_fit_is_reported_in_one_line(folder, settings, name, message):
    composed = settings()
    optimizer, scheduler = composed["optimizer"], composed["scheduler"]
    with pytest.raises(SettingError, match=message) as error:
        Classifier({"_target_": f"mynet.{name}"}, optimizer, scheduler, 0.0, False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def x(:", r"SyntaxError: .*mynet.py, line 1"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
    ],
)
def test_a_file_that_cannot_be_imported_is_reported_in_one_line(folder, text, message):
    (folder / "mynet.py").write_text(text)
    with pytest.raises(SettingError, match=message) as error:
        instantiate({"_target_": "mynet.MyNet"}, "model", nn.Module)
    assert "\n" not in str(error.value)


def test_its_file_is_not_run_unless_it_is_trusted(folder, monkeypatch):
    monkeypatch.setenv("CIFAR10_TRUST", "")
    (folder / "mynet.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(SettingError, match="CIFAR10_TRUST"):
        instantiate({"_target_": "mynet.MyNet"}, "model", nn.Module)
