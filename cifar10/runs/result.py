"""result.json: its fields, writing and reading it."""

import copy
import hashlib
import json
import logging
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from cifar10.core.display import printable
from cifar10.core.errors import UserError, one_line
from cifar10.core.files import atomic_write
from cifar10.core.legacy import upgrade_config
from cifar10.core.own_code import own_targets
from cifar10.core.secrets import as_typed, hide, resolve_again
from cifar10.core.settings import json_keys, program, restore_keys

log = logging.getLogger(__name__)

RESULT_FILE = "result.json"

Group = dict[str, Any]


def check_accuracies(figures: dict[str, float | None]) -> dict[str, float | None]:
    for key, value in figures.items():
        if key.startswith("top") and value is not None and not 0 <= value <= 1:
            raise ValueError(f"{key} is {value}, not between 0 and 1")
    return figures


Figure = Annotated[float, Field(gt=-1e30, lt=1e30)]  # beyond, its square would overflow
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Figures = Annotated[dict[str, Figure | None], AfterValidator(check_accuracies)]


class Part(BaseModel, extra="allow", strict=True, allow_inf_nan=False):
    """A part of result.json, which may contain more fields than those that are read."""


class Config(Part):
    data: Group
    callbacks: Group | None = None


Images = Annotated[int, Field(ge=0, lt=10**12)]


class Data(Part):
    """Numbers of images: of each split, and of those that the figures are of."""

    train: Images
    val: Images
    test: Annotated[Images, Field(gt=0)]
    validated: Annotated[Images, Field(gt=0)] | None = None
    tested: Annotated[Images, Field(gt=0)] | None = None
    digest: str | None = None


class Precision(Part):
    value: str


class Versions(Part):
    torch: str


class Resumption(Part):
    overrides: list[str]


class Unfinished(Part):
    """The fields that other parts rely on; `Finished` says which are there in the end."""

    status: Literal["running", "ok", "failed", "interrupted", "pruned"]
    overrides: list[str]
    config_dirs: list[str] = []  # further folders of YAML files
    config: Config = Config(data={})  # all settings, which the run resumes with
    settings: Group = {}  # flat, those that runs are compared by
    epochs: int = 0
    checkpoint: str | None = None  # the file that the figures belong to, relative to the folder
    chosen_by: str | None = None  # the metric by which it is the best; None: the last
    mode: str | None = None  # min or max, of that metric
    stopped: str | None = None  # what ended the training early
    partial: Group = {}  # the settings by which it used a part of the data only
    history: list[Group] = []
    rates: list[Pair] = []  # epochs so far and learning rate, in the order of the steps
    resumed: list[Resumption] = []
    digests: dict[str, str] = {}  # of the user's own modules and of a teacher's weights
    data: Group | Data = {}
    precision: Group | Precision = {}
    val: Figures = {}
    test: Figures = {}
    test_views: Figures = {}


class Finished(Unfinished):
    seed: int
    settings: Group
    epochs: int
    seconds: dict[str, float]
    data: Data
    test: Figures
    device: str
    precision: Precision
    versions: Versions

    @model_validator(mode="after")
    def has_images(self) -> "Finished":
        if self.val and not (self.data.validated or self.data.val):
            raise ValueError("val: figures of no images")
        return self


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Replace a folder's result.json atomically."""
    with atomic_write(folder / RESULT_FILE) as file:
        file.write(to_json(result).encode())


def write_final_result(folder: Path, result: dict[str, Any]) -> None:
    """Write result.json; if that fails after another error, only log it."""
    try:
        write_result(folder, result)
    except OSError as error:
        message = f"{folder / RESULT_FILE}: cannot be written: {error.strerror}"
        if result["status"] == "ok":
            raise UserError(message) from error
        if folder.is_dir():
            log.warning("%s", message)


