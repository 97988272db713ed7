"""The images that a model was tested on, and the arithmetic."""

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cifar10 import zoo
from cifar10.core.errors import SettingError, UserError
from cifar10.core.instantiate import import_class, instantiate
from cifar10.core.legacy import upgrade_config
from cifar10.core.settings import compose_settings
from cifar10.data.image_folder import FolderDataModule
from cifar10.data.loader import Labelled
from cifar10.data.module import InMemoryDataModule
from cifar10.runs.changes import merge
from cifar10.runs.load import find_checkpoint
from cifar10.runs.result import RESULT_FILE, read_result
from cifar10.runs.run_dir import named_folder
from cifar10.runs.test_images import TEST_IMAGES, read_test_images

log = logging.getLogger(__name__)

PRECISION = "32-true"  # of pretrained models' published scores; the same on every machine
Split = Literal["test", "val"]


class Tested(NamedTuple):
    """How a model was tested."""

    data: dict[str, Any]  # the settings of its data
    digest: str | None  # SHA-256 of its data, if known
    precision: str
    folder: Path | None  # of its run, if it is one


def how_tested(model: str | Path, split: Split = "test") -> Tested:
    """Settings and SHA-256 of a model's data, and the precision it was tested with.

    Without its run's result.json, CIFAR-10 is assumed, unless the validation images are asked for.
    """
    result: dict[str, Any] = {}
    folder = None if zoo.is_pretrained(model) else find_run(model)
    if folder is None:
        result = zoo.model_card(str(model))["result"] | {"precision": {"value": PRECISION}}
    elif (path := folder / RESULT_FILE).exists():
        result = read_result(path)
    elif split == "val":
        raise SettingError(f"--split val: needs {path}, which records the validation images")
    else:
        log.warning("%s is missing: assuming a CIFAR-10 model and automatic precision", path)
    current = compose_settings()
    recorded = upgrade_config(result["config"], to_resume=False) if "config" in result else current
    settings = merge(recorded, current, [], result.get("overrides", []))
    local = ("sources", "download")  # of this machine: the run may come from a stranger
    settings["data"] |= {key: current["data"][key] for key in local if key in settings["data"]}
    precision = result.get("precision", {}).get("value", "auto")
    return Tested(settings["data"], result.get("data", {}).get("digest"), precision, folder)


def find_run(model: str | Path) -> Path:
    """The folder of a model's run: its checkpoint may be elsewhere."""
    path = named_folder(model)
    return path if path.is_dir() else find_checkpoint(model).parent


def read_split(tested: Tested, split: Split) -> tuple[Labelled, dict[str, Any]]:
    """Read a split of a model's data, and where it comes from, for the record.

    Test images that a run on a folder keeps replace those of the folder if it is gone or changed.
    """
    origin: dict[str, Any] = {"split": split, "data": tested.digest}
    try:
        module = open_data(tested)
    except (UserError, OSError) as error:
        kind = import_class(tested.data.get("_target_"), "data", InMemoryDataModule)
        if split == "val" or not tested.folder or not issubclass(kind, FolderDataModule):
            raise
        if not (kept := read_test_images(tested.folder, tested.digest)):
            raise
        file = tested.folder / TEST_IMAGES
        log.warning("Warning: %s; using the test images that the run kept, %s", error, file)
        return kept, origin | {"file": TEST_IMAGES}
    if split == "val" and not module.has_validation:
        raise SettingError("--split val: this model was trained on all training images")
    return module.labelled(split), origin | {"data": module.digest}


def open_data(tested: Tested) -> InMemoryDataModule:
    """Open a model's data, or raise a UserError if it is another data set now."""
    module = instantiate(tested.data, "data", InMemoryDataModule)
    module.setup()
    if tested.digest not in (None, module.digest):
        raise SettingError(f"data: {tested.data['dir']} differs from the data set of the run")
    return module
