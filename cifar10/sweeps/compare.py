"""Two or more runs side by side: their settings and figures that differ."""

import math
import string
from collections.abc import Sequence
from pathlib import Path

from cifar10.core.display import as_text, printable, safe_table
from cifar10.core.errors import SettingError
from cifar10.runs.result import RESULT_FILE, image_count, read_result
from cifar10.sweeps.grouping import Run, describe_hardware, differing_settings
from cifar10.training.metrics import wilson_interval

FIGURES = ("test", "test_views", "val")


def compare(paths: Sequence[Path]) -> str:
    """A table of finished runs: differing settings, figures with their 95% confidence intervals.

    Of two runs it also gives the difference of each accuracy with its interval, as if the images of
    both were drawn independently.
    """
    if not 1 < len(paths) <= len(string.ascii_uppercase):
        raise SettingError("compare: name two to 26 runs")
    for path in paths:
        if not (path / RESULT_FILE).exists():
            reason = f"not a run (no {RESULT_FILE})" if path.is_dir() else "no such run folder"
            raise SettingError(f"{path}: {reason}")
    runs = [read_result(path / RESULT_FILE) for path in paths]
    for path, run in zip(paths, runs, strict=True):
        if run["status"] != "ok":
            raise SettingError(f"{path}: has no results, its status is {run['status']}")
    letters = string.ascii_uppercase[: len(runs)]
    rows: list[list[str]] = []
    settings = differing_settings(runs)
    for key in sorted({key for each in settings for key in each}):
        rows.append([key, *(str(each.get(key, "-")) for each in settings)])
    rows.append(["seed", *(str(run["seed"]) for run in runs)])
    if len(set(map(describe_hardware, runs))) > 1:
        rows.append(["hardware", *map(describe_hardware, runs)])
    if any(run.get("partial") for run in runs):
        rows.append(["part of data", *(", ".join(run.get("partial") or ["-"]) for run in runs)])
    for split in FIGURES:
        for key in runs[0].get(split, {}):
            if all(run.get(split, {}).get(key) is not None for run in runs):
                rows.append([f"{split}/{key}", *figure_cells(runs, split, key)])
    times = [f"{run['seconds'].get('training', math.nan):,.1f} s" for run in runs]
    rows.append(["training", *times])
    difference = ["B - A"] * (len(runs) == 2)
    legend = [printable(f"{a}  {path}") for a, path in zip(letters, paths, strict=True)]
    return "\n".join([*legend, "", as_text(safe_table(["", *letters, *difference], rows), 100)])


def figure_cells(runs: Sequence[Run], split: str, key: str) -> list[str]:
    """A figure of each run, an accuracy with its interval; of two runs their difference."""
    values = [run[split][key] for run in runs]
    if not key.startswith("top"):
        change = f"{values[1] - values[0]:+.4f}"
        return [*(f"{value:.4f}" for value in values), *([change] if len(runs) == 2 else [])]
    counts = [image_count(run["data"], split) for run in runs]
    intervals = map(wilson_interval, values, counts)
    cells = [f"{v:.2%} ({a:.2%} to {b:.2%})" for v, (a, b) in zip(values, intervals, strict=True)]
    if len(runs) == 2:
        variance = sum(v * (1 - v) / n for v, n in zip(values, counts, strict=True))
        margin = 1.96 * math.sqrt(variance)
        cells.append(f"{values[1] - values[0]:+.2%} ± {margin:.2%}")
    return cells
