"""The lines that a sweep prints for each of its runs."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from cifar10.core.display import printable
from cifar10.core.errors import UserError
from cifar10.runs.console import format_duration
from cifar10.runs.result import RESULT_FILE, read_result


def name_run(sweep: Mapping[str, Any]) -> str:
    """A run's number, from its settings `sweep`: `run 3 of 8`; in a search `trial 3 of 30`."""
    kind = "run" if sweep["trial"] is None else "trial"
    return f"{kind} {sweep['run']} of {sweep['runs']}"


def begin_line(sweep: Mapping[str, Any], folder: Path) -> str:
    """The first line of a run in a sweep's folder: `run 3 of 8: lr=0.1, about 4 min left`."""
    seconds = []
    for path in folder.glob(f"*/{RESULT_FILE}"):
        with contextlib.suppress(UserError):
            result = read_result(path)
            if result["status"] in ("ok", "pruned", "failed") and "seconds" in result:
                seconds.append(result["seconds"]["total"])
    line = printable(f"{name_run(sweep)}: {sweep['label'] or 'started'}")
    if (runs_left := sweep["runs"] - len(seconds)) < 1 or not seconds:
        return line
    return f"{line}, about {format_duration(mean(seconds) * runs_left, rough=True)} left"


def end_line(sweep: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The last line of a run: `run 3 of 8: 83.90% val top-1, loss 0.5445, 2 min 43 s`."""
    val = result.get("val", {})
    outcome = "finished"
    if result["status"] != "ok":
        outcome = result["error"]
    elif "top1" in val:
        outcome = f"{val['top1']:.2%} val top-1, loss {val['loss']:.4f}"
    return f"{name_run(sweep)}: {outcome}, {format_duration(result['seconds']['total'])}"
