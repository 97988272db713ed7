"""Whole runs on the sample: determinism, the chosen checkpoint, result.json, errors."""

import shutil

import pytest
import torch
from lightning.pytorch.plugins import Precision
from torch.nn import functional as F

from cifar10.core.errors import UserError
from cifar10.runs.result import read_result
from cifar10.runs.run import run
from cifar10.training.classifier import Classifier


def weights(folder, name="last"):
    return torch.load(folder / f"{name}.ckpt")["state_dict"]


def equal(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(trained, settings, tmp_path):
    typed = ["data=sample", "trainer.max_epochs=2", "+trainer.limit_train_batches=8"]
    first = read_result(trained / "result.json")
    again = run(settings(*typed), tmp_path / "again")
    other = run(settings(*typed, "trainer.max_epochs=1", "seed=1"), tmp_path / "other")
    assert equal(weights(trained), weights(tmp_path / "again"))
    assert first["test"] == again["test"]
    assert first["history"][0]["train/loss"] != other["history"][0]["train/loss"]
    assert not equal(weights(trained), weights(tmp_path / "other"))
    assert first["data"]["val_digest"] == other["data"]["val_digest"]


def test_the_test_figures_are_those_of_the_best_checkpoint(finished, sample):
    result, folder = finished.result, finished.folder
    best = min(result["history"], key=lambda epoch: epoch["val/loss"])
    assert result["best_epoch"] == best["epoch"]
    assert result["val"]["loss"] == best["val/loss"]
    assert torch.load(folder / "best.ckpt")["epoch"] + 1 == best["epoch"]
    assert_figures(result["test"], folder / "best.ckpt", sample)


def assert_figures(test, checkpoint, sample):
    """Compare a run's test figures with a direct computation."""
    model = Classifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    with torch.no_grad():
        logits = model(sample.test_images)
    ranking = logits.argsort(dim=1, descending=True)
    for k in (1, 3, 5):
        hits = (ranking[:, :k] == sample.test_labels[:, None]).any(dim=1).double().mean()
        assert test[f"top{k}"] == pytest.approx(hits.item(), abs=2e-6)
    loss = F.cross_entropy(logits, sample.test_labels).item()
    assert test["loss"] == pytest.approx(loss, abs=1e-4)


def test_after_a_worse_epoch_the_best_checkpoint_is_tested_and_the_last_is_saved(
    tiny, tmp_path, monkeypatch, sample
):
    def spoil(self):
        if self.current_epoch == 1:
            with torch.no_grad():
                self.network[5].bias[0] = 100.0

    monkeypatch.setattr(Classifier, "on_validation_start", spoil, raising=False)
    result = run(tiny("trainer.max_epochs=2", "trainer.precision=32-true"), tmp_path)
    first, second = result["history"]
    assert second["val/loss"] > first["val/loss"] == result["val"]["loss"]
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == 1
    assert torch.load(tmp_path / "best.ckpt")["epoch"] == 0
    assert result["best_epoch"] == 1
    assert result["checkpoint"] == "best.ckpt"
    assert_figures(result["test"], tmp_path / "best.ckpt", sample)


def test_without_validation_images_the_last_epoch_is_tested(tiny, tmp_path):
    (tmp_path / "best.ckpt").write_bytes(b"of another run")
    limit = ("+trainer.limit_test_batches=1", "data.batch_size=100")
    result = run(tiny("data.val_size=0", "trainer.max_epochs=2", *limit), tmp_path)
    assert result["status"] == "ok"
    assert (result["best_epoch"], result["checkpoint"]) == (2, "last.ckpt")
    assert result["val"] == {}
    assert result["data"]["val"] == 0
    assert result["data"]["validation"] is None
    assert (result["data"]["tested"], result["data"]["test"]) == (100, 500)


def test_validation_on_the_test_set_is_recorded_and_warned_about(tiny, tmp_path, caplog):
    result = run(tiny("data.validation=test"), tmp_path)
    assert result["data"]["validation"] == "test"
    assert result["data"]["train"] == 1000
    assert result["val"] == result["test"]
    assert "selects the checkpoint on the test set" in caplog.text


def test_a_result_records_settings_versions_hardware_figures_and_times(finished):
    result = read_result(finished.folder / "result.json")
    assert result == finished.result
    assert result["status"] == "ok"
    assert result["error"] is None
    assert result["overrides"] == ["data=sample"]
    assert result["config"] == finished.settings
    assert len(result["commit"] or "0" * 40) == 40
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["parameters"] == 5_370
    assert result["epochs"] == 2
    assert result["precision"]["reason"]
    assert set(result["test"]) == {"loss", "top1", "top3", "top5"}
    assert result["test"]["top1"] <= result["test"]["top3"] <= result["test"]["top5"] <= 1
    assert result["data"]["tested"] == 500
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
def test_a_run_that_an_error_ends_has_a_result_and_the_last_epochs_checkpoint(
    error, status, tiny, tmp_path, monkeypatch
):
    def broken(self, batch, index):
        if self.current_epoch == 1:
            raise error
        return training_step(self, batch, index)

    training_step = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", broken)
    with pytest.raises((SystemExit, KeyboardInterrupt, UserError)):
        run(tiny("trainer.max_epochs=3"), tmp_path)
    result = read_result(tmp_path / "result.json")
    assert result["status"] == status
    assert result["error"]
    assert result["epochs"] == result["best_epoch"] == 1
    assert "test" not in result
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == 0
    assert not list(tmp_path.glob(".*tmp"))


def test_a_folder_holds_one_run(finished):
    before = (finished.folder / "result.json").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run.*hydra\.run\.dir="):
        run(finished.settings, finished.folder)
    assert (finished.folder / "result.json").read_bytes() == before


def test_a_test_loss_that_is_not_finite_fails_the_run(tiny, tmp_path, monkeypatch):
    def spoil(self):
        with torch.no_grad():
            self.network[5].bias[0] = float("nan")

    monkeypatch.setattr(Classifier, "on_test_start", spoil, raising=False)
    with pytest.raises(UserError, match="test/loss is nan"):
        run(tiny(), tmp_path)
    assert read_result(tmp_path / "result.json")["status"] == "failed"


def test_only_epochs_with_validation_and_the_last_have_validation_figures(tiny, tmp_path):
    chosen = tiny("trainer.max_epochs=3", "+trainer.check_val_every_n_epoch=2")
    result = run(chosen, tmp_path)
    assert ["val/loss" in epoch for epoch in result["history"]] == [False, True, True]
    assert all("train/loss" in epoch for epoch in result["history"])
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+trainer.limit_test_batches=0", "limit_test_batches: leaves nothing to test"),
        ("trainer.limit_train_batches=0", "limit_train_batches, .*: leaves nothing to train"),
        ("callbacks.best.monitor=foo", "callbacks.best.monitor=foo: no such metric; choose from"),
        ("+trainer.val_check_interval=100", "trainer.val_check_interval=100: must be 1.0"),
        ("+trainer.strategy=ddp_spawn", "trainer.strategy=ddp_spawn: not supported; use ddp"),
    ],
)
def test_a_setting_that_fails_only_while_training_is_named(override, message, tiny, tmp_path):
    with pytest.raises(UserError, match=message):
        run(tiny(override), tmp_path)
    assert read_result(tmp_path / "result.json")["status"] == "failed"


