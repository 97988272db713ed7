"""The summary of a sweep: a table for the terminal, a CSV file, figures."""

import csv
import io
import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar10.core.display import as_text, csv_cell, printable, safe_table
from cifar10.core.errors import UserError, one_line
from cifar10.core.files import atomic_write
from cifar10.runs.result import RESULT_FILE, repeat_command
from cifar10.runs.run_dir import LOCK, is_free
from cifar10.sweeps.grouping import (
    Group,
    Run,
    differing_settings,
    find_runs,
    format_mean,
    group_over_seeds,
)
from cifar10.sweeps.sweeper import short_name

log = logging.getLogger(__name__)

METRICS = (("val", "loss"), ("val", "top1"), ("test", "top1"), ("test", "loss"))


def summarise(
    paths: Sequence[Path],
    by: str = "val/loss",
    partial: bool = False,
    per_run: bool = False,
    out: Path | None = None,
) -> str:
    """A table of runs, the best mean of `by` first; CSV and figures are saved.

    Args:
        paths: folders of runs, or single runs.
        partial: include runs on a part of the data, such as those with `limit_train_batches`.
        per_run: also save runs.csv, with a row per run.
        out: folder of the files; by default the given folder, the current one if there are several.
    """
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    if len(paths) == 1 and (paths[0] / RESULT_FILE).exists():  # its figures would be overwritten
        raise UserError(f"{paths[0]}: is a single run; name several, or the folder that has them")
    if not (found := find_runs(paths)):
        raise UserError(f"{', '.join(map(str, paths))}: contains no {RESULT_FILE}")
    out = out or (paths[0] if len(paths) == 1 else Path())
    runs = [run for run in found if partial or not run.get("partial")]
    lines = []
    if left_out := len(found) - len(runs):
        lines = [f"{'left out':<12}{left_out} runs on a part of the data; add --partial"]
    split, metric = by.split("/")
    sign = 1 if metric == "loss" else -1
    groups = sorted(  # runs without validation come last
        group_over_seeds(runs),
        key=lambda group: (not group.values(split, metric), sign * group.mean(split, metric)),
    )
    keys = list(dict.fromkeys(key for group in groups for key in group.settings))
    tables = {"summary.csv": as_csv(groups, keys)}
    if per_run:
        tables["runs.csv"] = runs_as_csv(runs)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        with atomic_write(out / name) as file:
            file.write(text.encode())
    lines += describe_unfinished(runs)
    if groups and groups[0].values(split, metric):
        best = groups[0].runs
        command, *needs = repeat_command(best[0], best[0]["folder"]).rsplit("\n", 1)
        lines.append(f"{'best':<12}{command}")
        lines.extend(f"{'':<12}{line}" for line in (*needs, *(run["folder"] for run in best)))
    saved = [*(out / name for name in tables), *draw_figures(out / "figures", runs, groups, keys)]
    lines.append(f"{'files':<12}{', '.join(map(str, saved))}")
    return "\n".join([*([as_table(groups, keys), ""] if groups else []), *map(printable, lines)])


def describe_unfinished(runs: Sequence[Run]) -> list[str]:
    """Lines for the runs without a result, with their status and its reason."""
    shared = set.intersection(*(set(run["overrides"]) for run in runs)) if runs else set()
    lines = []
    for run in sorted(runs, key=lambda run: str(run["overrides"])):
        if run["status"] not in ("ok", "pruned"):
            words = " ".join(short_name(word) for word in run["overrides"] if word not in shared)
            running = not is_free(Path(run["folder"], LOCK))
            why = "in another process" if running else run.get("error") or "interrupted"
            text = f"{run['status']:<12}{words or Path(run['folder']).name}: {why}"
            lines += textwrap.wrap(text, 80, subsequent_indent=" " * 12, break_long_words=False)
    if pruned := sum(run["status"] == "pruned" for run in runs):
        lines.append(f"{'pruned':<12}{pruned} of {len(runs)} trials")
    return lines


