"""Resuming a run: which settings may change, how its logs continue, runs of version 0.1."""

import csv
import json
import shutil

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar10.core.errors import SettingError, UserError
from cifar10.core.legacy import MOVED
from cifar10.runs import resume
from cifar10.runs.result import (
    read_result,
    record_failure,
    recorded_settings,
    repeat_command,
    settings_digest,
    write_result,
)
from cifar10.runs.run import run
from cifar10.runs.signals import Interrupted, signals
from cifar10.training.classifier import Classifier


@pytest.mark.parametrize("step", [1, 4, 6])
def test_curves_continue_without_a_gap_and_without_duplicates(step, finished, tmp_path, signal_at):
    signal_at(step)
    with pytest.raises(Interrupted):
        run(finished.settings, tmp_path)
    signals.received = None
    signal_at(-1)
    run(finished.settings, tmp_path, earlier=read_result(tmp_path / "result.json"))

    def points(folder):
        events = EventAccumulator(str(folder)).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if "images_per_second" not in tag]
        return {tag: sorted((e.step, e.value) for e in events.Scalars(tag)) for tag in tags}

    def rows(folder):
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{k: v for k, v in row.items() if "images_per_second" not in k} for row in rows]

    assert points(tmp_path) == points(finished.folder)
    assert rows(tmp_path) == rows(finished.folder)


@pytest.mark.parametrize(
    "override",
    ["trainer.max_epochs=7", "logger=csv", "~logger", "data.dir=/elsewhere", "threads=1"],
)
def test_duration_location_and_display_may_change(override, settings):
    recorded, now = settings("seed=3"), settings(override)
    merged = resume.merge(recorded, now, [override])
    assert merged == settings("seed=3", override)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optimizer.lr=0.5", "optimizer.lr=0.5: the run has optimizer.lr="),
        ("model=airnet", "model._target_=cifar10.models.airnet.AirNet"),
        ("seed=4", "seed=4: the run has seed=3"),
        ("experiment=original", "data.flip=none"),
        ("+trainer.limit_train_batches=3", "the run has no trainer.limit_train_batches"),
        ("~callbacks.best", "the run has callbacks.best"),
    ],
)
def test_a_change_of_the_result_is_rejected_by_name(override, named, settings):
    with pytest.raises(SettingError, match=r"cannot change on resume") as error:
        resume.merge(settings("seed=3"), settings(override), [override])
    assert named in str(error.value)


def test_changed_defaults_do_not_change_a_recorded_run(settings):
    typed = ["experiment=airnet94", "seed=3"]
    recorded = settings(*typed)
    recorded["label_smoothing"] = 0.15
    now = settings("seed=3")
    now["label_smoothing"] = 0.3
    assert resume.merge(recorded, now, ["seed=3"]) == recorded


def test_a_group_that_was_left_out_can_be_added(settings):
    typed = ["+logger.tensorboard.flush_secs=5"]
    merged = resume.merge(settings("logger.tensorboard=null"), settings(*typed), typed)
    assert merged["logger"]["tensorboard"]["flush_secs"] == 5


def test_an_overridden_data_folder_is_kept_on_resume(settings):
    first = ["data.dir=/big", "data.download=false"]
    merged = resume.merge(settings(*first), settings(), [], first)
    assert merged["data"]["dir"] == "/big"
    assert merged["data"]["download"] is False
    assert resume.merge(settings(*first), settings(), [])["data"]["download"] is True


def test_settings_that_were_changed_in_the_record_are_rejected(finished):
    result = read_result(finished.folder / "result.json")
    assert recorded_settings(result, finished.folder) == finished.settings
    result["config"]["optimizer"]["lr"] *= 2
    with pytest.raises(UserError, match="its settings were changed or are corrupted"):
        recorded_settings(result, finished.folder)


