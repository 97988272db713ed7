"""What a sweep found: a table with seeds merged, a CSV file, pictures."""

import csv
import io
import json
import logging
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cifar10.core.errors import UserError, one_line
from cifar10.core.files import atomic_write
from cifar10.core.settings import flatten
from cifar10.runs import result as results
from cifar10.runs.run_dir import LOCK, is_free
from cifar10.sweeps import figures as sweep_figures
from cifar10.sweeps import summary

log = logging.getLogger(__name__)

FOLDER, TABLE = "figures", "summary.csv"
FIGURES = (("val", "loss"), ("val", "top1"), ("test", "top1"), ("test", "loss"))


@dataclass
class Setting:
    """Runs of a sweep that differ in their seed alone."""

    values: dict[str, Any]  # of the settings that differ within the sweep
    runs: list[dict[str, Any]]

    def figures(self, split: str, metric: str) -> list[float]:
        return [run[split][metric] for run in self.runs if metric in run.get(split, {})]

    def mean(self, split: str, metric: str) -> float:
        return statistics.mean(self.figures(split, metric) or [float("nan")])


def read(folder: Path) -> list[dict[str, Any]]:
    """Every result.json below a folder.

    Raises:
        UserError: there is none.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "there is no such folder"
        raise UserError(f"{folder}: {what}")
    if (folder / results.RESULT_FILE).exists():  # whose own pictures have the same names
        raise UserError(f"{folder}: is one run; give the folder that has several below it")
    if found := summary.find([folder]):
        return found
    raise UserError(f"{folder}: there is no {results.RESULT_FILE} in or below it")


def varied(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that differ among runs, apart from the seed.

    What only some of them have, as a network's own settings where networks differ, counts if it
    differs among those.
    """
    known = [flat(run) for run in runs]
    keys = dict.fromkeys(key for own in known for key in own if key != "seed")
    return [key for key in keys if len({str(own[key]) for own in known if key in own}) > 1]


