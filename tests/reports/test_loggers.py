"""Loggers: what each shows of a run, what is missing, what is to be done next."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import instantiate
from cifar10.reports import loggers
from cifar10.reports.figures import image_grid, to_png
from tests.processes import TINY, train


class Recorder:
    """Stands in for a service: records the calls of its methods."""

    def __init__(self, **attributes):
        self.calls = []
        vars(self).update(attributes)

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def stand_in(cls, experiment, **attributes):
    """A logger of a class without its package."""
    logger = cls.__new__(cls)
    vars(logger).update({"_experiment": experiment} | attributes)
    return logger


@pytest.fixture
def each(monkeypatch, tmp_path):
    """A logger of each kind, and what W&B and MLflow were told."""
    wandb = Recorder(url=None, dir=str(tmp_path / "wandb" / "offline-run-1" / "files"))
    mlflow = Recorder()
    monkeypatch.setattr(WandbLogger, "experiment", property(lambda self: self._experiment))
    monkeypatch.setattr(WandbLogger, "log_image", lambda self, *a: wandb.log_image(*a))
    monkeypatch.setattr(MLFlowLogger, "experiment", property(lambda self: self._experiment))
    monkeypatch.setattr(MLFlowLogger, "run_id", "7")
    kinds = [
        TensorBoardLogger(tmp_path, "", ""),
        CSVLogger(tmp_path, "", ""),
        stand_in(WandbLogger, wandb),
        stand_in(MLFlowLogger, mlflow, _tracking_uri="sqlite:///outputs/mlflow.db"),
    ]
    return SimpleNamespace(loggers=kinds, wandb=wandb, mlflow=mlflow)


def test_figures_reach_every_logger_that_shows_figures(each, sample, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    images = {"curves": to_png(image_grid(sample.test_images[:2]))}
    loggers.log_figures(each.loggers, images, 12)
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == ["figures/curves"]
    [(name, (key, [image]), _)] = each.wandb.calls
    assert (name, key, image.mode) == ("log_image", "figures/curves", "RGB")
    [(name, (run, image), options)] = each.mlflow.calls
    assert (name, run, options) == ("log_image", "7", {"artifact_file": "figures/curves.png"})


def test_the_next_steps_name_every_logger(each, tmp_path):
    lines = loggers.where_to_look(each.loggers, tmp_path / "run")
    assert lines == [
        f"tensorboard --logdir {tmp_path}",
        f"open {tmp_path / 'metrics.csv'}",
        f"wandb sync {tmp_path / 'wandb' / 'offline-run-1'}",
        "mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db",
    ]
    each.loggers[3]._tracking_uri = "https://me:secret@mlflow.example:5000"
    assert loggers.where_to_look(each.loggers[3:], tmp_path) == [
        "open https://***@mlflow.example:5000"
    ]
    spaced = loggers.where_to_look(each.loggers[:1], tmp_path / "a b" / "run")
    assert spaced == [f"tensorboard --logdir '{tmp_path / 'a b'}'"]
    each.wandb.url = "https://wandb.ai/x"
    assert loggers.where_to_look(each.loggers[2:3], tmp_path) == ["https://wandb.ai/x"]


@pytest.mark.parametrize("failed", [False, True])
def test_a_run_of_wandb_ends_with_ours(failed, each):
    loggers.end_loggers(each.loggers, failed)
    assert each.wandb.calls == [("finish", (), {"exit_code": int(failed)})]
    loggers.end_loggers([stand_in(WandbLogger, None)], failed)  # of another process


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named(name, settings, monkeypatch, tmp_path):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(SettingError, match=rf"logger.{name}: needs {name}; run pip install"):
        loggers.build_loggers(settings(f"logger={name}")["logger"], tmp_path)


@pytest.mark.parametrize("choice", ["[tensorboard,csv]", "[csv,tensorboard,wandb,mlflow]", "wandb"])
def test_lists_of_loggers_build_in_the_run_folder(choice, settings, monkeypatch, tmp_path):
    given = {}

    def build(spec, where, kind, **arguments):
        given[where] = arguments
        return instantiate(spec, where, kind, **arguments) if "csv" in where else spec

    monkeypatch.setattr(loggers, "find_spec", lambda package: True)
    monkeypatch.setattr(loggers, "instantiate", build)
    built = loggers.build_loggers(settings(f"logger={choice}")["logger"], tmp_path / "a run")
    assert list(built) == [f"logger.{name}" for name in choice.strip("[]").split(",")]
    for where, arguments in given.items():
        assert Path(arguments["save_dir"]) == tmp_path / "a run"
        names = [arguments.get("name"), arguments.get("run_name")]
        assert ("a run" in names) == (where in ("logger.wandb", "logger.mlflow"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_real_run_reaches_the_service(name, tmp_path):
    """With W&B offline and MLflow on a file: metrics of the test, settings and figures."""
    package = pytest.importorskip(name)
    arguments = [word for word in TINY if word != "report=false"]
    environment = {"WANDB_MODE": "offline", "CIFAR10_TRUST": "tests"}
    arguments += [f"logger={name}", "hydra.run.dir=run", "trainer.log_every_n_steps=1"]
    run = train(tmp_path, *arguments, environment=environment)
    if name == "wandb":
        assert "wandb sync" in run.out
        assert list(tmp_path.rglob("run-*.wandb"))
        assert len(list(tmp_path.rglob("media/images/figures/*.png"))) > 4
        return
    assert "mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db" in run.out
    client = package.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("cifar10").experiment_id])
    assert {"test/top1", "val/loss", "train/lr"} <= found.data.metrics.keys()
    assert found.data.params["optimizer.lr"]
    assert len(list(tmp_path.rglob("artifacts/figures/*.png"))) > 4
