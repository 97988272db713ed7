"""result.json: write it, read it."""

import hashlib
import json
import logging
import math
import platform
import shlex
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cifar10.core.errors import UserError
from cifar10.core.files import atomic_write

log = logging.getLogger(__name__)

RESULT_FILE = "result.json"
KINDS = {"epochs": int, "overrides": list} | dict.fromkeys(
    ("config", "settings", "precision", "data", "val", "test", "test_views"), dict
)
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core")


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Replace a folder's result.json, whole or not at all."""
    with atomic_write(folder / RESULT_FILE) as file:
        file.write(to_json(result).encode())


def to_json(result: dict[str, Any]) -> str:
    return json.dumps(finite(result), indent=2, allow_nan=False) + "\n"


def recorded_settings(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a run that is to be resumed, as they were.

    Raises:
        UserError: they are not those that the run wrote.
    """
    if settings_digest(result.get("config", {})) != result.get("config_digest"):
        raise UserError(
            f"{folder / RESULT_FILE} has other settings than its run wrote: it is damaged or was changed, "
            f"so the run cannot go on"
        )
    return result["config"]


def without_local_paths(result: dict[str, Any]) -> dict[str, Any]:
    """A result without where its machine keeps the data, to be handed on; it cannot be resumed."""
    recorded_settings = dict(result["config"])
    recorded_settings["data"] = {
        key: value for key, value in recorded_settings["data"].items() if key != "dir"
    }
    return {key: value for key, value in result.items() if key != "config_digest"} | {
        "config": recorded_settings
    }


def is_finished(result: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a run has done all that its settings, which may have changed since, ask for."""
    more = settings["trainer"]["max_epochs"] > result.get("epochs", 0)
    return result["status"] == "ok" and not (more and settings != result["config"])


def settings_digest(config: dict[str, Any]) -> str:
    """SHA-256 of a run's settings; a resumed run must find them as they were."""
    return hashlib.sha256(json.dumps(finite(config), sort_keys=True).encode()).hexdigest()


def finite(value: Any) -> Any:
    """A plain value with null for every number that JSON cannot hold, NaN and the infinities."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json.

    Raises:
        UserError: it is missing or not a result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is no readable result.json, so restore it, or move its folder away: {error}"
        ) from error
    needed = {"status", "overrides"}
    if not isinstance(result, dict):
        result = {}
    if result.get("status") == "ok":
        needed |= {
            "seed",
            "settings",
            "epochs",
            "seconds",
            "test",
            "device",
            "precision",
            "versions",
        }
    if missing := needed - result.keys():
        raise UserError(f"{path} is no result.json: it lacks {', '.join(sorted(missing))}")
    for key, kind in KINDS.items():
        if not isinstance(result.get(key, kind()), kind):
            raise UserError(f"{path} is no result.json: its {key} is {result[key]!r}")
    for split in ("val", "test", "test_views"):
        for key, value in result.get(split, {}).items():
            if not isinstance(value, int | float | None):
                raise UserError(f"{path} is no result.json: its {split}.{key} is {value!r}")
    if not isinstance(result.get("config", {}).get("data", {}), dict):
        raise UserError(f"{path} is no result.json: its config.data is no group of settings")
    return result


def repeat_command(result: Mapping[str, Any], folder: str = "RUN") -> str:
    """The command that repeats a run, without its seed, its folder and its sweep.

    Args:
        result: the content of result.json.
        folder: name of the new run's folder, for a run whose settings changed when it resumed.
    """
    first, *later = (recipe_overrides(part) for part in (result, *result.get("resumed", [])))
    lines = [first, *([f"resume={folder}", *words] for words in later if words)]
    return " && ".join(shlex.join(["python", "train.py", *words]) for words in lines)


def recipe_overrides(part: Mapping[str, Any]) -> list[str]:
    """The overrides of a run, or of one resumption, that every run of its recipe shares."""
    own = ("seed=", "resume=", "hydra.", "hydra/", "sweep.", "sweep=")
    return [word for word in part["overrides"] if not word.lstrip("+~").startswith(own)]


def cpu_name() -> str:
    import torch

    return torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "unknown"


def environment() -> dict[str, Any]:
    """Where a result comes from: code, versions and hardware, as plain values."""
    import torch

    root = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            run = subprocess.run(
                ["git", *arguments],
                check=False,
                cwd=root,
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    changes = git("status", "--porcelain")
    return {
        "commit": git("rev-parse", "HEAD"),
        "clean": None if changes is None else changes == "",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "hardware": {
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "system": platform.platform(terse=True),
        },
    }
