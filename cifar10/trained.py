"""A trained classifier, by name, run or checkpoint."""

import difflib
from pathlib import Path
from typing import Any

import torch

from cifar10 import checkpoint, results, zoo
from cifar10.build import call
from cifar10.classifier import Classifier
from cifar10.errors import SettingError, UserError
from cifar10.hardware import choose_layout, choose_precision, device_type
from cifar10.settings import at_home


def load(model: str | Path, device: str = "auto") -> Classifier:
    """Give a trained classifier, ready to predict.

    Args:
        model: a shipped model's name, a run's folder (its best checkpoint) or a checkpoint file.
        device: where it computes: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        UserError: there is no such model, or its file is damaged or of another program.
    """
    if str(model) in zoo.names():
        weights, hyperparameters = zoo.read(str(model))
        place = str(model)
    else:
        path = checkpoint_of(model)
        state = checkpoint.read(path)
        weights, hyperparameters, place = state["state_dict"], state.get("hyper_parameters"), path
    try:
        classifier = restore(hyperparameters, weights)
    except (UserError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        why = str(error).splitlines()[-1].strip()
        raise SettingError(f"{place}: its network cannot be built: {why}") from error
    kind = device_type(device)
    channels_last = choose_layout(kind, choose_precision("auto", kind).value).value
    classifier.lay_out(channels_last == "channels last")
    return classifier.to(kind).eval()


def restore(hyperparameters: dict[str, Any], weights: dict[str, torch.Tensor]) -> Classifier:
    """Build a classifier as it was and give it its weights, every one of them.

    Raises:
        SettingError, RuntimeError, TypeError: they do not fit together.
    """
    if not isinstance(hyperparameters, dict) or not isinstance(weights, dict):
        raise SettingError("it holds no hyper_parameters of a Classifier")
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, then thrown away
        classifier = call(Classifier, hyperparameters, "")
    classifier.load_state_dict(weights)
    return classifier


def checkpoint_of(model: str | Path) -> Path:
    """The checkpoint that a path stands for: itself, or the one that a run chose.

    Raises:
        SettingError: there is none.
    """
    path = at_home(model)
    if not str(model) or not path.is_dir():
        if str(model) and path.exists():
            return path
        close = difflib.get_close_matches(str(model), zoo.names(), n=1)
        shipped = f"shipped are {', '.join(zoo.names())}" if zoo.names() else "none is shipped yet"
        hint = f"did you mean {close[0]}?" if close else shipped
        raise SettingError(
            f"{str(model) or repr(model)}: there is no such model, run or checkpoint; {hint}"
        )
    names = ["best.ckpt", "last.ckpt"]
    if (path / results.NAME).exists() and (own := results.read(path / results.NAME)):
        names.insert(0, Path(str(own.get("checkpoint") or names[0])).name)
    for name in names:
        if (path / name).exists():
            return path / name
    raise SettingError(f"{model}: there is no checkpoint in this folder")
