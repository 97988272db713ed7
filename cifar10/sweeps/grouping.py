"""Runs grouped over seeds, for tables and figures."""

import json
import logging
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cifar10.core.errors import UserError
from cifar10.core.instantiate import is_user_code
from cifar10.core.legacy import ADDED, upgrade_config, upgrade_settings
from cifar10.core.settings import CONFIGS, flatten
from cifar10.runs.result import RESULT_FILE, read_result, recipe_overrides

log = logging.getLogger(__name__)

# Ignored when grouping: the seed, and settings that change no figure.
DISPLAY = re.compile(
    r"seed|report|callbacks\..*\.dirpath|"
    r"trainer\.(profiler.*|enable_progress_bar|enable_model_summary|log_every_n_steps)"
)

Run = dict[str, Any]  # the content of a result.json, and its `folder`


@dataclass
class Group:
    """Finished runs that differ only in their seed, and their settings that other groups lack."""

    settings: dict[str, Any]
    runs: list[Run]

    def values(self, split: str, metric: str) -> list[float]:
        values = (run.get(split, {}).get(metric) for run in self.runs)
        return [value for value in values if value is not None]

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
    compared = zip(runs, differing_settings(runs), strict=True)
    for run, settings in sorted(compared, key=lambda pair: str(pair[0].get("started"))):
        if run["status"] == "ok":
            changes = list(filter(None, map(recipe_overrides, run.get("resumed", []))))
            where = describe_hardware(run) if same_hardware else None
            key = json.dumps([settings, changes, where], sort_keys=True)
            grouped.setdefault(key, (settings, {}))[1][run["seed"]] = run
    implied = implied_keys([settings for settings, _ in grouped.values()])
    return [
        Group({k: v for k, v in settings.items() if k not in implied}, list(seeds.values()))
        for settings, seeds in grouped.values()
    ]


def differing_settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The settings of each run that differ among the runs, apart from the seed.

    A setting that a run lacks differs from every value of it.
    """
    settings = [flat_settings(run) for run in runs]
    shared = Counter((key, str(value)) for each in settings for key, value in each.items())
    return [
        {key: value for key, value in each.items() if shared[key, str(value)] < len(runs)}
        for each in settings
    ]


def implied_keys(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys whose value follows from a class: `model.dropout` where only ConvNet has it."""
    implied = set()
    for key in {key for each in settings for key in each}:
        group = key.rpartition(".")[0]
        values: dict[str, set[str]] = {}  # by class
        for each in settings:
            values.setdefault(str(each.get(group, "")), set()).add(str(each.get(key, ...)))
        if len(values) > 1 and all(len(found) == 1 for found in values.values()):
            implied.add(key)
    return implied


def flat_settings(run: Run) -> dict[str, Any]:
    """A run's settings by dotted key, with its callbacks, without what changes no result."""
    config = run.get("config") or {"callbacks": default_callbacks()}  # early ones lack it
    callbacks = {
        key.removesuffix("._target_"): str(value) if isinstance(value, list | dict) else value
        for key, value in flatten(
            upgrade_config(config, to_resume=False).get("callbacks") or {}, "callbacks."
        ).items()
        if not key.startswith("callbacks.last.") and value is not None
    }
    digests = {key: digest[:8] for key, digest in run.get("digests", {}).items()}
    settings = ADDED | upgrade_settings(run["settings"]) | callbacks | digests
    if (data := run.get("data", {})).get("name") == "folder":  # CIFAR-10 is always the same
        settings["data.digest"] = data.get("digest")
    for group, spec in config.items():  # two of the user's classes may have one name
        if isinstance(spec, dict) and is_user_code(spec.get("_target_")):
            settings[group] = spec["_target_"]
    return {key: value for key, value in settings.items() if not DISPLAY.fullmatch(key)}


def default_callbacks() -> dict[str, Any]:
    text = (CONFIGS / "callbacks" / "default.yaml").read_text(encoding="utf-8")
    callbacks: dict[str, Any] = yaml.safe_load(text)
    return callbacks


def describe_hardware(run: Run) -> str:
    return f"{run['device']}, {run['precision']['value']}, torch {run['versions']['torch']}"


def format_mean(values: Sequence[float], form: str) -> str:
    """Mean ± sample standard deviation; a single value alone; of none, an empty text."""
    if len(values) < 2:
        return form.format(*values) if values else ""
    return " ± ".join(form.format(f(values)) for f in (statistics.mean, statistics.stdev))
