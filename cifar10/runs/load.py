"""A trained classifier, by name, run or checkpoint."""

import difflib
from pathlib import Path
from typing import Any

import torch

from cifar10 import zoo
from cifar10.core.errors import SettingError, UserError
from cifar10.core.instantiate import call_checked
from cifar10.core.settings import expand_user
from cifar10.runs import checkpoint
from cifar10.runs import result as results
from cifar10.training.classifier import Classifier
from cifar10.training.hardware import choose_layout, choose_precision, device_type


def load(model: str | Path, device: str = "auto") -> Classifier:
    """Give a trained classifier, ready to predict.

    Args:
        model: a shipped model's name, a run's folder (its best checkpoint) or a checkpoint file.
        device: where it computes: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        UserError: there is no such model, or its file is damaged or of another program.
    """
    if str(model) in zoo.pretrained_names():
        weights, hyperparameters = zoo.read_pretrained(str(model))
        place = str(model)
    else:
        path = find_checkpoint(model)
        state = checkpoint.read_checkpoint(path)
        weights, hyperparameters, place = state["state_dict"], state.get("hyper_parameters"), path
    try:
        classifier = restore_classifier(hyperparameters, weights)
    except (UserError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        why = str(error).splitlines()[-1].strip()
        raise SettingError(f"{place}: its network cannot be built: {why}") from error
    kind = device_type(device)
    channels_last = choose_layout(kind, choose_precision("auto", kind).value).value
    classifier.set_memory_format(channels_last == "channels last")
    return classifier.to(kind).eval()


def restore_classifier(
    hyperparameters: dict[str, Any], weights: dict[str, torch.Tensor]
) -> Classifier:
    """Build a classifier as it was and give it its weights, every one of them.

    Raises:
        SettingError, RuntimeError, TypeError: they do not fit together.
    """
    if not isinstance(hyperparameters, dict) or not isinstance(weights, dict):
        raise SettingError("it holds no hyper_parameters of a Classifier")
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, then thrown away
        classifier = call_checked(Classifier, hyperparameters, "")
    classifier.load_state_dict(weights)
    return classifier


def find_checkpoint(model: str | Path) -> Path:
    """The checkpoint that a path stands for: itself, or the one that a run chose.

    Raises:
        SettingError: there is none.
    """
    path = expand_user(model)
    if not str(model) or not path.is_dir():
        if str(model) and path.exists():
            return path
        close = difflib.get_close_matches(str(model), zoo.pretrained_names(), n=1)
        shipped = (
            f"shipped are {', '.join(zoo.pretrained_names())}"
            if zoo.pretrained_names()
            else "none is shipped yet"
        )
        hint = f"did you mean {close[0]}?" if close else shipped
        raise SettingError(
            f"{str(model) or repr(model)}: there is no such model, run or checkpoint; {hint}"
        )
    names = ["best.ckpt", "last.ckpt"]
    if (path / results.RESULT_FILE).exists() and (
        own := results.read_result(path / results.RESULT_FILE)
    ):
        names.insert(0, Path(str(own.get("checkpoint") or names[0])).name)
    for name in names:
        if (path / name).exists():
            return path / name
    raise SettingError(f"{model}: there is no checkpoint in this folder")
