"""result.json: write, read, summarise."""

import hashlib
import json
import logging
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cifar10.atomic import remove_leftovers, replacing
from cifar10.errors import UserError

log = logging.getLogger(__name__)

NAME = "result.json"
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core")


def refuse_used(folder: Path) -> None:
    """Raise a UserError if the folder belongs to another run."""
    from cifar10.checkpoint import LAST, PREVIOUS  # with torch and Lightning

    if (folder / NAME).exists():
        raise UserError(
            f"{folder} already holds a run: go on with it by resume=FOLDER, or give this one "
            f"another folder with hydra.run.dir=FOLDER"
        )
    for name in (LAST, PREVIOUS):  # which this run, once resumed, would take for its own
        if os.path.lexists(folder / name):
            raise UserError(
                f"{folder} holds a {name} without its run's {NAME}: move it away, or give this run "
                f"another folder with hydra.run.dir=FOLDER"
            )


def claim(folder: Path, result: dict[str, Any], fresh: bool = True) -> FileLock:
    """Take a folder for this process alone, and put a result.json of status `running` into it.

    Args:
        fresh: the folder must hold no run yet.

    Returns:
        The lock, which the system lets go of when the process ends, however it does.

    Raises:
        UserError: the folder belongs to another run or process, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".run.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use by another process that is running it") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error
    try:
        if fresh:
            refuse_used(folder)
        remove_leftovers(folder)
        write(folder, result)
    except OSError as error:
        lock.release()
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error
    except UserError:
        lock.release()
        raise
    return lock


def write(folder: Path, result: dict[str, Any]) -> None:
    """Replace a folder's result.json, whole or not at all."""
    with replacing(folder / NAME) as file:
        file.write(dumps(result).encode())


def dumps(result: dict[str, Any]) -> str:
    return json.dumps(finite(result), indent=2, allow_nan=False) + "\n"


def config(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a run that is to be resumed, as they were.

    Raises:
        UserError: they are not those that the run wrote.
    """
    if digest(result.get("config", {})) != result.get("config_digest"):
        raise UserError(
            f"{folder / NAME} has other settings than its run wrote: it is damaged or was changed, "
            f"so the run cannot go on"
        )
    return result["config"]


def is_finished(result: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a run has done all that its settings, which may have changed since, ask for."""
    more = settings["trainer"]["max_epochs"] > result.get("epochs", 0)
    return result["status"] == "ok" and not (more and settings != result["config"])


def digest(config: dict[str, Any]) -> str:
    """SHA-256 of a run's settings; a resumed run must find them as they were."""
    return hashlib.sha256(json.dumps(finite(config), sort_keys=True).encode()).hexdigest()


def finite(value: Any) -> Any:
    """A plain value with null for every number that JSON cannot hold, NaN and the infinities."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> dict[str, Any]:
    """Read a result.json.

    Raises:
        UserError: it is missing or not a result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no readable result.json: {error}") from error
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
    if type(result.get("epochs", 0)) is not int:
        raise UserError(f"{path} is no result.json: its epochs are {result['epochs']!r}")
    return result


def processor() -> str:
    import torch

    return torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "unknown"


def surroundings() -> dict[str, Any]:
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
            "cpu": processor(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "system": platform.platform(terse=True),
        },
    }


def find(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read the result.json of every run in and below the paths; those that can't be are named."""
    found = []
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob(NAME)):
            try:
                found.append(read(file))
            except UserError as error:
                log.warning("%s; passed over", error)
    return found


# Heading, where it stands in result.json, how to print it.
COLUMNS = (
    ("test top-1", "test", "top1", "{:.2%}"),
    ("six views", "test_views", "top1", "{:.2%}"),
    ("test top-3", "test", "top3", "{:.2%}"),
    ("test top-5", "test", "top5", "{:.2%}"),
    ("test loss", "test", "loss", "{:.4f}"),
)


def summarise(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with a line for each recipe, and what it was measured on.

    Results that differ in their seed alone, on the same hardware, are one recipe, whose figures are
    given as mean ± sample standard deviation and whose training time as median; of several runs
    with one seed, the latest counts. Those that are not `ok` are counted, not averaged.
    """
    recipes: dict[str, dict[int, dict[str, Any]]] = {}
    for result in sorted(results, key=lambda result: result.get("started", "")):
        if result["status"] == "ok":
            changes = [later["overrides"] for later in result.get("resumed", [])]
            own = result["settings"] | {"seed": None}
            recipe = json.dumps([own, place(result), [some for some in changes if some]])
            recipes.setdefault(recipe, {})[result["seed"]] = result
    columns = [column for column in COLUMNS if any(column[1] in result for result in results)]
    head = ["recipe", "epochs", "training", *(column[0] for column in columns), "seeds"]
    lines = [head, ["---"] * len(head)]
    for runs in (list(seeds.values()) for seeds in recipes.values()):
        seconds = statistics.median(run["seconds"]["training"] for run in runs)
        cells = [f"`{command(runs[0])}`", str(runs[0]["epochs"]), f"{seconds:.0f} s"]
        for _, split, key, form in columns:
            values = [run[split][key] for run in runs if split in run]
            cell = form.format(statistics.mean(values)) if values else ""
            if len(values) > 1:
                cell += f" ± {form.format(statistics.stdev(values))}"
            cells.append(cell)
        lines.append([*cells, str(len(runs))])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    places = dict.fromkeys(place(run) for seeds in recipes.values() for run in seeds.values())
    notes = [f"Measured on {'; '.join(places)}."] if places else []
    if unfinished := sum(result["status"] != "ok" for result in results):
        notes.append(f"{unfinished} not finished.")
    return "\n\n".join([table, *notes])


def place(result: dict[str, Any]) -> str:
    """The hardware and software that gave a result."""
    precision, torch = result["precision"]["value"], result["versions"]["torch"]
    return f"{result['device']}, {precision}, torch {torch}"


def command(result: dict[str, Any]) -> str:
    """What was typed, without what differs from run to run of one recipe."""
    typed = [result["overrides"], *(later["overrides"] for later in result.get("resumed", []))]
    first, *later = ([o for o in some if not o.startswith(("seed=", "hydra."))] for some in typed)
    lines = [first, *(["resume=RUN", *some] for some in later if some)]
    return " && ".join(shlex.join(["python", "train.py", *line]) for line in lines)


if __name__ == "__main__":
    folders = sys.argv[1:] or ["outputs"]
    if found := find(map(Path, folders)):
        print(summarise(found))
    else:
        sys.exit(f"error: there is no result.json in {', '.join(folders)}")