def record_failure(folder: Path, overrides: Sequence[str], error: Exception) -> None:
    """Record the error of a run that failed to start, unless its folder has a result."""
    failed = {"status": "failed", "error": one_line(error), "overrides": list(overrides)}
    if folder.is_dir() and not (folder / RESULT_FILE).exists():
        write_result(folder, failed)


def to_json(result: dict[str, Any]) -> str:
    shown = as_typed(result)
    if "config" in shown:
        shown["config"] = json_keys(shown["config"])
    if shown.get("error"):
        shown["error"] = hide(shown["error"])
    return json.dumps(finite(shown), indent=2, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """A nested value with null for each NaN and infinity, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json; UserError if it is missing, unreadable or not a result."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise OSError("not a regular file")
        result = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(result, dict) and "config" in result:
            result["config"] = restore_keys(result["config"])
    except (OSError, ValueError, RecursionError) as error:
        advice = "restore it or move its folder away"
        raise UserError(f"{path}: not a readable result.json; {advice} ({error})") from error
    finished = isinstance(result, dict) and result.get("status") == "ok"
    try:
        (Finished if finished else Unfinished).model_validate(result)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        reason = f"{where}: {first['msg'].removeprefix('Value error, ')}"
        raise UserError(f"{path}: not a result.json: {reason}") from error
    return result


def image_count(data: Mapping[str, Any], split: str) -> int:
    """The number of images that a split's figures are of; early results only have its size."""
    used, all_images = ("validated", "val") if split == "val" else ("tested", "test")
    return int(data.get(used) or data[all_images])


def settings_digest(config: dict[str, Any]) -> str:
    """SHA-256 of a run's settings."""
    text = json.dumps(finite(json_keys(as_typed(config))), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def recorded_settings(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings that a run resumes with, in current form; UserError if they were edited."""
    if settings_digest(result.get("config", {})) != result.get("config_digest"):
        reason = "its settings were changed or are corrupted; the run cannot resume"
        raise UserError(f"{folder / RESULT_FILE}: {reason}")
    for group in ("model", "optimizer", "scheduler", "trainer"):
        if not isinstance(result["config"].get(group), dict):
            raise UserError(f"{folder / RESULT_FILE}: its settings lack {group}; it cannot resume")
    return resolve_again(upgrade_config(result["config"]))


def without_local_paths(result: dict[str, Any]) -> dict[str, Any]:
    """A result without the data's place on this machine, for publishing; it cannot be resumed."""
    published = copy.deepcopy(result)
    for key in ("config_digest", "config_dirs"):
        published.pop(key, None)
    published["config"]["data"].pop("dir", None)
    return published


def repeat_command(result: Mapping[str, Any], folder: str = "RUN", with_seed: bool = False) -> str:
    """The command that repeats a run; it resumes in `folder` if settings changed later.

    A second line names what the command needs besides: YAML files and modules of the user.
    """
    first, *later = (recipe_overrides(part) for part in (result, *result.get("resumed", [])))
    lines = [first, *([f"resume={folder}", *words] for words in later if words)]
    command = printable(" && ".join(shlex.join([*program(), *words]) for words in lines))
    command += f" seed={result['seed']}" if with_seed else ""
    modules = {name.partition(".")[0] for name in own_targets(result.get("config"))}
    needs = [f"--config-dir {shlex.quote(path)}" for path in result.get("config_dirs", ())]
    needs += [f"CIFAR10_TRUST={','.join(sorted(modules))}"] * bool(modules)
    return f"{command}\n# with {printable(' and '.join(needs))}" if needs else command


def recipe_overrides(part: Mapping[str, Any]) -> list[str]:
    """The overrides of a run or a resumption, without those of seed, folder, sweep and Hydra.

    They may come from a stranger, who could add options of Hydra that run code.
    """
    kept = []
    for word in part["overrides"]:
        names = re.findall(r"\w+", word.partition("=")[0])
        is_own = names[:1] in (["seed"], ["resume"], ["sweep"]) or "hydra" in names
        if not (is_own or word.startswith("-")):
            kept.append(word)
    return kept
