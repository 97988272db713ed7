"""Train, trust and use CIFAR-10 classifiers."""

from importlib import import_module
from typing import Any

HOMES = {
    "CIFAR10DataModule": "cifar10.data.module",
    "Classifier": "cifar10.training.classifier",
    "AirNet": "cifar10.models.airnet",
    "ConvNet": "cifar10.models.convnet",
    "Muon": "cifar10.training.muon",
    "ResNet18": "cifar10.models.resnet",
    "CLASSES": "cifar10.data",
    "load": "cifar10.runs.load",
}

__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    # Looked up on first use: torch and Lightning take seconds to import, `--help` needs neither.
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