def test_a_first_step_that_overflows_in_fp16_is_not_warned_about(tiny, tmp_path, monkeypatch):
    step, skipped = Precision.optimizer_step, []

    def overflow_once(self, optimizer, model, closure, **options):
        if not skipped:
            return skipped.append(closure())
        return step(self, optimizer, model, closure, **options)

    monkeypatch.setattr(Precision, "optimizer_step", overflow_once)
    assert run(tiny("trainer.precision=32-true"), tmp_path)["status"] == "ok"
    assert len(skipped) == 1


def test_an_out_of_memory_error_names_the_batch_size(tiny, tmp_path, monkeypatch):
    def full(self, batch, index):
        raise torch.OutOfMemoryError("tried to allocate\n2 GiB")

    monkeypatch.setattr(Classifier, "training_step", full)
    with pytest.raises(UserError, match=r"data.batch_size=\d+: out of memory; .* 2 GiB"):
        run(tiny(), tmp_path)


def test_a_folder_that_is_removed_during_a_run_is_named(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def remove(self, batch, index):
        shutil.rmtree(folder)
        raise OSError(2, "No such file")

    monkeypatch.setattr(Classifier, "training_step", remove)
    with pytest.raises(UserError, match="run was removed while the run was writing to it"):
        run(tiny("~logger"), folder)
