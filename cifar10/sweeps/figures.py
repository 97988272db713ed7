"""Figures that compare the runs of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifar10.reports.figures import BLUE, GREY, ORANGE, styled

COLOURS = colormaps["viridis"]  # readable in grey, too
NAME_LENGTH = 18
MAX_TICKS = 6  # an axis labels every value if there are at most so many numbers
MAX_NAMES = 24  # an axis labels no value if there are more names


@styled
def loss_curves(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure:
    """Validation loss of every run over epochs.

    Args:
        runs: histories, as in result.json, of the `stopped`, the `finished` and the `best` runs.
    """
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
    """Validation loss against each varied setting.

    Args:
        settings: one mapping per group of runs, all with the same keys.
        losses: mean val/loss of each group.
        spreads: its standard deviation over seeds; 0 for a single run.
    """
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


@styled
def parallel_coordinates(settings: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> Figure:
    """Each group of runs as a line through its settings to its validation loss, best darkest.

    Args:
        settings, losses: as for `loss_by_setting`.
    """
    columns = {key: [row[key] for row in settings] for key in settings[0]}
    columns["val/loss"] = list(losses)
    figure = Figure(figsize=(2 * len(columns) + 1.5, 4.2))
    axes = figure.add_subplot()
    heights = []
    for x, values in enumerate(columns.values()):
        positions, names = axis_positions(values)
        if names is None and suits_log_scale(positions):
            positions = np.log(positions)
        heights.append((positions - positions.min()) / (np.ptp(positions) or 1))
        axes.axvline(x, color=GREY, linewidth=1)
        labels = names or [f"{min(values):.4g}", f"{max(values):.4g}"]
        for index, text in enumerate(labels if len(labels) <= MAX_NAMES else []):
            box = dict(facecolor="white", edgecolor="none", pad=1, alpha=0.8)
            y = index / max(1, len(labels) - 1)
            axes.text(x + 0.03, y, text, va="center", fontsize=8, bbox=box, zorder=3)
    norm = Normalize(min(losses), max(losses))
    for row in np.argsort(losses)[::-1]:  # the best on top
        line = [height[row] for height in heights]
        axes.plot(range(len(columns)), line, color=COLOURS(norm(losses[row])), alpha=0.8)
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_yticks([])
    axes.set_title("Settings and their mean validation loss")
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, label="val/loss")
    return figure


@styled
def setting_importance(shares: Mapping[str, float]) -> Figure:
    """The share of the variance that each searched setting explains, the largest at the top."""
    order = sorted(shares, key=lambda key: shares[key])
    figure = Figure(figsize=(6, 0.5 * len(order) + 1.2))
    axes = figure.add_subplot()
    bars = axes.barh(order, [shares[key] for key in order], color=BLUE)
    axes.bar_label(bars, [f"{shares[key]:.2f}" for key in order], padding=3)
    axes.set(title="Share of variance explained by each setting", xlim=(0, 1.1))
    axes.grid(axis="y", visible=False)
    return figure
