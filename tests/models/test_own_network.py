"""A network from outside the package: one file, one YAML of three lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from cifar10.core.errors import SettingError
from cifar10.core.instantiate import instantiate

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


class Whole(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10].long()


class Ends(nn.Module):
    def __init__(self):
        raise SystemExit(3)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a network of one's own."""
    (tmp_path / "mynet.py").write_text(NETWORK)
    (tmp_path / "my configs" / "model").mkdir(parents=True)
    (tmp_path / "my configs" / "model" / "mine.yaml").write_text(
        "# my network\n_target_: mynet.MyNet\nwidth: 8\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR10_TRUST", "mynet")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return tmp_path


def test_it_trains_and_predicts_from_where_its_file_is(place):
    folder = Path(train.__file__).parent
    environment = os.environ | {"PYTHONPATH": str(folder)}
    words = ["--config-dir", "my configs", "data=sample", "model=mine", "trainer.max_epochs=1"]
    words += ["hydra.run.dir=run", "callbacks.gallery=null"]
    subprocess.run([sys.executable, folder / "train.py", *words], env=environment, check=True)
    sample = folder / "cifar10" / "data" / "sample.png"
    words = [sys.executable, "-c", "from cifar10.cli import main; main()"]
    words += ["predict", sample, "--model", "run", "--csv"]
    said = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    assert len(said.stdout.splitlines()) == 6  # a head and five classes


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Flat", r"must return one logit per class, float \(N, 10\), not float32 \(N, 3072\)"),
        ("Two", "not tuple"),
        ("Broken", "cannot take images.*nothing"),
        ("Missing", "has no attribute 'Missing'"),
        ("Whole", r"not int64 \(N, 10\)"),
        ("Ends", "model: 3"),
    ],
)
def test_a_network_that_does_not_fit_is_told_in_one_line(place, settings, name, says):
    from cifar10.training.classifier import Classifier

    chosen = settings()
    with pytest.raises(SettingError, match=says) as error:
        Classifier(
            {"_target_": f"mynet.{name}"},
            chosen["optimizer"],
            chosen["scheduler"],
            0.0,
            False,
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def x(:", r"SyntaxError: .*mynet.py, line 1"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_in_one_line(place, text, says):
    from torch import nn

    (place / "mynet.py").write_text(text)
    sys.modules.pop("mynet", None)
    with pytest.raises(SettingError, match=says) as error:
        instantiate({"_target_": "mynet.MyNet"}, "model", nn.Module)
    assert "\n" not in str(error.value)


def test_its_file_is_not_run_unless_it_is_trusted(place, monkeypatch):
    from torch import nn

    monkeypatch.setenv("CIFAR10_TRUST", "")
    (place / "mynet.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(SettingError, match="CIFAR10_TRUST"):
        instantiate({"_target_": "mynet.MyNet"}, "model", nn.Module)
