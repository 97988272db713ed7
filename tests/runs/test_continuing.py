"""Resuming and extending runs that use a user's own networks, schedules and callbacks."""

import pytest
import torch

from cifar10.core.errors import SettingError, UserError
from cifar10.core.settings import compose_settings, flatten, json_keys, restore_keys, unflatten
from cifar10.runs.components import build_components
from cifar10.runs.load import load
from cifar10.runs.result import read_result, repeat_command
from cifar10.runs.resume import resolve_settings
from cifar10.runs.run import run
from cifar10.runs.signals import Interrupted, signals
from tests.processes import TINY

PARTS = "tests.runs.continuing_parts"
OWN = f"+callbacks.x._target_={PARTS}"
STOP = (
    "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
    "+callbacks.stop.monitor=val/loss",
    "+callbacks.stop.patience=1",
    "+callbacks.stop.min_delta=100",
)


def start(folder, *words, rates=None):
    """Run with settings; `rates`, as a YAML file can hold them, are an argument of the network."""
    settings = compose_settings(*TINY, *words)
    settings["model"] |= {"rates": rates} if rates else {}
    return run(settings, folder, list(words))


def resume(folder, *words):
    """Continue a run as the command line does; None if there is nothing left to train."""
    settings = compose_settings(*words)
    chosen, earlier, finished = resolve_settings(settings, str(folder), folder, list(words))
    return None if finished else run(chosen, folder, list(words), earlier=earlier)


@pytest.mark.parametrize("keys", [{1: 0}, {"1": 0}, {0.5: 0}, {-1: 0}, {"a.b": 0}, {"true": 0}])
def test_keys_survive_json_and_merging(keys):
    stored = json_keys(keys)
    assert restore_keys(stored) == keys
    assert [type(key) for key in restore_keys(stored)] == [type(key) for key in keys]
    assert unflatten(flatten({"group": {"x": keys, "y": 1}})) == {"group": {"x": keys, "y": 1}}


NAMED = f"model._target_={PARTS}.Named"
STEPS = (
    f"scheduler._target_={PARTS}.Steps",
    "~scheduler.warmup",
    "+scheduler.factors={-1:1,0.5:0.1,0.75:0.01}",
)