def flat(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings, dotted; with its callbacks, which may choose another epoch."""
    config = flatten(run.get("config", {}))
    callbacks = {key: config[key] for key in config if key.startswith("callbacks.")}
    return run.get("settings", {}) | callbacks


def settings(runs: Sequence[dict[str, Any]], by: str) -> list[Setting]:
    """The finished runs with their seeds merged, the best first; of one seed the latest counts."""
    keys = varied([run for run in runs if "settings" in run])
    merged: dict[str, tuple[dict, dict]] = {}
    for run in sorted(runs, key=lambda run: str(run.get("started"))):
        if run["status"] == "ok":
            own = flat(run)
            values = {key: own.get(key) for key in keys}
            merged.setdefault(json.dumps(values), (values, {}))[1][run["seed"]] = run
    rows = [Setting(values, list(seeds.values())) for values, seeds in merged.values()]
    split, metric = by.split("/")
    sign = 1 if metric == "loss" else -1
    # Runs without validation have nothing to be compared by, and stand at the end.
    return sorted(
        rows,
        key=lambda row: (not row.figures(split, metric), sign * row.mean(split, metric)),
    )


def summarise(folder: Path, by: str = "val/loss") -> str:
    """Sum up the runs of a sweep: gives a table for the terminal, leaves CSV and pictures.

    Args:
        folder: with the runs below it.
        by: the figure whose best mean stands first, as `val/loss` or `val/top1`.

    Raises:
        UserError: there is no run in the folder.
    """
    runs = read(folder)
    rows = settings(runs, by)
    with atomic_write(folder / TABLE) as file:
        file.write(as_csv(rows).encode())
    drawn = draw(folder, runs, rows)
    lines = [as_table(rows)] if rows else []
    unfinished = [run for run in runs if run["status"] not in ("ok", "pruned")]
    for run in sorted(unfinished, key=lambda run: str(run["overrides"])):
        works = not is_free(Path(run["folder"], LOCK))
        why = "in another process" if works else run.get("error") or "broken off"
        lines.append(f"{run['status']}: {' '.join(run['overrides'])}: {why}")
    if pruned := sum(run["status"] == "pruned" for run in runs):
        lines.append(f"{pruned} stopped early, as much worse than the others")
    if rows and rows[0].figures(*by.split("/")):
        best = rows[0].runs[0]
        lines.append(f"best: {summary.command(best, best['folder'])}")
        lines.append(f"its runs: {', '.join(run['folder'] for run in rows[0].runs)}")
    lines.append(f"written to: {folder / TABLE}{f', {folder / FOLDER}' if drawn else ''}")
    return "\n".join(lines)


def as_table(rows: Sequence[Setting]) -> str:
    """Rows as text; a figure of several seeds as mean ± sample standard deviation."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    keys = list(rows[0].values)
    for key in keys:
        table.add_column(key.removeprefix("optimizer.").removeprefix("model."), overflow="fold")
    shown = [(f, m) for f, m in FIGURES if any(row.figures(f, m) for row in rows)]
    for split, metric in shown:
        table.add_column(f"{split}/{metric}", justify="right", no_wrap=True)
    table.add_column("runs", justify="right")
    for row in rows:
        cells = [short(row.values[key]) for key in keys]
        for split, metric in shown:
            form = "{:.4f}" if metric == "loss" else "{:.2%}"
            cells.append(summary.spread(row.figures(split, metric), form))
        table.add_row(*cells, str(len(row.runs)))
    wide = max(80, 24 * len(table.columns))
    console = Console(file=io.StringIO(), width=wide, force_jupyter=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().splitlines())


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_csv(rows: Sequence[Setting]) -> str:
    """Rows as CSV: what differs, then mean, standard deviation and number of each figure."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    keys = list(rows[0].values) if rows else []
    names = [f"{split}/{metric}" for split, metric in FIGURES]
    writer.writerow([*keys, *(f"{name} {what}" for name in names for what in ("mean", "std")), "n"])
    for row in rows:
        cells: list[Any] = [row.values[key] for key in keys]
        for figure in FIGURES:
            values = row.figures(*figure)
            cells.append(statistics.mean(values) if values else "")
            cells.append(statistics.stdev(values) if len(values) > 1 else "")
        writer.writerow([*cells, len(row.runs)])
    return buffer.getvalue()


def draw(folder: Path, runs: Sequence[dict[str, Any]], rows: Sequence[Setting]) -> bool:
    """Leave the sweep's pictures in its folder. What fails is only logged."""
    from cifar10.reports.run_report import save_figures as save

    try:
        best = rows[0].runs if len(rows) > 1 else []
        kinds = [
            "best" if r in best else "finished" if r["status"] == "ok" else "stopped" for r in runs
        ]
        histories = {
            kind: [r.get("history", []) for r, own in zip(runs, kinds, strict=True) if own == kind]
            for kind in set(kinds)
        }
        drawn = {"curves": sweep_figures.curves(histories)}
        figures = [row.figures("val", "loss") for row in rows]
        losses = [row.mean("val", "loss") for row in rows]
        spreads = [statistics.stdev(own) if len(own) > 1 else 0.0 for own in figures]
        values = [row.values for row in rows]
        if len(rows) > 1 and rows[0].values:
            drawn["settings"] = sweep_figures.scatter(values, losses, spreads)
            drawn["parallel"] = sweep_figures.parallel(values, losses)
        if weights := importance(folder):
            drawn["importance"] = sweep_figures.importance(weights)
        save(drawn, folder / FOLDER)
    except Exception as error:  # a table is not lost for a picture
        log.warning("the sweep's pictures are incomplete: %s", one_line(error))
        return False
    return True


def importance(folder: Path) -> dict[str, float]:
    """How much of the spread of a search's figure each setting explains; nothing without a search.

    Read from the file in the folder; a shared storage elsewhere has it from its own tools.
    """
    from cifar10.sweeps.search import STUDY

    if not (folder / "study.db").exists():
        return {}
    try:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = f"sqlite:///{(folder / 'study.db').absolute()}"
        study = optuna.load_study(study_name=STUDY, storage=storage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Optuna about too few trials
            return optuna.importance.get_param_importances(study)
    except (ImportError, ValueError, RuntimeError):  # too few trials, or all alike
        return {}
