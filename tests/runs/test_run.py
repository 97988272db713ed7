"""Whole runs on the sample: determinism, checkpoints, result.json, logs."""

import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.nn import functional as F

from cifar10.core.errors import UserError
from cifar10.reports.run_report import render_page
from cifar10.runs import result as results
from cifar10.runs.components import build_components
from cifar10.runs.console import summary
from cifar10.runs.run import run
from cifar10.training.classifier import Classifier


def weights(folder, name="last"):
    return torch.load(folder / f"{name}.ckpt")["state_dict"]


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tiny, tmp_path):
    first = run(tiny("trainer.max_epochs=2"), tmp_path / "1")
    again = run(tiny("trainer.max_epochs=2"), tmp_path / "2")
    other = run(tiny("trainer.max_epochs=2", "seed=1"), tmp_path / "3")
    assert same(weights(tmp_path / "1"), weights(tmp_path / "2"))
    assert first["test"] == again["test"]
    assert not same(weights(tmp_path / "1"), weights(tmp_path / "3"))
    assert first["data"]["val_digest"] == other["data"]["val_digest"]


def test_what_the_seed_changes_besides_the_weights_is_the_order(settings, tmp_path):
    def order(seed):
        parts = build_components(settings("data=sample", f"seed={seed}"), tmp_path)
        parts.data.setup()
        return torch.cat([labels for _, labels in parts.data.train_dataloader()])

    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))


def test_the_test_figures_are_those_of_the_best_checkpoint(tiny, tmp_path, sample):
    result = run(tiny("trainer.max_epochs=2", "trainer.precision=32-true"), tmp_path)
    best = min(result["history"], key=lambda epoch: epoch["val/loss"])
    assert result["best_epoch"] == best["epoch"]
    assert result["val"]["loss"] == best["val/loss"]
    assert torch.load(tmp_path / "best.ckpt")["epoch"] + 1 == best["epoch"]
    assert_figures(result["test"], tmp_path / "best.ckpt", sample)


def assert_figures(test, checkpoint, sample):
    """Compare a run's test figures with a pass by hand."""
    model = Classifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    with torch.no_grad():
        logits = model(sample.test_images)
    ranking = logits.argsort(dim=1, descending=True)
    for k in (1, 3, 5):
        hits = (ranking[:, :k] == sample.test_labels[:, None]).any(dim=1).double().mean()
        assert test[f"top{k}"] == pytest.approx(hits.item(), abs=2e-6)
    loss = F.cross_entropy(logits, sample.test_labels).item()
    assert test["loss"] == pytest.approx(loss, abs=1e-4)


def test_when_an_epoch_got_worse_last_goes_on_and_best_is_tested(
    tiny, tmp_path, monkeypatch, sample
):
    def spoil(self):
        if self.current_epoch == 1:
            with torch.no_grad():
                self.network.fc4.bias[0] = 100.0

    monkeypatch.setattr(Classifier, "on_validation_start", spoil, raising=False)
    result = run(tiny("trainer.max_epochs=2", "trainer.precision=32-true"), tmp_path)
    first, second = result["history"]
    assert second["val/loss"] > first["val/loss"] == result["val"]["loss"]
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == 1
    assert torch.load(tmp_path / "best.ckpt")["epoch"] == 0
    assert result["best_epoch"] == 1
    assert result["checkpoint"] == "best.ckpt"
    assert_figures(result["test"], tmp_path / "best.ckpt", sample)


def test_without_validation_the_last_epoch_is_the_result(tiny, tmp_path):
    result = run(tiny("data.val_size=0", "trainer.max_epochs=2"), tmp_path)
    assert result["status"] == "ok"
    assert (result["best_epoch"], result["checkpoint"]) == (2, "last.ckpt")
    assert result["val"] == {}
    assert result["data"]["val"] == 0
    assert result["data"]["validation"] is None


def test_validation_on_the_test_set_names_itself(tiny, tmp_path, caplog):
    result = run(tiny("data.validation=test"), tmp_path)
    assert result["data"]["validation"] == "test"
    assert result["data"]["train"] == 1000
    assert result["val"] == result["test"]
    assert "validation is the TEST SET" in caplog.text


def test_a_result_says_all_that_is_needed_to_believe_it(tiny, tmp_path):
    returned = run(tiny(), tmp_path, ["data=sample"])
    result = results.read_result(tmp_path / "result.json")
    assert result == returned
    assert result["status"] == "ok"
    assert result["error"] is None
    assert result["overrides"] == ["data=sample"]
    assert len(result["commit"] or "0" * 40) == 40
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["parameters"] == 2_791_434
    assert result["epochs"] == 1
    assert result["precision"]["reason"]
    assert set(result["test"]) == {"loss", "top1", "top3", "top5"}
    assert result["test"]["top1"] <= result["test"]["top3"] <= result["test"]["top5"] <= 1
    assert result["images_per_second"] > 0
    parts = ("set_up", "training", "evaluation")
    assert 0 < sum(result["seconds"][part] for part in parts) <= result["seconds"]["total"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "interrupted"),
        (OSError(5), "failed"),
    ],
)
def test_a_run_that_breaks_off_leaves_a_result_and_its_last_epoch(
    error, status, tiny, tmp_path, monkeypatch
):
    def broken(self, batch, index):
        if self.current_epoch == 1:
            raise error
        return training_step(self, batch, index)

    training_step = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", broken)
    with pytest.raises((SystemExit, KeyboardInterrupt, OSError)):
        run(tiny("trainer.max_epochs=3"), tmp_path)
    result = results.read_result(tmp_path / "result.json")
    assert result["status"] == status
    assert result["error"]
    assert result["epochs"] == result["best_epoch"] == 1
    assert "test" not in result
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == 0
    assert not list(tmp_path.glob(".*tmp"))


