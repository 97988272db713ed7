"""Results of many runs in one table.

python -m cifar10.sweeps.summary [FOLDER ...]
"""

import json
import logging
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cifar10.core.errors import UserError
from cifar10.runs.result import RESULT_FILE, read_result

log = logging.getLogger(__name__)


def find(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read the result.json of every run in and below the paths; those that can't be are named.

    Each has its `folder` besides.
    """
    found = []
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob(RESULT_FILE)):
            try:
                found.append(read_result(file) | {"folder": str(file.parent)})
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
    # A setting that came later does nothing unless it was typed.
    known = [set(result["settings"]) for result in results if result["status"] == "ok"]
    common = sorted(set.intersection(*known) - {"seed"}) if known else []
    newer = {key for keys in known for key in keys}.difference(common, {"seed"})
    for result in sorted(results, key=lambda result: result.get("started", "")):
        if result["status"] == "ok":
            changes = [later["overrides"] for later in result.get("resumed", [])]
            own = {key: result["settings"][key] for key in common}
            later = [word for word in result["overrides"] if word.split("=")[0] in newer]
            recipe = json.dumps([own, later, place(result), [some for some in changes if some]])
            recipes.setdefault(recipe, {})[result["seed"]] = result
    columns = [column for column in COLUMNS if any(column[1] in result for result in results)]
    head = ["recipe", "epochs", "training", *(column[0] for column in columns), "seeds"]
    lines = [head, ["---"] * len(head)]
    for runs in (list(seeds.values()) for seeds in recipes.values()):
        seconds = statistics.median(run["seconds"]["training"] for run in runs)
        cells = [f"`{command(runs[0])}`", str(runs[0]["epochs"]), f"{seconds:.0f} s"]
        for _, split, key, form in columns:
            cells.append(spread([run[split][key] for run in runs if split in run], form))
        lines.append([*cells, str(len(runs))])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    places = dict.fromkeys(place(run) for seeds in recipes.values() for run in seeds.values())
    notes = [f"Measured on {'; '.join(places)}."] if places else []
    if unfinished := sum(result["status"] != "ok" for result in results):
        notes.append(f"{unfinished} not finished.")
    return "\n\n".join([table, *notes])


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± sample standard deviation; one value as it is, none as nothing."""
    if len(values) < 2:
        return form.format(*values) if values else ""
    return " ± ".join(form.format(value(values)) for value in (statistics.mean, statistics.stdev))


def place(result: dict[str, Any]) -> str:
    """The hardware and software that gave a result."""
    precision, torch = result["precision"]["value"], result["versions"]["torch"]
    return f"{result['device']}, {precision}, torch {torch}"


def command(result: dict[str, Any], folder: str = "RUN") -> str:
    """What was typed, without what differs from run to run of one recipe.

    Args:
        folder: of a run that was gone on with.
    """
    typed = [result["overrides"], *(later["overrides"] for later in result.get("resumed", []))]
    own = ("seed=", "hydra.", "resume=")
    first, *later = ([word for word in some if not word.startswith(own)] for some in typed)
    lines = [first, *([f"resume={folder}", *some] for some in later if some)]
    return " && ".join(shlex.join(["python", "train.py", *line]) for line in lines)


if __name__ == "__main__":
    folders = sys.argv[1:] or ["outputs"]
    if found := find(map(Path, folders)):
        print(summarise(found))
    else:
        sys.exit(f"error: there is no result.json in {', '.join(folders)}")
