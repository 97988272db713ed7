"""The figures of a run are those of its file, whatever callback is added."""

import inspect

import pytest
from lightning.pytorch import callbacks as lightning

from cifar10.core.errors import SettingError
from cifar10.inference.evaluate import evaluate
from cifar10.inference.splits import how_tested, read_split
from cifar10.runs.components import build_components
from cifar10.runs.load import load
from cifar10.runs.run import run

NETWORKS = {
    "small": ["model._target_=tests.network.Small", "~model.dropout"],
    "convnet": ["model=convnet"],
    "airnet": ["model=airnet", "model.widths=[32,32,32]"],
    "resnet18": ["model=resnet18"],
    "timm": ["model=timm", "model.name=resnet10t"],
}
# Every callback that Lightning ships, with the arguments that it needs.
ARGUMENTS = {
    "EarlyStopping": ["monitor=train/loss"],
    "EMAWeightAveraging": ["decay=0.5"],
    "GradientAccumulationScheduler": ["scheduling={0:1,1:2}"],
    "ModelCheckpoint": ["monitor=train/top1", "filename='sub/{epoch}-{train/loss:.3f}'"],
    "Timer": ["duration=00:01:00:00"],
    "TQDMProgressBar": ["refresh_rate=1000"],
    "WeightAveraging": [],
}
SHIPPED = [
    name for name, value in vars(lightning).items() if inspect.isclass(value) and name != "Callback"
]
CALLBACKS = {
    "none": [],
    "ema": ["callbacks=ema", "callbacks.ema.decay=0.5"],
    "ema late": ["callbacks=ema", "callbacks.ema.start=5"],
    "elsewhere": ["+callbacks.best.dirpath=models"],
    "top1": ["callbacks.best.monitor=val/top1"],
    "named": ["callbacks.best.filename='best-{epoch}-{val/loss:.3f}'"],
    "without best": ["~callbacks.best"],
    "bf16": ["trainer.precision=bf16-true"],
    "double": ["trainer.precision=64-true"],
} | {
    name: [
        f"+callbacks.x._target_=lightning.pytorch.callbacks.{name}",
        *(f"+callbacks.x.{argument}" for argument in ARGUMENTS.get(name, [])),
    ]
    for name in SHIPPED
}
CHEAP = [
    "data=sample",
    "trainer.max_epochs=2",
    "data.batch_size=100",
    "report=false",
    "threads=1",
    "+trainer.limit_train_batches=3",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Raised before training: the short form trains with the others of a few.
REFUSED = (
    "BackboneFinetuning",
    "BaseFinetuning",
    "BasePredictionWriter",
    "BatchSizeFinder",
    "Checkpoint",
    "LearningRateFinder",
    "ModelPruning",
    "OnExceptionCheckpoint",
    "StochasticWeightAveraging",
    "ThroughputMonitor",
)
SHORT = (
    *REFUSED,
    *("ema", "ema late", "elsewhere", "top1", "named", "without best", "bf16", "double"),
    *("EMAWeightAveraging", "GradientAccumulationScheduler", "ModelCheckpoint"),
)


def pytest_generate_tests(metafunc):
    long = metafunc.config.getoption("--faults") == "long"
    if "network" in metafunc.fixturenames:
        metafunc.parametrize("name", CALLBACKS if long else SHORT)
        metafunc.parametrize("network", NETWORKS if long else ["small"])
        metafunc.parametrize("val_size", [200, 0] if long else [200])


@pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*The number of training batches")
def test_a_run_is_refused_before_training_or_its_figures_are_those_of_its_file(
    name, val_size, network, settings, tmp_path, caplog
):
    chosen = settings(*CHEAP, *NETWORKS[network], f"data.val_size={val_size}", *CALLBACKS[name])
    folder = tmp_path / "run"
    try:
        components = build_components(chosen, folder)
    except SettingError as error:
        assert "\n" not in str(error)
        assert not list(tmp_path.iterdir())
        assert name in REFUSED, error
        return
    assert name not in REFUSED
    result = run(chosen, folder, components=components)
    tested = how_tested(folder)
    for split in ("test", "val") if val_size else ("test",):
        batches = read_split(tested, split)[0].batches(tested.data["batch_size"])
        scores, _ = evaluate(load(folder), batches, tested.precision, views=False)
        assert {key: scores[key] for key in result[split]} == result[split]
    assert "Warning" not in caplog.text
