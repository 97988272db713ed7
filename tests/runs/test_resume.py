"""Going on with a run: what may change, what comes back, what the logs show."""

import csv
import json

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from cifar10.core.errors import SettingError, UserError
from cifar10.runs import checkpoint, resume
from cifar10.runs import result as results
from cifar10.runs.components import build_components
from cifar10.runs.last_checkpoint import LastCheckpoint
from cifar10.runs.run import run, step_of
from cifar10.runs.run_dir import claim_run_dir
from cifar10.runs.signals import Interrupted, signals
from cifar10.sweeps.grouping import group_over_seeds


@pytest.fixture
def ask_to_stop(monkeypatch):
    """Has the run behave as if a signal came during its nth training step."""

    def ask(step):
        from cifar10.training.classifier import Classifier

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
    earlier = results.read_result(folder / results.RESULT_FILE)
    assert earlier["status"] == "interrupted"
    return earlier


LOGGED = ("trainer.max_epochs=3", "trainer.log_every_n_steps=1", "logger=csv")


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
    lock = claim_run_dir(tmp_path, {"status": "running"})
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
    path = tmp_path / results.RESULT_FILE
    result = json.loads(path.read_text())
    assert results.recorded_settings(result, tmp_path) == tiny()
    result["config"]["optimizer"]["lr"] *= 2
    with pytest.raises(UserError, match="other settings than its run wrote"):
        results.recorded_settings(result, tmp_path)


def test_a_damaged_last_checkpoint_never_becomes_the_previous(
    tiny, tmp_path, ask_to_stop, monkeypatch
):
    settings = tiny("trainer.max_epochs=3")
    earlier = interrupt(ask_to_stop, 6, settings, tmp_path)
    last = tmp_path / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    ask_to_stop(-1)

    def full(*_, **__):
        raise UserError("no space")

    monkeypatch.setattr(checkpoint.AtomicCheckpointIO, "save_checkpoint", full)
    with pytest.raises(UserError, match="no space"):
        run(settings, tmp_path, earlier=earlier)
    path, _ = checkpoint.find_resumable(tmp_path)
    assert path.name == "previous.ckpt"


def test_a_checkpoint_without_its_run_is_nobodys(tiny, tmp_path, ask_to_stop):
    interrupt(ask_to_stop, 6, tiny("trainer.max_epochs=2"), tmp_path)
    (tmp_path / results.RESULT_FILE).unlink()
    with pytest.raises(UserError, match=r"holds a last.ckpt without its run's result.json"):
        run(tiny(), tmp_path)


def test_the_last_checkpoint_is_written_after_all_others(tiny, tmp_path):
    mine = "lightning.pytorch.callbacks.ModelCheckpoint"
    settings = tiny(f"+callbacks.mine._target_={mine}", "+callbacks.mine.monitor=val/top1")
    callbacks = build_components(settings, tmp_path).trainer.checkpoint_callbacks
    assert len(callbacks) == 3
    assert isinstance(callbacks[-1], LastCheckpoint)


@pytest.fixture
def die_before_the_test(monkeypatch):
    """Has a run end after its training as if it had been killed there."""

    def end(*_, **__):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning.Trainer.test", end)


def test_early_stopping_is_not_forgotten(tiny, tmp_path, die_before_the_test):
    settings = tiny(
        "trainer.max_epochs=3",
        "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
        "+callbacks.stop.monitor=val/loss",
        "+callbacks.stop.stopping_threshold=100",
    )
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path)
    result = run(settings, tmp_path, earlier=results.read_result(tmp_path / results.RESULT_FILE))
    assert result["epochs"] == 1


def test_the_last_of_max_steps_within_an_epoch_is_its_end(tiny, tmp_path, die_before_the_test):
    more = ("+trainer.max_steps=2", "callbacks.last.every_n_steps=1", "data.val_size=0")
    settings = tiny(*more)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path)
    result = run(settings, tmp_path, earlier=results.read_result(tmp_path / results.RESULT_FILE))
    assert result["epochs"] == 1


