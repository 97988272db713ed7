"""Train, evaluate and use CIFAR-10 classifiers."""

from importlib import import_module
from typing import Any

MODULES = {
    "CIFAR10DataModule": "cifar10.data.module",
    "FolderDataModule": "cifar10.data.image_folder",
    "Classifier": "cifar10.training.classifier",
    "AirNet": "cifar10.models.airnet",
    "ConvNet": "cifar10.models.convnet",
    "Muon": "cifar10.training.muon",
    "ResNet18": "cifar10.models.resnet",
    "CLASSES": "cifar10.data",
    "UserError": "cifar10.core.errors",
    "load": "cifar10.runs.load",
}

__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    # Imported on first use: torch and Lightning take seconds, and `--help` needs neither.
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)