def test_more_epochs_stretch_the_schedule_from_the_first_step_on(
    tiny, finished, tmp_path, monkeypatch
):
    rates = []
    step = Classifier.training_step

    def recorded(self, batch, index):
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return step(self, batch, index)

    monkeypatch.setattr(Classifier, "training_step", recorded)
    run(tiny(), tmp_path, ["seed=0"])
    rates.clear()
    earlier = read_result(tmp_path / "result.json")
    longer = tiny("trainer.max_epochs=2")
    result = run(longer, tmp_path, ["trainer.max_epochs=2"], earlier=earlier)
    logged = EventAccumulator(str(finished.folder)).Reload().Scalars("train/lr")
    assert rates == pytest.approx([event.value for event in logged][4:], rel=1e-5)
    command = repeat_command(result).partition("\n")[0]
    assert command == "python train.py && python train.py resume=RUN trainer.max_epochs=2"


def test_a_finished_run_without_its_checkpoints_is_not_trained_anew(finished, tmp_path):
    folder = shutil.copytree(
        finished.folder, tmp_path / "run", ignore=shutil.ignore_patterns("last.*", "previous.*")
    )
    settings = json.loads(json.dumps(finished.settings))
    settings["trainer"]["max_epochs"] = 3
    before = (folder / "result.json").read_bytes()
    with pytest.raises(UserError, match=r"last.ckpt is missing, .* counts 2 trained epochs"):
        run(settings, folder, earlier=read_result(folder / "result.json"))
    assert (folder / "result.json").read_bytes() == before


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_truncated_csv_rows_are_dropped_and_complete_rows_survive_a_second_kill(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n1,0.5\n2,0.4\n3,0.3\n4")
    resume.continue_logs([logger], 3)
    assert path.read_text().split() == ["step,train/loss", "1,0.5", "2,0.4"]
    path.rename(tmp_path / ".metrics.before.csv")  # killed before the new writer has saved
    resume.continue_logs([CSVLogger(tmp_path, name="", version="")], 3)
    assert path.read_text().split() == ["step,train/loss", "1,0.5", "2,0.4"]


def old_names(value):
    """Nested settings with the class names of version 0.1."""
    old = {new: name for name, new in MOVED.items()}
    if isinstance(value, dict):
        return {key: old_names(item) for key, item in value.items()}
    return old.get(value, value) if isinstance(value, str) else value


def as_version_0_1(folder, settings):
    """Give a run's result and checkpoints the form that version 0.1 wrote."""
    config = old_names({key: value for key, value in settings.items() if key != "report"})
    config["keep_hardest"] = [1.0]
    config["data"] |= {"crops": [32], "sizes": [32]}
    config["callbacks"]["gallery"] = {"_target_": "cifar10.gallery.Gallery"}
    assert config["optimizer"]["_target_"] == "cifar10.optim.Muon"
    result = read_result(folder / "result.json")
    digest = settings_digest(config)
    write_result(folder, result | {"config": config, "config_digest": digest})
    for path in folder.glob("*.ckpt"):
        checkpoint = torch.load(path)
        arguments = old_names(checkpoint["hyper_parameters"]) | {"keep_hardest": [1.0]}
        torch.save(checkpoint | {"hyper_parameters": arguments}, path)


def test_a_run_of_version_0_1_loads_and_resumes(finished, tmp_path):
    import cifar10

    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    as_version_0_1(folder, finished.settings)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = cifar10.load(finished.folder, "cpu").predict(images)
    assert torch.equal(cifar10.load(folder, "cpu").predict(images), expected)

    earlier = read_result(folder / "result.json")
    settings = recorded_settings(earlier, folder)
    assert settings == finished.settings | {"report": True}
    settings["trainer"]["max_epochs"] = 3
    result = run(settings, folder, ["trainer.max_epochs=3"], earlier=earlier)
    assert result["status"] == "ok"
    assert [epoch["epoch"] for epoch in result["history"]] == [1, 2, 3]
    assert result["history"][:2] == finished.result["history"]


def test_a_job_that_failed_before_it_started_is_tried_again(tmp_path, settings):
    record_failure(tmp_path, ["seed=0"], SettingError("timm is not installed"))
    assert resume.resolve_settings(settings(), "auto", tmp_path, []) == (settings(), None, False)
    assert not (tmp_path / "result.json").exists()


def test_a_pruned_run_is_finished(tmp_path, settings):
    recorded = settings()
    result = {"status": "pruned", "overrides": [], "config": recorded, "epochs": 1}
    write_result(tmp_path, result | {"config_digest": settings_digest(recorded)})
    assert resume.resolve_settings(recorded, "auto", tmp_path, [])[2]
