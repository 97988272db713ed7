"""result.json: write, read, summarise."""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cifar10.atomic import replacing
from cifar10.errors import UserError

NAME = "result.json"
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core")


def claim(folder: Path, result: dict[str, Any]) -> None:
    """Put the first result.json, of status `running`, into a folder that holds none.

    Raises:
        UserError: the folder belongs to another run, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / NAME).open("x", encoding="utf-8") as file:
            file.write(dumps(result))
    except FileExistsError as error:
        raise UserError(
            f"{folder} already holds a run: give this one another folder with hydra.run.dir=..."
        ) from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error


def write(folder: Path, result: dict[str, Any]) -> None:
    """Replace a folder's result.json, whole or not at all."""
    with replacing(folder / NAME) as file:
        file.write(dumps(result).encode())


def dumps(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=2, allow_nan=False) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Read a result.json.

    Raises:
        UserError: it is missing or not a result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no readable result.json: {error}") from error
    if not isinstance(result, dict) or "status" not in result:
        raise UserError(f"{path} is no result.json: it has no status")
    return result


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
            "cpu": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "system": platform.platform(terse=True),
        },
    }


def find(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read every result.json, and every JSON file named as such, in and below the paths."""
    files = [
        file
        for path in paths
        for file in ([path] if path.is_file() else sorted(path.rglob("*.json")))
    ]
    return [read(file) for file in files]


# Heading, key in result.json, how to print mean and spread.
COLUMNS = (
    ("test top-1", "top1", "{:.2%} ± {:.2%}"),
    ("test top-3", "top3", "{:.2%} ± {:.2%}"),
    ("test top-5", "top5", "{:.2%} ± {:.2%}"),
    ("test loss", "loss", "{:.4f} ± {:.4f}"),
)


def summarise(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with a line for each recipe: mean ± sample standard deviation over seeds.

    Results that differ in their seed alone are one recipe; those that are not `ok` are counted,
    not averaged.
    """
    recipes: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result["status"] == "ok":
            overrides = [o for o in result["overrides"] if not o.startswith(("seed=", "hydra."))]
            command = " ".join(["python train.py", *overrides])
            recipes.setdefault(command, []).append(result)
    head = [
        "recipe",
        "epochs",
        "training",
        *(heading for heading, _, _ in COLUMNS),
        "seeds",
    ]
    lines = [head, ["---"] * len(head)]
    for command, runs in recipes.items():
        seconds = statistics.median(run["seconds"]["training"] for run in runs)
        cells = [f"`{command}`", str(runs[0]["epochs"]), f"{seconds:.0f} s"]
        for _, key, form in COLUMNS:
            values = [run["test"][key] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(form.format(statistics.mean(values), spread))
        lines.append([*cells, str(len({run["seed"] for run in runs}))])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    others = sum(result["status"] != "ok" for result in results)
    return table + (f"\n\n{others} not finished." if others else "")


if __name__ == "__main__":
    try:
        print(summarise(find(map(Path, sys.argv[1:] or ["outputs"]))))
    except UserError as error:
        sys.exit(str(error))
