"""A run neither replaces another run's files nor takes them for its own."""

import shutil

import hydra
import pytest
import torch
from hydra import initialize_config_dir

from cifar10.core.errors import SettingError, UserError
from cifar10.core.settings import CONFIGS, compose_settings
from cifar10.inference.evaluate import evaluate_model
from cifar10.inference.report import draw_report
from cifar10.launch import prepare
from cifar10.runs.components import build_components
from cifar10.runs.load import load
from cifar10.runs.result import read_result
from cifar10.runs.resume import resolve_settings
from cifar10.runs.run import run
from cifar10.runs.signals import Interrupted, signals
from cifar10.training.classifier import Classifier
from tests.processes import TINY
from tests.runs.test_identity import assert_refused

SAVE = "+callbacks.x._target_=lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.mark.parametrize(
    "typed",
    [
        ["+callbacks.best.dirpath=SHARED"],
        ["callbacks.best.filename=mine", "+callbacks.best.dirpath=SHARED"],
        [SAVE, "+callbacks.x.dirpath=SHARED", "+callbacks.x.enable_version_counter=false"],
        ["+callbacks.best.dirpath=SHARED", "callbacks.best.filename='{epoch}'"],
    ],
)
def test_a_second_run_replaces_no_checkpoint_of_the_first(typed, tiny, tmp_path):
    shared = tmp_path / "shared"
    words = [word.replace("SHARED", str(shared)) for word in typed]
    run(tiny(*words), tmp_path / "first")
    before = {path: path.read_bytes() for path in shared.iterdir()}
    with pytest.raises(UserError, match="it belongs to another run, started 20"):
        run(tiny(*words, "seed=1"), tmp_path / "second")
    assert {path: path.read_bytes() for path in shared.iterdir()} == before
    load(tmp_path / "first")


def test_an_existing_checkpoint_is_refused_before_training(tiny, tmp_path):
    (tmp_path / "best.ckpt").touch()
    typed = [*TINY, f"+callbacks.best.dirpath={tmp_path}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", typed)
    with pytest.raises(SettingError, match=r"best.ckpt: already exists, possibly from another run"):
        prepare(config, tmp_path / "run", typed)
    assert not (tmp_path / "run").exists()


def test_the_last_checkpoint_stays_in_the_folder_of_its_run(tiny, tmp_path, caplog):
    with pytest.raises(SettingError, match=r"callbacks.last.dirpath=.*resumes from the file in"):
        build_components(tiny(f"+callbacks.last.dirpath={tmp_path}"), tmp_path / "run")
    run(tiny("~callbacks.last"), tmp_path / "run")
    assert "without callbacks.last, this run cannot be resumed" in caplog.text


def test_figures_are_never_drawn_from_the_checkpoint_of_another_run(finished, tiny, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    run(tiny("seed=1"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "best.ckpt", folder)
    for path in (folder, folder / "best.ckpt"):
        for use in (load, lambda path: evaluate_model(path, "val")):
            with pytest.raises(UserError, match=r"best.ckpt: it belongs to another run"):
                use(path)
    with pytest.raises(UserError, match=r"best.ckpt: it belongs to another run"):
        draw_report(folder)
    (folder / "result.json").write_text("of another program")
    load(folder / "best.ckpt")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Settings and folder of a run that was interrupted in its third epoch; its first best.ckpt."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    chosen = compose_settings(*TINY, "trainer.max_epochs=3", "optimizer.lr=0.01")
    saved = []
    with pytest.MonkeyPatch.context() as patch:
        original = Classifier.training_step

        def training_step(self, batch, index):
            if self.global_step in (4, 9):
                saved.append((folder / "best.ckpt").read_bytes())
                signals.received = 15 if self.global_step == 9 else None
            return original(self, batch, index)

        patch.setattr(Classifier, "training_step", training_step)
        with pytest.raises(Interrupted):
            run(chosen, folder)
    signals.received = None
    assert saved[0] != saved[1]
    return chosen, folder, saved[0]


def missing(path, earlier, other):
    path.unlink()


def of_another_run(path, earlier, other):
    shutil.copy(other / "best.ckpt", path)


def of_an_earlier_epoch(path, earlier, other):
    path.write_bytes(earlier)


def damaged(path, earlier, other):
    path.write_bytes(earlier[:999])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing, "the run's best checkpoint is missing"),
        (of_another_run, "it belongs to another run"),
        (of_an_earlier_epoch, r"its val/loss is 2\.\d+, but the run's best is 2\."),
        (damaged, "not a valid checkpoint"),
    ],
)
def test_a_best_checkpoint_that_is_not_the_runs_best_is_refused_on_resume(
    change, message, stopped, finished, tmp_path
):
    settings, original, earlier = stopped
    folder = shutil.copytree(original, tmp_path / "run")
    change(folder / "best.ckpt", earlier, finished.folder)
    assert_refused(settings, folder, f"best.ckpt: {message}")


