"""A finished run in float32 with every logger, and a signal during a training step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cifar10.core.settings import compose_settings
from cifar10.runs.run import run
from cifar10.runs.signals import signals
from cifar10.training.classifier import Classifier
from tests.processes import TINY

TWO_EPOCHS = ("trainer.max_epochs=2", "trainer.log_every_n_steps=1")


@dataclass
class FinishedRun:
    settings: dict[str, Any]
    folder: Path
    result: dict[str, Any]  # as returned


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> FinishedRun:
    """A run of two epochs in float32, which logs every step to TensorBoard and metrics.csv."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    settings = compose_settings(*TINY, *TWO_EPOCHS, "trainer.precision=32-true")
    settings["logger"] |= compose_settings("logger=csv")["logger"]
    return FinishedRun(settings, folder, run(settings, folder, ["data=sample"]))


@pytest.fixture
def signal_at(monkeypatch):
    """Sets the optimizer step during which a run receives SIGTERM; -1 for none."""

    def set_step(step: int) -> None:
        def training_step(self, batch, index):
            if self.global_step == step - 1:
                signals.received = 15
            return original(self, batch, index)

        monkeypatch.setattr(Classifier, "training_step", training_step)

    original = Classifier.training_step
    yield set_step
    signals.received = None
