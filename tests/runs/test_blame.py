"""Errors of what a user configures or has written name the setting, and show the user's code."""

import importlib
import sys

import pytest

from cifar10.core.errors import SettingError
from cifar10.core.hydra_errors import report_errors
from cifar10.runs.components import build_components
from cifar10.runs.run import run

OWN = """
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(3072, num_classes)

    def forward(self, images):
        if self.training:
            self.helper(images)
        return self.layer(images.flatten(1))

    def helper(self, images):
        raise ValueError("only in training")


class Broken(Callback):
    def on_train_batch_end(self, *_):
        return 1 / 0


class Quits(Callback):
    def on_train_batch_end(self, *_):
        raise SystemExit("enough")


class Sometimes(nn.Module):
    def forward(self, image):
        if image.float().mean() > 60 and image[0, 0, 0] != image[0, 0, 1] - 1:
            raise RuntimeError("this image is too bright")
        return image


class Unbuilt(nn.Module):
    def __init__(self, num_classes=10):
        raise KeyError("width")


class Unfit(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(7, num_classes)

    def forward(self, images):
        return self.layer(images)


class Never(nn.Module):
    def forward(self, image):
        return image.nothing


class Rate(torch.optim.SGD):
    def __init__(self, params):
        super().__init__(params, lr=1 / 0)


class EMALike(Callback):
    def on_validation_start(self, trainer, module):
        self.kept = {k: v.clone() for k, v in module.state_dict().items()}
        module.load_state_dict({k: v * 0.5 for k, v in self.kept.items()})

    def on_validation_end(self, trainer, module):
        module.load_state_dict(self.kept)

    on_test_start, on_test_end = on_validation_start, on_validation_end
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The settings that choose a class of the user's file `own.py`."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR10_TRUST", "tests own")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return lambda name: {"_target_": f"own.{name}"}


@pytest.mark.parametrize(
    ("where", "name", "message", "line"),
    [
        ("model", "Net", "model: ValueError: only in training", "in helper"),
        ("callbacks", "Broken", "callbacks.x: ZeroDivisionError", "return 1 / 0"),
        ("callbacks", "Quits", "callbacks.x: SystemExit: enough", "raise SystemExit"),
        ("transform", "Sometimes", "data.transform: RuntimeError: this image is", "in forward"),
    ],
)
def test_an_error_of_the_users_code_shows_it_from_their_file_on(
    where, name, message, line, own, tiny, tmp_path
):
    settings = tiny()
    if where == "callbacks":
        settings["callbacks"]["x"] = own(name)
    elif where == "transform":
        settings["data"]["transform"] = [own(name)]
    else:
        settings["model"] = own(name)
    with pytest.raises(SettingError, match=message) as error:
        run(settings, tmp_path / "run")
    first, second, *_ = error.value.details.splitlines()
    assert first == "Traceback (most recent call last):"
    assert second.startswith(f'  File "{tmp_path}/own.py"')
    assert line in error.value.details
    assert "cifar10/" not in error.value.details


@pytest.mark.parametrize(
    ("where", "name", "line"),
    [
        ("model", "Unbuilt", 'raise KeyError("width")'),
        ("model", "Unfit", "return self.layer(images)"),
        ("data", "Unbuilt", 'raise KeyError("width")'),
        ("data", "Never", "return image.nothing"),
        ("optimizer", "Rate", "super().__init__(params, lr=1 / 0)"),
        ("scheduler", "Late", "import nothing_of_mine"),
    ],
)
def test_an_error_before_training_shows_the_users_file_too(
    where, name, line, own, tiny, tmp_path, monkeypatch, capsys
):
    (tmp_path / "unimportable_of_mine.py").write_text("import nothing_of_mine")
    importlib.invalidate_caches()
    monkeypatch.setenv("CIFAR10_TRUST", "tests own unimportable_of_mine")
    target = {"_target_": "unimportable_of_mine.Late"} if name == "Late" else own(name)
    settings = tiny()
    if where == "data":
        settings["data"]["transform"] = [target]
    else:
        settings[where] = target
    with pytest.raises(SystemExit), report_errors():
        build_components(settings, tmp_path / "run")
    first, second, *details, message = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert second.startswith(f'  File "{tmp_path}/')
    assert f"    {line}" in details
    assert message.startswith(f"error: {where}")
    assert "/cifar10/" not in "".join(details)


def test_a_callback_that_changes_the_weights_is_named_and_the_figures_are_those_of_the_file(
    own, tiny, tmp_path, caplog
):
    from cifar10.inference.evaluate import evaluate
    from cifar10.inference.splits import how_tested, read_split
    from cifar10.runs.load import load

    settings = tiny("trainer.max_epochs=2", "optimizer.lr=0.2")
    settings["callbacks"]["x"] = own("EMALike")
    result = run(settings, tmp_path / "run")
    assert "a callback changes them" in caplog.text
    assert "a callback changes the weights for the test" in caplog.text
    tested = how_tested(tmp_path / "run")
    for split in ("test", "val"):
        batches = read_split(tested, split)[0].batches(tested.data["batch_size"])
        scores, _ = evaluate(load(tmp_path / "run"), batches, tested.precision, views=False)
        assert {key: scores[key] for key in result[split]} == result[split]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+logger.tensorboard.flush_secs=abc"], "logger.tensorboard.flush_secs='abc': must be"),
        (["+trainer.accumulate_grad_batches=0"], "accumulate_grad_batches=0: must be at least 1"),
        (["+trainer.check_val_every_n_epoch=0"], "check_val_every_n_epoch=0: must be at least 1"),
        (["+trainer.gradient_clip_val=-1"], "gradient_clip_val=-1: must be at least 0"),
        (["+trainer.gradient_clip_val=x"], "gradient_clip_val='x': must be a number"),
        (["+trainer.gradient_clip_algorithm=x"], "gradient_clip_algorithm='x': must be 'norm'"),
        (["+trainer.max_steps=0"], "max_steps=0: must be"),
        (["+trainer.limit_val_batches=1.5"], "limit_val_batches=1.5: must be"),
        (["+trainer.overfit_batches=2"], "overfit_batches=2: not supported"),
        (["+trainer.min_epochs=0"], "min_epochs=0: must be"),
        (["+trainer.min_epochs=9"], "min_epochs=9: more than trainer.max_epochs=1"),
        (["+trainer.barebones=true"], "trainer.barebones=true: "),
        (["trainer.profiler=fast"], "trainer.profiler=fast: choose from simple"),
        (["+trainer.max_time=soon"], "trainer: .*soon"),
        (
            ["data.transform=[{_target_:torchvision.transforms.v2.MixUp,num_classes:10}]"],
            "data.transform: ",
        ),
        (
            ["data.transform=[{_target_:torchvision.transforms.v2.RandomCrop,size:50}]"],
            "data.transform: ValueError: Required crop size",
        ),
        (["data.transform=[{_target_:torch.nn.Flatten}]"], "data.transform: must return uint8"),
    ],
)
def test_what_cannot_work_is_refused_before_training_in_one_line(
    overrides, message, tiny, tmp_path
):
    with pytest.raises(SettingError, match=message) as error:
        build_components(tiny(*overrides), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