def test_a_folder_takes_one_run(tiny, tmp_path):
    run(tiny(), tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run.*hydra\.run\.dir="):
        run(tiny(), tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


def test_tensorboard_has_the_curves_and_an_hparams_page_with_val_and_test(tiny, tmp_path):
    result = run(tiny("trainer.max_epochs=2", "trainer.log_every_n_steps=1"), tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    curves = set(events.Tags()["scalars"])
    split = {f"{s}/{m}" for s in ("val", "test") for m in ("loss", "top1", "top3", "top5")}
    assert split | {"train/loss", "train/top1", "train/lr", "train/images_per_second"} <= curves
    # Two epochs, two points: nothing made up at the start.
    assert len(events.Scalars("val/loss")) == 2
    assert events.Scalars("test/top1")[-1].value == pytest.approx(result["test"]["top1"])
    rates = [event.value for event in events.Scalars("train/lr")]
    assert len(rates) == 8
    peak = 0.2 * 8
    expected = [0.07 * min((s + 1) / (peak + 1), (8 - s) / (8 - peak)) for s in range(8)]
    assert rates == pytest.approx(expected, rel=1e-5)

    def page(tag):
        content = events.summary_metadata[tag].plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content)

    names = {m.name.tag for m in page("_hparams_/experiment").experiment.metric_infos}
    assert names == split
    shown = page("_hparams_/session_start_info").session_start_info.hparams
    assert shown["optimizer.lr"].number_value == 0.07
    assert shown["model"].string_value == "ConvNet"
    assert shown["seed"].number_value == 0
    assert not any("dir" in name for name in shown)


def test_a_test_loss_that_is_not_finite_fails_the_run(tiny, tmp_path, monkeypatch):
    def spoil(self):
        with torch.no_grad():
            self.network.fc4.bias[0] = float("nan")

    monkeypatch.setattr(Classifier, "on_test_start", spoil, raising=False)
    with pytest.raises(UserError, match="the test/loss is nan"):
        run(tiny(), tmp_path)
    assert results.read_result(tmp_path / "result.json")["status"] == "failed"


def test_an_epoch_without_validation_repeats_no_figures(tiny, tmp_path):
    chosen = tiny("trainer.max_epochs=3", "+trainer.check_val_every_n_epoch=2")
    result = run(chosen, tmp_path)
    assert ["val/loss" in epoch for epoch in result["history"]] == [False, True, False]
    assert all("train/loss" in epoch for epoch in result["history"])
    assert result["best_epoch"] == 2
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == 2


def test_on_a_terminal_a_bar_counts_epochs_from_1(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    run(tiny("trainer.max_epochs=2"), tmp_path)
    shown = capsys.readouterr().out
    assert "epoch 1/2 " in shown
    assert "Epoch 0" not in shown


def test_csv_logs_where_asked_for(tiny, tmp_path):
    run(tiny("logger=csv"), tmp_path)
    assert "val/loss" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


def test_a_run_says_how_many_test_images_it_scored_and_that_no_epoch_was_chosen(tiny, tmp_path):
    limited = ("+trainer.limit_test_batches=1", "data.batch_size=100", "data.val_size=0")
    result = run(tiny(*limited), tmp_path / "limited")
    assert result["data"]["tested"] == 100
    table = summary(result, tmp_path)
    assert re.search(r"tested on +100 of 500 images", table)
    assert re.search(r"last epoch +1 of 1", table)
    assert "Only 100 of 500 test images" in render_page(result, "", {})
    whole = run(tiny(), tmp_path / "whole")
    assert whole["data"]["tested"] == 500
    assert "tested on" not in summary(whole, tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        run(tiny(), tmp_path / "file" / "run")


def test_a_checkpoint_that_was_left_there_is_not_taken_for_this_runs(tiny, tmp_path):
    (tmp_path / "best.ckpt").write_bytes(b"another run's")
    result = run(tiny("data.val_size=0"), tmp_path)
    assert result["checkpoint"] == "last.ckpt"
    assert result["best_epoch"] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+trainer.limit_test_batches=0", "nothing was tested"),
        ("trainer.limit_train_batches=0", "no step was trained"),
        ("callbacks.best.monitor=foo", "monitor='foo'"),
        ("+trainer.val_check_interval=100", "val_check_interval"),
        ("+trainer.strategy=ddp_spawn", "trainer.strategy=ddp_spawn: must start processes"),
    ],
)
def test_what_only_shows_while_training_is_named_as_well(override, message, tiny, tmp_path):
    with pytest.raises(UserError, match=message):
        run(tiny(override), tmp_path)
    assert results.read_result(tmp_path / "result.json")["status"] == "failed"
