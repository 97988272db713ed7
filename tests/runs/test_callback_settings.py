"""Callbacks from settings: monitors, modes, files, early stops."""

import itertools
import json

import pytest
import torch
from lightning.pytorch.callbacks import Timer

from cifar10.core.errors import SettingError
from cifar10.runs.components import build_components
from cifar10.runs.result import read_result
from cifar10.runs.resume import resolve_settings
from cifar10.runs.run import run
from cifar10.runs.trainer_settings import profile_files

STOP = "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping"
SAVE = "+callbacks.x._target_=lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([STOP, "+callbacks.stop.monitor=val_loss"], "callbacks.stop.monitor=val_loss: no such"),
        ([SAVE, "+callbacks.x.monitor=val/top2"], "choose from train/loss, .*, val/top5"),
        (["+callbacks.best.mode=max"], "val/loss needs mode=min"),
        (["callbacks.best.monitor=val/top3", "+callbacks.best.mode=min"], "needs mode=max"),
        ([STOP, "+callbacks.stop.monitor=val/top1", "+callbacks.stop.mode=min"], "mode=max"),
        (["+callbacks.best.every_n_train_steps=2"], "weights with an earlier val/loss"),
        (["+callbacks.best.save_on_train_epoch_end=true"], "save_on_train_epoch_end=false"),
        (
            ["callbacks=ema", "+callbacks.best.save_weights_only=true"],
            "save_weights_only=true: the file would lack the average",
        ),
        (["+callbacks.best.save_top_k=3"], "the files need different names"),
        (["+callbacks.best.save_last=true"], "callbacks.last already saves last.ckpt"),
        (["callbacks.best.filename=last"], "reserved for callbacks.last"),
        ([SAVE, "+callbacks.x.filename=best"], "also the file of callbacks.best"),
        ([STOP, "+callbacks.stop.monitor=val/loss", "data.val_size=0"], "no validation images"),
        (
            [STOP, "+callbacks.stop.monitor=val/loss", "+trainer.limit_val_batches=0"],
            "no validation images",
        ),
        (
            [STOP, "+callbacks.stop.monitor=train/loss", "+trainer.check_val_every_n_epoch=2"],
            "trainer.check_val_every_n_epoch=2: must be 1 with callbacks.stop",
        ),
        (["+callbacks.best.dirpath=5"], "callbacks.best.dirpath=5: must be text"),
        *(
            ([f"callbacks.best.filename='{name}'"], "must have metrics alone in braces")
            for name in ("x{val/loss].a[b}", "{epoch!r}", "{epoch:{step}}", "{", "a}")
        ),
        (["+callbacks.x=5"], "callbacks.x=5: must be a group"),
        (["+callbacks.x={}"], "callbacks.x._target_: missing; set the full name"),
        (
            [STOP, "+callbacks.stop.monitor=val/loss", "+callbacks.stop.patience=-1"],
            "callbacks.stop.patience=-1: must be at least 0",
        ),
        (
            [
                "+callbacks.x._target_=lightning.pytorch.callbacks.LearningRateMonitor",
                "~logger",
            ],
            "LearningRateMonitor needs a logger",
        ),
    ],
)
def test_what_would_save_or_stop_by_a_wrong_metric_is_refused(overrides, message, tiny, tmp_path):
    with pytest.raises(SettingError, match=message) as error:
        build_components(tiny(*overrides), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metric", ["val/loss", "val/top1", "val/top5", "train/loss", "train/top1"])
def test_the_best_epoch_is_kept_by_any_metric(metric, tiny, tmp_path):
    typed = (f"callbacks.best.monitor={metric}", "trainer.max_epochs=4", "optimizer.lr=0.3")
    result = run(tiny(*typed), tmp_path)
    choose = min if metric.endswith("loss") else max
    best = choose(result["history"], key=lambda epoch: epoch[metric])
    assert result["history"][result["best_epoch"] - 1][metric] == best[metric]
    assert torch.load(tmp_path / "best.ckpt")["epoch"] + 1 == result["best_epoch"]
    assert result["chosen_by"] == metric


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [
        (["+trainer.max_steps=6"], 2),
        (["+trainer.max_steps=11", "callbacks.best.monitor=train/top1"], 3),
        (["+trainer.max_time=00:01:00:00"], 1),
        (["+trainer.check_val_every_n_epoch=2"], 3),
        ([STOP, "+callbacks.stop.monitor=val/loss", "+callbacks.stop.stopping_threshold=9"], 1),
        (["+trainer.max_steps=6", "+trainer.accumulate_grad_batches=2"], 3),
    ],
)
def test_a_training_is_validated_and_saved_wherever_it_ends(
    flags, epochs, tiny, tmp_path, monkeypatch
):
    elapsed = itertools.chain([0], itertools.repeat(1e9))  # seconds: the time is up after a step
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: next(elapsed))
    result = run(tiny("trainer.max_epochs=3", *flags), tmp_path)
    assert result["epochs"] == epochs
    assert {"val/loss", "train/loss", "train/top1"} <= set(result["history"][-1])
    assert (result["stopped"] is None) == (
        epochs == 3 and not any("max_steps=11" in f for f in flags)
    )
    last = torch.load(tmp_path / "last.ckpt")
    steps = [value["epoch"] for value in last["callbacks"]["History"]["by_step"].values()]
    assert steps[-1] == epochs
    if result["best_epoch"] == epochs:
        assert torch.load(tmp_path / "best.ckpt")["global_step"] == last["global_step"]