def test_more_epochs_stretch_the_schedule_from_the_first_step_on(tiny, tmp_path, monkeypatch):
    from cifar10.training.classifier import Classifier

    rates = []
    step = Classifier.training_step

    def noted(self, batch, index):
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return step(self, batch, index)

    monkeypatch.setattr(Classifier, "training_step", noted)
    run(tiny("trainer.max_epochs=2"), tmp_path / "straight")
    expected = rates[4:]
    rates.clear()
    run(tiny(), tmp_path / "parts", ["seed=0"])
    longer = tiny("trainer.max_epochs=2")
    earlier = results.read_result(tmp_path / "parts" / results.RESULT_FILE)
    result = run(longer, tmp_path / "parts", ["trainer.max_epochs=2"], earlier=earlier)
    assert rates[4:] == expected
    command = results.repeat_command(result)
    assert command.endswith("python train.py resume=RUN trainer.max_epochs=2")
    straight = results.read_result(tmp_path / "straight" / results.RESULT_FILE)
    assert len(group_over_seeds([result, straight])) == 2


def test_a_finished_run_without_its_checkpoints_is_not_trained_anew(tiny, tmp_path):
    run(tiny(), tmp_path)
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / name).unlink(missing_ok=True)
    earlier = results.read_result(tmp_path / results.RESULT_FILE)
    with pytest.raises(UserError, match=r"holds no last.ckpt of the 1 epochs"):
        run(tiny("trainer.max_epochs=2"), tmp_path, earlier=earlier)
    assert results.read_result(tmp_path / results.RESULT_FILE)["status"] == "failed"


def test_a_signal_at_the_very_end_of_training_stops_before_the_test(
    tiny, tmp_path, ask_to_stop, monkeypatch
):
    end = LastCheckpoint.on_train_epoch_end

    def late(self, *arguments):
        end(self, *arguments)
        signals.asked = 15

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", late)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path)
    assert results.read_result(tmp_path / results.RESULT_FILE)["status"] == "interrupted"


def test_an_error_while_a_signal_waits_stays_an_error(ask_to_stop):
    signals.asked = 15
    assert train.interruption(RuntimeError("a crash")) is None
    stop = Interrupted(15)
    wrapped = RuntimeError("composing failed")
    wrapped.__context__ = stop
    assert train.interruption(wrapped) is stop


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_rows_that_were_cut_are_left_out_and_a_second_kill_loses_none(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n1,0.5\n2,0.4\n3,0.3\n4")
    resume.continue_logs([logger], 3)
    assert path.read_text().split() == ["step,train/loss", "1,0.5", "2,0.4"]
    path.rename(tmp_path / ".metrics.before.csv")  # killed between making the writer and its save
    resume.continue_logs([CSVLogger(tmp_path, name="", version="")], 3)
    assert path.read_text().split() == ["step,train/loss", "1,0.5", "2,0.4"]


def test_a_group_that_was_left_out_can_come_back(settings):
    typed = ["+logger.tensorboard.flush_secs=5"]
    merged = resume.merge(settings("logger.tensorboard=null"), settings(*typed), typed)
    assert merged["logger"]["tensorboard"]["flush_secs"] == 5


def test_a_place_that_the_run_was_told_stays(settings):
    told = ["data.dir=/big", "data.download=false"]
    merged = resume.merge(settings(*told), settings(), [], told)
    assert merged["data"]["dir"] == "/big"
    assert merged["data"]["download"] is False
    assert resume.merge(settings(*told), settings(), [])["data"]["download"] is True


@pytest.mark.parametrize("data", [b"", b"PK", b"x" * 1000])
def test_a_damaged_best_checkpoint_has_no_step(data, tmp_path):
    (tmp_path / "best.ckpt").write_bytes(data)
    assert step_of(tmp_path / "best.ckpt") is None
