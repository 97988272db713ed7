"""Going on with a run: what may change, what comes back, what the logs show."""

import csv
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar10 import results, resume
from cifar10.errors import Interrupted, SettingError, UserError
from cifar10.run import run
from cifar10.signals import signals


@pytest.fixture
def ask_to_stop(monkeypatch):
    """Has the run behave as if a signal came during its nth training step."""

    def ask(step):
        from cifar10.classifier import Classifier

        original = Classifier.training_step

        def training_step(self, batch, index):
            if self.global_step == step - 1:
                signals.asked = 15
            return original(self, batch, index)

        monkeypatch.setattr(Classifier, "training_step", training_step)

    yield ask
    signals.asked = None


def interrupt(ask_to_stop, step, settings, folder):
    ask_to_stop(step)
    with pytest.raises(Interrupted):
        run(settings, folder)
    signals.asked = None
    earlier = results.read(folder / results.NAME)
    assert earlier["status"] == "interrupted"
    return earlier


LOGGED = ("trainer.max_epochs=3", "trainer.log_every_n_steps=1", "logger=csv")
TENSORBOARD = ("+logger/more@logger=tensorboard",)


@pytest.mark.parametrize("step", [1, 6, 8])
def test_curves_go_on_without_a_gap_and_without_doubles(step, tiny, tmp_path, ask_to_stop):
    settings = tiny(*LOGGED)
    settings["logger"] |= tiny()["logger"]
    run(settings, tmp_path / "whole")
    earlier = interrupt(ask_to_stop, step, settings, tmp_path / "parts")
    ask_to_stop(-1)
    run(settings, tmp_path / "parts", earlier=earlier)

    def points(folder):
        events = EventAccumulator(str(folder)).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if "images_per_second" not in tag]
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}

    def rows(folder):
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{k: v for k, v in row.items() if "images_per_second" not in k} for row in rows]

    assert points(tmp_path / "parts") == points(tmp_path / "whole")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_weight_averages_come_back(tiny, tmp_path, ask_to_stop):
    settings = tiny(
        "trainer.max_epochs=2",
        "+callbacks.average._target_=lightning.pytorch.callbacks.EMAWeightAveraging",
        "+callbacks.average.decay=0.5",
    )
    run(settings, tmp_path / "whole")
    earlier = interrupt(ask_to_stop, 6, settings, tmp_path / "parts")
    run(settings, tmp_path / "parts", earlier=earlier)
    whole, parts = (torch.load(tmp_path / name / "last.ckpt") for name in ("whole", "parts"))
    for kind in ("state_dict", "current_model_state"):
        for key, value in whole[kind].items():
            assert torch.equal(value, parts[kind][key]), key


def test_a_moved_run_goes_on_in_its_new_place(tiny, tmp_path, ask_to_stop):
    settings = tiny("trainer.max_epochs=2")
    earlier = interrupt(ask_to_stop, 6, settings, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "there")  # Lightning compares resolved paths
    result = run(settings, tmp_path / "link", earlier=earlier)
    assert result["checkpoint"] == "best.ckpt"
    assert not (tmp_path / "here").exists()
    state = torch.load(tmp_path / "there" / "last.ckpt")["callbacks"]
    paths = [s["best_model_path"] for s in state.values() if "best_model_path" in s]
    assert all(path.startswith(str(tmp_path / "there")) for path in paths)


def test_a_run_that_another_process_has_is_left_alone(tiny, tmp_path):
    lock = results.claim(tmp_path, {"status": "running"})
    try:
        with pytest.raises(UserError, match="in use by another process"):
            run(tiny(), tmp_path, earlier={"overrides": [], "started": ""})
    finally:
        lock.release()


@pytest.mark.parametrize(
    "override",
    ["trainer.max_epochs=7", "logger=csv", "~logger", "data.dir=/elsewhere", "threads=1"],
)
def test_how_long_where_and_what_is_shown_may_change(override, settings):
    recorded, now = settings("seed=3"), settings(override)
    merged = resume.merge(recorded, now, [override])
    assert merged == settings("seed=3", override)


@pytest.mark.parametrize(
    "override,named",
    [
        ("optimizer.lr=0.5", "optimizer.lr=0.5: the run has optimizer.lr="),
        ("model=airnet", "model._target_=cifar10.models.airnet.AirNet"),
        ("seed=4", "seed=4: the run has seed=3"),
        ("experiment=original", "data.flip=none"),
        ("+trainer.limit_train_batches=3", "the run has no trainer.limit_train_batches"),
        ("~callbacks.best", "the run has callbacks.best"),
    ],
)
def test_what_would_make_it_another_run_is_refused_by_name(override, named, settings):
    with pytest.raises(SettingError, match=r"the run has") as error:
        resume.merge(settings("seed=3"), settings(override), [override])
    assert named in str(error.value)


def test_an_unchanged_command_line_changes_nothing_though_defaults_moved_on(settings):
    typed = ["experiment=airnet94", "seed=3"]
    recorded = settings(*typed)
    recorded["label_smoothing"] = 0.15
    moved_on = settings("seed=3")
    moved_on["label_smoothing"] = 0.3
    assert resume.merge(recorded, moved_on, ["seed=3"]) == recorded


def test_settings_that_were_changed_in_the_record_are_refused(tiny, tmp_path):
    run(tiny(), tmp_path)
    path = tmp_path / results.NAME
    result = json.loads(path.read_text())
    assert results.config(result, tmp_path) == tiny()
    result["config"]["optimizer"]["lr"] *= 2
    with pytest.raises(UserError, match="other settings than its run wrote"):
        results.config(result, tmp_path)
