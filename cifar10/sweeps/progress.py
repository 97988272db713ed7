"""The lines that a sweep prints for each of its runs."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

from cifar10.core.errors import UserError
from cifar10.runs.console import format_duration
from cifar10.runs.result import RESULT_FILE, read_result


def name_run(sweep: Mapping[str, Any]) -> str:
    """The number of a run, such as `run 3 of 8` or, in a search, `trial 3 of 30`.

    Args:
        sweep: the group `sweep` of the run's settings.
    """
    kind = "run" if sweep["trial"] is None else "trial"
    return f"{kind} {sweep['run']} of {sweep['runs']}"


def begin_line(sweep: Mapping[str, Any], folder: Path) -> str:
    """The line for the beginning, such as `run 3 of 8: lr=0.1 seed=2, about 4 min left`.

    Args:
        sweep: as for `name_run`.
        folder: of the sweep; its finished runs give the time that is left.
    """
    parts = [sweep["label"] or "started"]
    if seconds := seconds_left(folder, sweep["runs"]):
        parts.append(f"about {format_duration(seconds, rough=True)} left")
    return f"{name_run(sweep)}: {', '.join(parts)}"


def end_line(sweep: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The line for the end, such as `run 3 of 8: 83.90% val top-1, loss 0.5445, 2 min 43 s`."""
    val = result.get("val", {})
    outcome = "finished"
    if result["status"] != "ok":
        outcome = result["error"]
    elif "top1" in val:
        outcome = f"{val['top1']:.2%} val top-1, loss {val['loss']:.4f}"
    return f"{name_run(sweep)}: {outcome}, {format_duration(result['seconds']['total'])}"


def seconds_left(folder: Path, runs: int) -> float | None:
    """Estimate the seconds until all runs of a sweep have finished; None before the first has."""
    starts, totals = [], []
    for path in folder.glob(f"*/{RESULT_FILE}"):
        try:
            result = read_result(path)
        except UserError:
            continue
        if result["status"] in ("ok", "pruned", "failed"):
            starts.append(datetime.fromisoformat(result["started"]).timestamp())
            totals.append(result["seconds"]["total"])
    if not totals:
        return None
    ends = [start + total for start, total in zip(starts, totals, strict=True)]
    in_parallel = max(1, round(sum(totals) / (max(ends) - min(starts) + 1e-9)))
    return mean(totals) * max(0, runs - len(totals)) / in_parallel