@pytest.mark.parametrize(
    ("words", "rates"),
    [
        ((NAMED,), {"3": 0.3}),
        ((NAMED,), {"layer.3": 0.3}),
        (STEPS, None),
        ((f"{OWN}.Freezes",), None),
    ],
)
def test_an_interrupted_run_of_own_parts_ends_as_an_undisturbed_one(
    words, rates, tmp_path, signal_at
):
    words = (*words, "trainer.max_epochs=2")
    undisturbed = start(tmp_path / "whole", *words, rates=rates)
    signal_at(6)
    with pytest.raises(Interrupted):
        start(tmp_path / "cut", *words, rates=rates)
    signals.received = None
    signal_at(-1)
    resumed = resume(tmp_path / "cut")
    for key in ("config", "test", "val"):
        assert resumed[key] == undisturbed[key]
    states = [torch.load(tmp_path / name / "last.ckpt")["state_dict"] for name in ("whole", "cut")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_rebuilt_network_has_the_same_arguments(tmp_path):
    start(tmp_path / "run", NAMED, rates={"3": 0.3})
    assert load(tmp_path / "run").network[3].p == 0.3


def test_a_changed_patience_counts_on_resume(tmp_path):
    result = start(tmp_path, "trainer.max_epochs=5", *STOP)
    assert (result["epochs"], result["stopped"] is None) == (2, False)
    result = resume(tmp_path, "++callbacks.stop.patience=9")
    assert (result["epochs"], result["stopped"]) == (5, None)


def test_a_kill_right_after_continuing_keeps_what_was_changed(tmp_path, signal_at):
    start(tmp_path, "trainer.max_epochs=4", *STOP)
    signal_at(9)
    with pytest.raises(Interrupted):
        resume(tmp_path, "++callbacks.stop=null")
    signals.received = None
    signal_at(-1)
    result = resume(tmp_path)
    assert (result["epochs"], result["stopped"]) == (4, None)


def test_a_run_that_an_own_callback_stopped_can_continue(tmp_path):
    assert start(tmp_path, "trainer.max_epochs=3", f"{OWN}.Stops")["epochs"] == 2
    assert resume(tmp_path, "trainer.max_epochs=3") is None
    assert resume(tmp_path, "trainer.max_epochs=4")["epochs"] == 4


def test_fewer_epochs_than_are_trained_are_refused(tmp_path, signal_at):
    signal_at(10)
    with pytest.raises(Interrupted):
        start(tmp_path, "trainer.max_epochs=4")
    signals.received = None
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(SettingError, match="max_epochs=1: the run has trained 2 epochs already"):
        resume(tmp_path, "trainer.max_epochs=1")
    assert (tmp_path / "result.json").read_bytes() == before


def test_a_schedule_that_cannot_be_stretched_leaves_the_result(tmp_path):
    words = ("scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "+scheduler.max_lr=0.1")
    start(tmp_path, "optimizer=sgd", *words, "~scheduler.warmup")
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(SettingError, match=r"OneCycleLR cannot change its length"):
        resume(tmp_path, "trainer.max_epochs=2")
    assert (tmp_path / "result.json").read_bytes() == before


def test_the_file_that_a_resume_requires_is_the_one_that_is_tested(tmp_path, signal_at):
    more = "+callbacks.top._target_=lightning.pytorch.callbacks.ModelCheckpoint"
    words = (more, "+callbacks.top.monitor=val/top1", "+callbacks.top.filename=top")
    signal_at(10)
    with pytest.raises(Interrupted):
        start(tmp_path, "trainer.max_epochs=3", *words)
    signals.received = None
    signal_at(-1)
    (tmp_path / "best.ckpt").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"best.ckpt: the run's best checkpoint is missing"):
        resume(tmp_path)
    (tmp_path / "away").rename(tmp_path / "best.ckpt")
    (tmp_path / "top.ckpt").unlink()
    assert resume(tmp_path)["checkpoint"] == "best.ckpt"


def test_views_can_be_added_to_an_older_best_checkpoint(tmp_path):
    start(tmp_path, "optimizer.lr=3")
    result = resume(tmp_path, "trainer.max_epochs=2", "test_views=true")
    assert result["test_views"]


def test_a_repeated_setting_is_recorded_when_it_differs_from_the_last(tmp_path, signal_at):
    for step, epochs in ((2, 2), (4, 3), (6, 2)):
        signal_at(step)
        with pytest.raises(Interrupted):
            (start if step == 2 else resume)(tmp_path, f"trainer.max_epochs={epochs}")
        signals.received = None
    recorded = read_result(tmp_path / "result.json")
    command = repeat_command(recorded).partition("\n")[0]
    assert command.endswith("resume=RUN trainer.max_epochs=2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((f"{OWN}.Probe",), r"callbacks: one of them adds the weight probe"),
        ((f"{OWN}.Circular",), r"callbacks.x: ValueError: of itself"),
        (
            (f"model._target_={PARTS}.ExtraState",),
            r"model: _extra_state of .* is not a tensor",
        ),
    ],
)
def test_what_no_checkpoint_can_hold_is_refused_before_the_first_step(words, message, tmp_path):
    with pytest.raises(SettingError, match=message) as error:
        start(tmp_path / "run", *words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        (f"model._target_={PARTS}.OfNormalImages",),
        (f"model._target_={PARTS}.Whitened",),
        (f"{OWN}.Uploads",),
        (f"{OWN}.LastCheckpointLog",),
    ],
)
def test_what_works_in_plain_lightning_works(words, tmp_path):
    assert start(tmp_path, *words)["status"] == "ok"


def test_the_folder_of_an_own_callback_is_left_alone(tmp_path):
    words = (*TINY, f"{OWN}.Writes", f"+callbacks.x.dirpath={tmp_path}/run/preds")
    settings = resolve_settings(compose_settings(*words), None, tmp_path / "run", words)[0]
    assert settings["callbacks"]["x"]["dirpath"] == f"{tmp_path}/run/preds"


@pytest.mark.parametrize("metric", ["train/top5", "val/top10", "val/loss2"])
def test_a_metric_of_an_own_callback_may_be_like_one_of_ours(metric, tmp_path):
    words = (f"{OWN}.Stops", f"callbacks.best.monitor={metric}", "+callbacks.best.mode=max")
    build_components(compose_settings(*TINY, *words), tmp_path)