def as_table(groups: Sequence[Group], keys: Sequence[str]) -> str:
    """Groups as text of 80 columns."""
    fitting = METRICS[:3] if len(keys) <= 2 else METRICS[:2]
    shown = [pair for pair in fitting if any(group.values(*pair) for group in groups)]
    headers = [short_name(key).replace("_", " ") for key in keys]
    rows = []
    for group in groups:
        settings = [group.settings.get(key, "-") for key in keys]
        cells = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in settings]
        for split, metric in shown:
            form = "{:.4f}" if metric == "loss" else "{:.2%}"
            cells.append(format_mean(group.values(split, metric), form))
        rows.append([*cells, str(len(group.runs))])
    table = safe_table(
        [*headers, *(f"{a} {b.replace('top', 'top-')}" for a, b in shown), "runs"], rows
    )
    for column in table.columns[len(keys) :]:
        column.justify, column.no_wrap = "right", True
    return as_text(table, 80)


def as_csv(groups: Sequence[Group], keys: Sequence[str]) -> str:
    """Groups as CSV: their settings, then mean and standard deviation of each metric, then n."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [f"{split}/{metric} {what}" for split, metric in METRICS for what in ("mean", "std")]
    writer.writerow([*map(csv_cell, keys), *columns, "n"])
    for group in groups:
        cells: list[Any] = [group.settings.get(key) for key in keys]
        for pair in METRICS:
            cells += [group.mean(*pair) if group.values(*pair) else None, group.std(*pair)]
        writer.writerow([*map(csv_cell, cells), len(group.runs)])
    return buffer.getvalue()


def runs_as_csv(runs: Sequence[Run]) -> str:
    """A row per run: folder, status, seed, each setting that differs, all figures."""
    known = [run for run in runs if "settings" in run]
    settings = dict(zip(map(id, known), differing_settings(known), strict=True))
    rows = []
    for run in runs:
        row = {"folder": run["folder"], "status": run["status"], "seed": run.get("seed")}
        row |= settings.get(id(run), {})
        for split in ("val", "test", "test_views"):
            row |= {f"{split}/{key}": value for key, value in run.get(split, {}).items()}
        row |= {key: run.get(key) for key in ("epochs", "best_epoch", "images_per_second")}
        row |= {f"seconds/{key}": value for key, value in run.get("seconds", {}).items()}
        rows.append(row)
    buffer = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(row.get(key)) for key in columns] for row in rows)
    return buffer.getvalue()


def draw_figures(
    folder: Path, runs: Sequence[Run], groups: Sequence[Group], keys: Sequence[str]
) -> list[Path]:
    """Draw a sweep's figures into a folder, returned if it worked; an error is only logged."""
    from cifar10.reports.run_report import save_figures
    from cifar10.sweeps import figures

    try:
        if folder.is_symlink():  # in a folder of a stranger, to files of the user
            raise UserError(f"{folder} is a symbolic link, which is not followed")
        histories: dict[str, list] = {"stopped": [], "finished": [], "best": []}
        best = groups[0].runs if len(groups) > 1 else []
        for run in runs:
            kind = "best" if run in best else "finished" if run["status"] == "ok" else "stopped"
            histories[kind].append(run.get("history", []))
        drawn = {"curves": figures.loss_curves(histories)}
        if len(groups) > 1:
            settings = [{key: group.settings.get(key, "-") for key in keys} for group in groups]
            losses = [group.mean("val", "loss") for group in groups]
            spreads = [group.std("val", "loss") or 0.0 for group in groups]
            drawn["settings"] = figures.loss_by_setting(settings, losses, spreads)
        save_figures(drawn, folder)
    except Exception as error:  # the table is still useful without them
        log.warning("some figures of the sweep are missing: %s", one_line(error))
        return []
    return [folder]
