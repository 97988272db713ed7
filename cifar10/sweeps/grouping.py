"""Runs grouped over seeds, for tables and figures."""

import json
import logging
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar10.core.errors import UserError
from cifar10.core.legacy import rename_targets, upgrade_settings
from cifar10.core.settings import flatten
from cifar10.runs.result import RESULT_FILE, read_result, recipe_overrides

log = logging.getLogger(__name__)

Run = dict[str, Any]  # the content of a result.json, and its `folder`


@dataclass
class Group:
    """Finished runs that differ only in their seed, and their settings that other groups lack."""

    settings: dict[str, Any]
    runs: list[Run]

    def values(self, split: str, metric: str) -> list[float]:
        return [run[split][metric] for run in self.runs if metric in run.get(split, {})]

    def mean(self, split: str, metric: str) -> float:
        return statistics.mean(self.values(split, metric) or [float("nan")])

    def std(self, split: str, metric: str) -> float | None:
        """Sample standard deviation; None for a single run."""
        values = self.values(split, metric)
        return statistics.stdev(values) if len(values) > 1 else None


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Read every result.json in and below the paths, and report the unreadable ones."""
    found = []
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob(RESULT_FILE)):
            try:
                found.append(read_result(file) | {"folder": str(file.parent)})
            except UserError as error:
                log.warning("%s; skipped", error)
    return found


def group_over_seeds(runs: Iterable[Run], same_hardware: bool = False) -> list[Group]:
    """Group finished runs that differ only in their seed, in the order of their start.

    Of several runs with one seed, the latest counts. `same_hardware` separates hardware, software.
    """
    runs = [run for run in runs if "settings" in run]
    grouped: dict[str, tuple[dict[str, Any], dict[int, Run]]] = {}
    compared = zip(runs, compared_settings(runs), strict=True)
    for run, settings in sorted(compared, key=lambda pair: str(pair[0].get("started"))):
        if run["status"] == "ok":
            changes = list(filter(None, map(recipe_overrides, run.get("resumed", []))))
            where = describe_hardware(run) if same_hardware else None
            key = json.dumps([settings, changes, where], sort_keys=True)
            grouped.setdefault(key, (settings, {}))[1][run["seed"]] = run
    return [Group(settings, list(seeds.values())) for settings, seeds in grouped.values()]


def compared_settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The settings of each run that differ among the runs, apart from the seed.

    A setting that only some runs have counts where it was typed, or where those runs differ in
    it. Otherwise a later version has added it, with a default that changes nothing, or it belongs
    to a class that another setting chooses.
    """
    pairs = [(flat_settings(run), typed_settings(run)) for run in runs]
    counts = Counter(key for settings, _ in pairs for key in settings)
    partial = {key for key, count in counts.items() if count < len(runs)}
    untyped = {  # values that nobody typed
        key: {str(own[key]) for own, words in pairs if key in own and key not in words}
        for key in partial
    }
    compared = []
    for settings, words in pairs:
        chosen = {
            key: value
            for key, value in settings.items()
            if key not in partial or key in words or len(untyped[key]) > 1
        }
        # Words that choose a whole group, or leave one out: `callbacks=ema`, `~callbacks.best`.
        for word, value in words.items():
            chooses = any(word == "experiment" or key.startswith(f"{word}.") for key in partial)
            if chooses and word not in settings:
                chosen[word] = value
        compared.append(chosen)
    shared = Counter((key, str(value)) for each in compared for key, value in each.items())
    return [
        {key: value for key, value in each.items() if shared[key, str(value)] < len(runs)}
        for each in compared
    ]


def flat_settings(run: Run) -> dict[str, Any]:
    """A run's settings by dotted key, with its callbacks, without its seed."""
    callbacks = flatten(rename_targets(run.get("config", {}).get("callbacks") or {}), "callbacks.")
    settings = upgrade_settings(run["settings"]) | callbacks
    return {key: value for key, value in settings.items() if key not in ("seed", "report")}


def typed_settings(run: Run) -> dict[str, str]:
    """The overrides of a run, by key."""
    parts = [word.lstrip("+~").partition("=") for word in recipe_overrides(run)]
    return {key: value or "removed" for key, _, value in parts}


def describe_hardware(run: Run) -> str:
    return f"{run['device']}, {run['precision']['value']}, torch {run['versions']['torch']}"


def format_mean(values: Sequence[float], form: str) -> str:
    """Mean ± sample standard deviation; a single value alone; of none, an empty text."""
    if len(values) < 2:
        return form.format(*values) if values else ""
    return " ± ".join(form.format(f(values)) for f in (statistics.mean, statistics.stdev))
