"""A checkpoint that is not the run's own is refused, and the run's record stays as it was."""

import shutil

import pytest
import torch

from cifar10.core.errors import SettingError, UserError
from cifar10.core.own_code import read_module
from cifar10.runs.result import read_result, write_result
from cifar10.runs.run import run
from cifar10.runs.signals import Interrupted, signals

OTHERS = {
    "another seed": (["seed=3"], "other settings: data.seed=3 instead of 0, seed=3 instead of 0"),
    "another network": (["model._target_=cifar10.models.convnet.ConvNet"], "other settings: model"),
    "another optimizer": (["optimizer=sgd"], "other settings: optimizer._target_=torch.optim.SGD"),
    "another flag": (["+trainer.gradient_clip_val=1"], "trainer.gradient_clip_val=1 instead of"),
    "the same settings": ([], "another run, started"),
}


@pytest.fixture
def interrupted(tiny, tmp_path, signal_at):
    """The settings and the folder of a run that was interrupted in its second epoch."""
    signal_at(6)
    settings = tiny("trainer.max_epochs=2")
    with pytest.raises(Interrupted):
        run(settings, tmp_path / "run")
    signals.received = None
    signal_at(-1)
    return settings, tmp_path / "run"


def assert_refused(settings, folder, message):
    """Resuming fails twice in the same way and leaves result.json byte for byte."""
    before = (folder / "result.json").read_bytes()
    for _ in range(2):
        with pytest.raises(UserError, match=message) as error:
            run(settings, folder, earlier=read_result(folder / "result.json"))
        assert "\n" not in str(error.value)
        assert (folder / "result.json").read_bytes() == before


@pytest.mark.parametrize("kind", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(kind, interrupted, tiny, tmp_path, monkeypatch):
    settings, folder = interrupted
    overrides, message = OTHERS[kind]
    monkeypatch.setattr("cifar10.runs.run.datetime", Later)
    run(tiny("trainer.max_epochs=2", *overrides), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "last.ckpt", folder / "last.ckpt")
    assert_refused(settings, folder, message)


class Later:
    """A clock that is years ahead."""

    @staticmethod
    def now():
        from datetime import datetime

        return datetime(2100, 1, 1)


def no_states(state):
    state["optimizer_states"][0]["state"] = {}


def no_optimizer(state):
    state["optimizer_states"] = []


def other_shape(state):
    state["state_dict"]["network.5.weight"] = torch.zeros(10, 3)


def other_name(state):
    state["state_dict"]["network.9.weight"] = state["state_dict"].pop("network.5.weight")


def other_data(state):
    state["run"]["data"] = "0" * 64


def other_code(state):
    state["run"]["digests"] = {"module mine": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_states, "its optimizer state is incomplete"),
        (no_optimizer, "its optimizer state is missing or damaged"),
        (other_shape, r"weight 5.weight has shape \(10, 3\), in the network \(10, 512\)"),
        (other_name, "it lacks weight 5.weight"),
        (other_data, "run on other images"),
        (other_code, "saved before module mine, .* changed; undo the change"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change, message, interrupted):
    settings, folder = interrupted
    state = torch.load(folder / "last.ckpt")
    change(state)
    torch.save(state, folder / "last.ckpt")
    assert_refused(settings, folder, message)


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_other_images_are_refused_after_any_end(status, interrupted):
    settings, folder = interrupted
    result = read_result(folder / "result.json")  # a killed run leaves status running
    write_result(folder, result | {"status": status, "data": {**result["data"], "digest": "0"}})
    assert_refused(settings, folder, "the images of sample have changed")


def test_lost_checkpoints_are_noticed_after_a_kill(tiny, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cifar10.runs.run.write_final_result", lambda *_: None)
    monkeypatch.setattr("cifar10.runs.run.test", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), tmp_path)
    monkeypatch.undo()
    assert read_result(tmp_path / "result.json")["status"] == "running"
    assert read_result(tmp_path / "result.json")["data"]["digest"]
    for path in tmp_path.glob("*.ckpt"):
        path.unlink()
    assert_refused(tiny(), tmp_path, "last.ckpt is missing, although result.json counts 1 trained")


def test_an_epoch_counts_once_its_checkpoint_exists(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise UserError("No space left on device")

    monkeypatch.setattr("cifar10.runs.last_checkpoint.LastCheckpoint._save_checkpoint", full)
    with pytest.raises(UserError, match="No space"):
        run(tiny(), tmp_path)
    monkeypatch.undo()
    earlier = read_result(tmp_path / "result.json")
    assert (earlier["status"], earlier["epochs"], earlier["history"]) == ("failed", 0, [])
    assert run(tiny(), tmp_path, earlier=earlier)["status"] == "ok"


def test_an_edit_of_the_users_own_network_is_noticed_but_not_of_its_comments(
    tiny, tmp_path, monkeypatch, signal_at
):
    import importlib
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR10_TRUST", "tests edited")
    text = "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self):\n"
    text += "        super().__init__(nn.Flatten(), nn.Linear(3072, 10), nn.{}())\n"
    settings = tiny("trainer.max_epochs=2") | {"model": {"_target_": "edited.Net"}}

    def write(activation, comment=""):
        (tmp_path / "edited.py").write_text(comment + text.format(activation))
        sys.modules.pop("edited", None)
        read_module.cache_clear()
        importlib.invalidate_caches()

    write("ReLU")
    signal_at(6)
    with pytest.raises(Interrupted):
        run(settings, tmp_path / "run")
    signals.received = None
    signal_at(-1)
    write("Tanhshrink")
    assert_refused(settings, tmp_path / "run", "saved before module edited changed; undo")
    write("ReLU", "# the same network\n")
    earlier = read_result(tmp_path / "run" / "result.json")
    assert run(settings, tmp_path / "run", earlier=earlier)["status"] == "ok"


def test_a_chosen_checkpoint_that_is_gone_is_an_error(finished, tmp_path):
    from cifar10.runs.load import load

    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / "best.ckpt").unlink()
    with pytest.raises(SettingError, match=r"its checkpoint best.ckpt is missing"):
        load(folder)