def test_an_early_stop_is_recorded_and_may_be_changed_on_resume(tiny, settings, tmp_path):
    stop = [STOP, "+callbacks.stop.monitor=val/loss", "+callbacks.stop.stopping_threshold=9"]
    typed = ["trainer.max_epochs=3", *stop]
    result = run(tiny(*typed), tmp_path, typed)
    assert result["stopped"] == "callbacks.stop: val/loss reached 9"

    def resume(*words):
        return resolve_settings(settings(*words), str(tmp_path), tmp_path, list(words))

    assert resume()[2]
    with pytest.raises(SettingError, match=r"trainer.max_epochs=8: the run stopped early, after"):
        resume("trainer.max_epochs=8")
    for word in ("+callbacks.stop.stopping_threshold=0.1", "++callbacks.stop=null"):
        changed, earlier, finished = resume(word)
        assert not finished
    result = run(changed, tmp_path, [word], earlier=earlier)
    assert (result["epochs"], result["stopped"]) == (3, None)


def test_a_run_on_a_part_of_the_data_is_marked(tiny, tmp_path):
    partial = ["+trainer.fast_dev_run=true", "+trainer.limit_val_batches=0.5"]
    result = run(tiny(*partial), tmp_path)
    assert result["status"] == "ok"
    assert read_result(tmp_path / "result.json")["partial"] == {
        "trainer.fast_dev_run": True,
        "trainer.limit_train_batches": 4,
        "trainer.limit_val_batches": 0.5,
    }
    assert result["checkpoint"] is None


@pytest.mark.parametrize(
    ("profiler", "file"),
    [
        ("simple", "fit-profile.txt"),
        ("advanced", "fit-profile.txt"),
        ("{_target_:lightning.pytorch.profilers.SimpleProfiler,filename:mine}", "fit-mine.txt"),
        ("{_target_:lightning.pytorch.profilers.SimpleProfiler,filename:a/b}", "fit-a_b.txt"),
    ],
)
def test_a_profile_is_saved_in_the_run_folder(profiler, file, tiny, tmp_path):
    components = build_components(settings := tiny(f"trainer.profiler={profiler}"), tmp_path)
    run(settings, tmp_path, components=components)
    assert "run_training_batch" in (tmp_path / file).read_text()
    assert tmp_path / file in profile_files(components.trainer.profiler)


def test_integer_keys_and_tuples_train_and_resume(tiny, tmp_path):
    typed = [
        "+callbacks.x._target_=lightning.pytorch.callbacks.GradientAccumulationScheduler",
        "+callbacks.x.scheduling={0:1,1:2}",
        *("optimizer=adamw", "+optimizer.betas=[0.9,0.95]", "trainer.max_epochs=2"),
    ]
    first = run(tiny(*typed), tmp_path, typed)
    assert json.loads((tmp_path / "result.json").read_text())["history"] == first["history"]
    longer = [*typed, "trainer.max_epochs=3"]
    resolved = resolve_settings(tiny(*longer), str(tmp_path), tmp_path, longer)
    result = run(resolved[0], tmp_path, longer, earlier=resolved[1])
    last = torch.load(tmp_path / "last.ckpt")
    assert last["global_step"] == 4 + 2 + 2
    assert last["lr_schedulers"][0]["last_epoch"] == 8
    assert result["history"][-1]["train/lr"] > 0


def test_the_metric_of_an_own_callback_needs_its_direction(tiny, tmp_path, monkeypatch):
    text = "from lightning.pytorch import Callback\nclass Count(Callback):\n"
    text += "    def on_validation_end(self, trainer, module):\n"
    text += "        trainer.callback_metrics['mine'] = __import__('torch').tensor(\n"
    text += "            float(trainer.current_epoch))\n"
    (tmp_path / "counts.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CIFAR10_TRUST", "tests counts")
    typed = ["+callbacks.x._target_=counts.Count", "callbacks.best.monitor=mine"]
    wrong = [typed[0], "callbacks.best.monitor=val_loss"]
    with pytest.raises(
        SettingError, match=r"monitor=val_loss: no such metric; did you mean val/lo"
    ):
        build_components(tiny(*wrong), tmp_path / "run")
    with pytest.raises(SettingError, match=r"callbacks.best.mode: required with monitor=mine"):
        build_components(tiny(*typed), tmp_path / "run")
    typed += ["+callbacks.best.mode=max", "trainer.max_epochs=2"]
    result = run(tiny(*typed), tmp_path / "run")
    assert (result["best_epoch"], result["chosen_by"], result["mode"]) == (2, "mine", "max")


@pytest.mark.parametrize("kind", ["stop_of_mine.Patience", "lightning.pytorch.callbacks.Timer"])
def test_whatever_only_stops_a_training_may_be_left_out_on_resume(
    kind, tiny, settings, tmp_path, monkeypatch
):
    text = "from lightning.pytorch.callbacks import EarlyStopping\n"
    (tmp_path / "stop_of_mine.py").write_text(f"{text}class Patience(EarlyStopping): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CIFAR10_TRUST", "tests stop_of_mine")
    typed = [f"+callbacks.stop._target_={kind}", "trainer.max_epochs=3"]
    typed += (
        ["+callbacks.stop.duration=00:00:00:01"]
        if "Timer" in kind
        else ["+callbacks.stop.monitor=val/loss", "+callbacks.stop.stopping_threshold=9"]
    )
    monkeypatch.setattr(  # the time is up once the training has started
        Timer, "time_elapsed", lambda timer, *_: 1e9 if timer.start_time() else 0
    )
    assert run(tiny(*typed), tmp_path / "run", typed)["stopped"]
    word = "++callbacks.stop=null"
    chosen, earlier, finished = resolve_settings(
        settings(word), str(tmp_path / "run"), tmp_path / "run", [word]
    )
    assert not finished
    assert run(chosen, tmp_path / "run", [word], earlier=earlier)["epochs"] == 3