def test_a_newer_best_checkpoint_is_accepted_after_a_kill(stopped, tmp_path):
    settings, original, _ = stopped
    folder = shutil.copytree(original, tmp_path / "run")
    newer = torch.load(folder / "best.ckpt") | {"global_step": 12}
    torch.save(newer, folder / "best.ckpt")
    earlier = read_result(folder / "result.json")
    longer = settings | {"trainer": settings["trainer"] | {"max_epochs": 4}}
    with pytest.raises(
        UserError, match=r"newer than last\.ckpt, .*; resume once with unchanged limits"
    ):
        run(longer, folder, earlier=earlier)
    assert run(settings, folder, earlier=earlier)["status"] == "ok"


def test_a_missing_best_checkpoint_that_a_newer_one_replaced_is_accepted(stopped, tmp_path):
    settings, original, _ = stopped
    folder = shutil.copytree(original, tmp_path / "run")
    newer = torch.load(folder / "best.ckpt") | {"global_step": 12}
    (folder / "sub").mkdir()
    torch.save(newer, folder / "sub" / "newer.ckpt")
    (folder / "best.ckpt").unlink()
    assert run(settings, folder, earlier=read_result(folder / "result.json"))["status"] == "ok"


def test_a_moved_run_keeps_its_best_checkpoint_in_its_own_folder(
    settings, tmp_path, monkeypatch, signal_at
):
    monkeypatch.chdir(tmp_path)
    folder, moved = tmp_path / "run", tmp_path / "moved"
    typed = [*TINY, "trainer.max_epochs=3", "+callbacks.best.dirpath=run/kept"]
    chosen = resolve_settings(settings(*typed), None, folder, typed)[0]
    assert chosen["callbacks"]["best"]["dirpath"] == "kept"
    signal_at(9)
    with pytest.raises(Interrupted):
        run(chosen, folder, typed)
    signals.received = None
    signal_at(-1)
    folder.rename(moved)
    score = best_score(moved)
    chosen, earlier, _ = resolve_settings(settings(), str(moved), moved, [])
    run(chosen, moved, earlier=earlier)
    assert best_score(moved) <= score
    assert (moved / "kept" / "best.ckpt").exists() and not folder.exists()


def best_score(folder):
    states = torch.load(folder / "last.ckpt")["callbacks"].values()
    return next(s["best_model_score"] for s in states if s.get("monitor") == "val/loss")


def test_snapshots_that_do_not_choose_the_result_may_be_deleted(tiny, tmp_path):
    typed = [SAVE, "+callbacks.x.save_top_k=-1", "+callbacks.x.filename='s-{epoch}'"]
    run(tiny(*typed), tmp_path, typed)
    for path in tmp_path.glob("s-*"):
        path.unlink()
    longer = tiny(*typed, "trainer.max_epochs=2")
    earlier = read_result(tmp_path / "result.json")
    assert run(longer, tmp_path, earlier=earlier)["epochs"] == 2


STATEFUL = """
from pathlib import Path
from lightning.pytorch.callbacks import Callback


class Paths(Callback):
    def state_dict(self):
        return {"seen": Path("x")}


class Lambda(Callback):
    def state_dict(self):
        return {"seen": lambda: 0}


class Later(Callback):
    seen = None

    def on_train_start(self, *_):
        self.seen = {Path("x")}

    def state_dict(self):
        return {"seen": self.seen}


class Extra(Callback):
    def on_save_checkpoint(self, trainer, module, checkpoint):
        checkpoint["seen"] = {1: Path("x")}
"""


@pytest.mark.parametrize("name", ["Paths", "Lambda", "Extra", "Later"])
def test_a_callback_whose_state_cannot_be_loaded_is_refused(name, tiny, tmp_path, monkeypatch):
    (tmp_path / "stateful.py").write_text(STATEFUL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CIFAR10_TRUST", "tests stateful")
    settings = tiny(f"+callbacks.x._target_=stateful.{name}")
    what = {"Extra": r"checkpoint\['seen'\]", "Later": "callback Later"}.get(name, "callbacks.x")
    with pytest.raises(SettingError, match=f"{what}: its state cannot be loaded safely"):
        run(settings, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.ckpt"))
