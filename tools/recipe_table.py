"""The recipes of many results, each averaged over its seeds, as a Markdown table.

python -m tools.recipe_table [FOLDER ...]
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar10.runs.result import repeat_command
from cifar10.sweeps.grouping import (
    Run,
    describe_hardware,
    find_runs,
    format_mean,
    group_over_seeds,
)

# Heading, split and metric in result.json, format.
COLUMNS = (
    ("test top-1", "test", "top1", "{:.2%}"),
    ("6-view TTA", "test_views", "top1", "{:.2%}"),
    ("test top-3", "test", "top3", "{:.2%}"),
    ("test top-5", "test", "top5", "{:.2%}"),
    ("test loss", "test", "loss", "{:.4f}"),
)


def as_markdown(runs: Sequence[Run]) -> str:
    """A Markdown table with one row per recipe, and the hardware below it.

    Metrics are given as mean ± sample standard deviation, the training time as median. Runs that
    are not `ok` are counted, not averaged. Runs that were started with `data.val_seed` equal to
    their seed are averaged over splits as well.
    """
    runs = list(map(without_split, runs))
    groups = group_over_seeds(runs, same_hardware=True)
    columns = [column for column in COLUMNS if any(column[1] in run for run in runs)]
    head = ["recipe", "epochs", "training", *(column[0] for column in columns), "seeds"]
    lines = [head, ["---"] * len(head)]
    for group in groups:
        first = group.runs[0]
        seconds = statistics.median(run["seconds"]["training"] for run in group.runs)
        cells = [f"`{repeat_command(first)}`", str(first["epochs"]), f"{seconds:.0f} s"]
        for _, split, metric, form in columns:
            cells.append(format_mean(group.values(split, metric), form))
        lines.append([*cells, str(len(group.runs))])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    hardware = dict.fromkeys(describe_hardware(run) for group in groups for run in group.runs)
    names = "; ".join(hardware).replace(" 1 threads", " 1 thread")  # as version 0.1 wrote it
    notes = [f"Measured on {names}."] if hardware else []
    if unfinished := sum(run["status"] != "ok" for run in runs):
        notes.append(f"{unfinished} not finished.")
    return "\n\n".join([table, *notes])


def without_split(run: Run) -> Run:
    """A run without its `data.val_seed`, if that was typed and equals its seed."""
    typed = f"data.val_seed={run.get('seed')}"
    if typed not in run["overrides"]:
        return run
    settings = {key: value for key, value in run["settings"].items() if key != "data.val_seed"}
    return run | {"settings": settings, "overrides": [w for w in run["overrides"] if w != typed]}


if __name__ == "__main__":
    folders = sys.argv[1:] or ["outputs"]
    if found := find_runs(map(Path, folders)):
        print(as_markdown(found))
    else:
        sys.exit(f"error: no result.json in {', '.join(folders)}")
