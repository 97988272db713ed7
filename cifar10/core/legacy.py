"""Settings recorded by version 0.1 in current form; current ones pass unchanged."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cifar10.core.errors import SettingError

MOVED = {
    "cifar10.optim.Muon": "cifar10.training.muon.Muon",
    "cifar10.optim.MuonSGD": "cifar10.training.muon.MuonSGD",
    "cifar10.optim.Triangle": "cifar10.training.schedules.Triangle",
    "cifar10.optim.Cosine": "cifar10.training.schedules.Cosine",
    "cifar10.optim.Constant": "cifar10.training.schedules.Constant",
    "cifar10.models.from_timm.FromTimm": "cifar10.models.timm.FromTimm",
    "cifar10.classifier.Classifier": "cifar10.training.classifier.Classifier",
    "cifar10.data.folder.FolderDataModule": "cifar10.data.image_folder.FolderDataModule",
    "cifar10.last.LastCheckpoint": "cifar10.runs.last_checkpoint.LastCheckpoint",
}
# The value, which changes nothing, of each setting that was added later.
ADDED: dict[str, Any] = {"teacher": None, "teacher_weight": 0.9, "deterministic": False}
ADDED |= {"data.policy": "None", "data.mixup": 0, "data.cutmix": 0}
ADDED |= {"weights": None, "freeze": "[]", "head_lr_factor": 1.0}
# The value of each removed setting, for every epoch, that changes nothing.
NEUTRAL = {"keep_hardest": 1, "data.crops": 32}


def upgrade_config(config: Mapping[str, Any], to_resume: bool = True) -> dict[str, Any]:
    """Upgrade a run's nested settings; a run that used a removed one cannot be resumed."""
    new = rename_targets(config)
    data, callbacks = new.get("data", {}), new.get("callbacks") or {}
    removed = {"keep_hardest": new.pop("keep_hardest", ()), "data.crops": data.pop("crops", ())}
    for key, values in removed.items():
        if to_resume and not set(values) <= {NEUTRAL[key]}:
            raise SettingError(f"{key}={values}: removed in version 0.2, without a replacement")
    if isinstance(data.get("sizes"), list):
        data["sizes"] = sizes_by_epoch(data["sizes"])
    return {"report": callbacks.pop("gallery", None) is not None} | new


def upgrade_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Upgrade a result's flat settings, whose lists are text; a removed one stays if in use."""
    new = dict(settings)
    for key, neutral in NEUTRAL.items():
        if set(numbers(new.get(key))) <= {neutral}:
            new.pop(key, None)
    if str(new.get("data.sizes")).startswith("["):
        new["data.sizes"] = str(sizes_by_epoch(numbers(new["data.sizes"])))
    return new


def numbers(text: Any) -> list[float]:
    """The numbers in the text of a list; it may come from a stranger."""
    found = re.findall(r"\d{1,9}(?:\.\d+)?", str(text))
    return [float(number) if "." in number else int(number) for number in found]


def upgrade_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Upgrade the arguments of a Classifier, as a checkpoint or a model card holds them."""
    new = rename_targets(hyperparameters)
    new.pop("keep_hardest", None)  # changed the training only
    return new


def rename_targets(value: Any) -> Any:
    """Copy nested settings with current class names."""
    if isinstance(value, Mapping):
        return {key: rename_targets(item) for key, item in value.items()}
    if isinstance(value, list):  # data.transform
        return [rename_targets(item) for item in value]
    return MOVED.get(value, value) if isinstance(value, str) else value


def sizes_by_epoch(sizes: Sequence[float] | None) -> dict[int, float] | None:
    """Image sizes as {first epoch: pixels}, from one size per epoch."""
    pairs = enumerate(itertools.pairwise((32, *(sizes or ()))), start=1)
    return {epoch: side for epoch, (before, side) in pairs if side != before} or None
