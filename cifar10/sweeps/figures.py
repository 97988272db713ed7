"""Figures that compare the runs of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifar10.reports.figures import BLUE, GREY, ORANGE, styled

NAME_LENGTH = 18
MAX_TICKS = 6  # an axis labels every value if there are at most so many numbers
MAX_NAMES = 24  # an axis labels no value if there are more names


@styled
def loss_curves(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure:
    """Validation loss over epochs, from the histories of `stopped`, `finished` and `best` runs."""
    looks: dict[str, dict[str, Any]] = {
        "stopped": dict(color=GREY, alpha=0.5, linestyle="--", marker="."),
        "finished": dict(color=BLUE, alpha=0.6, marker="."),
        "best": dict(color=ORANGE, linewidth=2.5, marker="o"),
    }
    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    for kind, look in looks.items():
        for history in runs.get(kind, []):
            points = [(e["epoch"], e["val/loss"]) for e in history if "val/loss" in e]
            if points:
                axes.plot(*zip(*points, strict=True), **look)
        if runs.get(kind):
            axes.plot([], [], label=kind, **look)
    axes.set(xlabel="epoch", ylabel="val/loss", title="Validation loss of every run")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend()
    return figure


def axis_positions(values: Sequence[Any]) -> tuple[np.ndarray, list[str] | None]:
    """Positions of values on an axis: numbers unchanged; else their ranks, and their names."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.array(values, dtype=float), None
    names = list(dict.fromkeys(map(str, values)))
    short = [n if len(n) <= NAME_LENGTH else f"{n[: NAME_LENGTH - 1]}…" for n in names]
    return np.array([names.index(str(v)) for v in values], dtype=float), short


def suits_log_scale(values: np.ndarray) -> bool:
    """Whether values are spaced more evenly on a logarithmic axis than on a linear one."""
    ordered = np.unique(values)
    if len(ordered) < 3 or ordered[0] <= 0:
        return False
    steps, factors = np.diff(ordered), np.diff(np.log(ordered))
    return bool(np.std(factors) / np.mean(factors) < np.std(steps) / np.mean(steps))


@styled
def loss_by_setting(
    settings: Sequence[Mapping[str, Any]], losses: Sequence[float], spreads: Sequence[float]
) -> Figure:
    """Mean and standard deviation of each group's validation loss against each varied setting."""
    keys = list(settings[0])
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4 * columns + 0.5, 3.4 * rows))
    for index, key in enumerate(keys, 1):
        axes = figure.add_subplot(rows, columns, index)
        positions, names = axis_positions([row[key] for row in settings])
        axes.errorbar(positions, losses, spreads, fmt="o", color=BLUE, alpha=0.7, capsize=3)
        axes.set(xlabel=key, ylabel="val/loss")
        if names:
            labels = names if len(names) <= MAX_NAMES else []
            axes.set_xticks(range(len(labels)), labels, rotation=20)
            axes.margins(x=0.2)
        else:
            axes.set_xscale("log" if suits_log_scale(positions) else "linear")
            if len(ticks := np.unique(positions)) <= MAX_TICKS:
                axes.set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
                axes.minorticks_off()
    return figure
