"""Runs of every kind that are killed anywhere, and right after each save, end undisturbed."""

import functools
import signal

import pytest
from PIL import Image

from tests.faults.harness import SMALL, Run, die_after_saves, outcome, reference, same
from tests.faults.test_stops import until_finished

FEW = ("data.batch_size=20", "+trainer.limit_train_batches=4", "trainer.max_epochs=2")
BASE = tuple(word for word in SMALL if "model" not in word)


def callback(name: str, *settings: str) -> tuple[str, ...]:
    words = [f"+callbacks.x._target_=lightning.pytorch.callbacks.{name}"]
    return (*words, *(f"+callbacks.x.{setting}" for setting in settings))


NETWORKS = {
    "convnet": ("model=convnet", *FEW),
    "airnet": ("model=airnet", "model.widths=[32,32,32]", *FEW),
    "resnet18": ("model=resnet18", *FEW),
    "smaller images": ("model=airnet", "model.widths=[32,32,32]", *FEW, "data.sizes={1:24,2:28}"),
    "timm": ("model=timm", "model.name=resnet10t", *FEW),
}
# Settings that are added to those of the small run.
RECIPES = {
    "max_steps": ("+trainer.max_steps=13",),
    "max_steps, saves at epoch ends": (
        "+trainer.max_steps=13",
        "callbacks.last.every_n_steps=null",
    ),
    "max_steps at an epoch end": ("+trainer.max_steps=16",),
    "ema": ("callbacks=ema", "callbacks.ema.decay=0.8", "callbacks.last.every_n_steps=5"),
    "ema, started late": ("callbacks=ema", "callbacks.ema.start=11"),
    "early stopping": callback("EarlyStopping", "monitor=val/top1", "patience=1", "min_delta=0.5"),
    "accumulate": ("+trainer.accumulate_grad_batches=3",),
    "clip by norm": ("+trainer.gradient_clip_val=0.1",),
    "clip by value": ("+trainer.gradient_clip_val=0.01", "+trainer.gradient_clip_algorithm=value"),
    "max_time": ("+trainer.max_time=00:10:00:00",),
    "validation every 2 epochs": ("+trainer.check_val_every_n_epoch=2",),
    "no validation": ("data.val_size=0",),
    "highest top-1": ("callbacks.best.monitor=val/top1",),
    "sgd, cosine": ("optimizer=sgd", "scheduler=cosine"),
    "adamw, constant": ("optimizer=adamw", "+optimizer.betas=[0.9,0.95]", "scheduler=constant"),
    "muon_sgd": ("optimizer=muon_sgd",),
    "teacher": ("teacher=convnet", "data.batch_size=50", "+trainer.limit_train_batches=3"),
    "mixed": ("data.mixup=0.2", "data.cutmix=1", "data.policy=trivial"),
    "folder": ("data=folder", "data.dir=PHOTOS", "data.batch_size=10"),
    "torchvision": ("data=torchvision", "data.name=sample", "data.val_size=200"),
    "named checkpoints": callback(
        "ModelCheckpoint", "monitor=val/top5", "save_top_k=2", "filename='sub/{epoch}'"
    ),
    "scheduled accumulation": callback("GradientAccumulationScheduler", "scheduling={0:1,1:3}"),
    "lightning's ema": callback("EMAWeightAveraging", "decay=0.8"),
    "learning-rate monitor": callback("LearningRateMonitor"),
    "timer": callback("Timer", "duration=00:10:00:00"),
    "bf16": ("trainer.precision=bf16-mixed",),
    "double": ("trainer.precision=64-true",),
}
SHORT = ("ema", "scheduled accumulation")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 60 images of two classes."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(60):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (number * 4, 100, 50 * (number % 2))).save(path)
    return root


def pytest_generate_tests(metafunc):
    long = metafunc.config.getoption("--faults") == "long"
    metafunc.parametrize("name", [*RECIPES, *NETWORKS] if long else SHORT)


def test_a_killed_run_of_any_recipe_ends_with_the_results_of_an_undisturbed_one(
    name, photos, tmp_path, chance, long, survived
):
    chosen = [*SMALL, *RECIPES[name]] if name in RECIPES else [*BASE, *NETWORKS[name]]
    settings = [word.replace("PHOTOS", str(photos)) for word in chosen]
    expected, seconds = reference(tmp_path / "reference", settings)

    def check(folder, kind):
        found = outcome(folder)
        # A kill between the save of a file and the removal of a worse one leaves both.
        found["states"] = {name: found["states"].get(name) for name in expected["states"]}
        good = same(found, expected)
        survived(f"run of any recipe {kind}, resumed", good)
        assert good, folder

    for nth in range(1, 40) if long else [chance.randint(2, 9)]:
        folder = tmp_path / f"save {nth}"
        arguments = [*settings, "resume=auto", f"hydra.run.dir={folder}"]
        first = Run(arguments, tmp_path, functools.partial(die_after_saves, nth))
        if not (is_done := first.wait() == 0):
            again = Run(arguments, tmp_path)
            assert again.wait() == 0, again.output
        check(folder, "killed right after a save")
        if is_done:
            break
    for number in (signal.SIGKILL, signal.SIGTERM) if long else ():
        folder = tmp_path / f"signal {number}"
        until_finished(folder, chance, seconds, number, settings)
        check(folder, "ended at random moments")
