"""Load a trained classifier by name, run or checkpoint file."""

import difflib
import logging
from pathlib import Path
from typing import Any

import torch

from cifar10 import zoo
from cifar10.core.errors import SettingError, UserError
from cifar10.core.instantiate import call_checked
from cifar10.core.legacy import upgrade_hyperparameters
from cifar10.core.settings import expand_user
from cifar10.runs.checkpoint import foreign_start, read_checkpoint
from cifar10.runs.result import RESULT_FILE, read_result
from cifar10.runs.run_dir import LATEST, latest_run, named_folder
from cifar10.training.classifier import Classifier
from cifar10.training.hardware import choose_device, choose_layout, choose_precision

log = logging.getLogger(__name__)


def load(model: str | Path, device: str | torch.device = "auto") -> Classifier:
    """Load a trained classifier, ready to predict.

    Args:
        model: a pretrained model's name, a run folder (its best checkpoint), a checkpoint file, or
            `latest` for the newest run in `outputs/`.
        device: `auto`, or a device of torch: `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UserError: the model does not exist, is corrupted, or was not written by this project; this
            machine has no such device.
    """
    place = choose_device(device)
    model = latest_run() if model == LATEST else model
    if zoo.is_pretrained(model):
        source = str(model)
        weights, hyperparameters = zoo.read_pretrained(source)
    else:
        path = find_checkpoint(model)
        source, state = str(path), read_checkpoint(path)
        if reason := foreign_start(state, started_beside(model)):
            advice = "restore the run's own file, or move this one to another folder"
            raise SettingError(f"{path}: {reason}; {advice}")
        weights, hyperparameters = state["state_dict"], state.get("hyper_parameters", {})
    try:
        classifier = restore_classifier(hyperparameters, weights)
    except (UserError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise SettingError(f"{source}: cannot rebuild the network: {reason}") from error
    layout = choose_layout(place.type, choose_precision("auto", place.type).value).value
    classifier.set_memory_format(channels_last=layout == "channels last")
    return classifier.to(place).eval()


def started_beside(model: str | Path) -> str | None:
    """When the run in a folder, or in that of a checkpoint file, started; None if unknown."""
    path = expand_user(model)
    record = (path if path.is_dir() else path.parent) / RESULT_FILE
    try:
        return read_result(record).get("started") if record.exists() else None
    except UserError:
        if path.is_dir():
            raise
        return None  # of another program, or damaged: the file is loaded all the same


def restore_classifier(
    hyperparameters: dict[str, Any], weights: dict[str, torch.Tensor]
) -> Classifier:
    """Rebuild a classifier from what its checkpoint holds; keeps torch's random state."""
    if not isinstance(hyperparameters, dict) or not isinstance(weights, dict):
        raise SettingError("the file lacks the hyper_parameters or weights of a Classifier")
    with torch.random.fork_rng(devices=[]):  # building draws initial weights, which are replaced
        classifier = call_checked(Classifier, upgrade_hyperparameters(hyperparameters), "")
    classifier.load_state_dict(weights)
    classifier.is_fresh, classifier.fixed_mean = False, True
    return classifier


def find_checkpoint(model: str | Path) -> Path:
    """A checkpoint file: the path itself, or that of a run; SettingError if there is none."""
    path = named_folder(model)
    if not str(model) or not path.exists():
        names = zoo.pretrained_names()
        close = difflib.get_close_matches(str(model), names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"pretrained models: {', '.join(names)}"
        raise SettingError(f"{str(model) or repr('')}: no such model, run or checkpoint; {hint}")
    if not path.is_dir():
        return path
    result = read_result(path / RESULT_FILE) if (path / RESULT_FILE).exists() else {}
    if recorded := result.get("checkpoint"):  # of an unfinished run: the best so far
        file = path / recorded  # the run may have been moved
        file = path / file.name if Path(recorded).is_absolute() else file
        if not file.is_file():
            raise SettingError(f"{path}: its checkpoint {recorded} is missing; name a file instead")
        return file
    for name in ("best.ckpt", "last.ckpt"):
        if (path / name).exists():
            log.warning("%s records no checkpoint: using %s", path, name)
            return path / name
    raise SettingError(f"{path}: no checkpoint in this folder")
