"""Figures of many runs beside one another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifar10.reports.figures import BLUE, GREY, ORANGE, styled

COLOURS = colormaps["viridis"]  # as readable in grey as in colour
TEXT_LENGTH = 18
FEW = 6  # numbers, of which an axis names each
MANY = 24  # names, of which an axis shows none


@styled
def curves(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure:
    """Validation loss over epochs of every run.

    Args:
        runs: histories, as in result.json, of the runs that were `stopped` and `finished`, and of
            those of the `best` settings.
    """
    looks = {
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
    axes.set(xlabel="epoch", ylabel="val/loss", title="validation loss of every run")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend()
    return figure


def numbers(values: Sequence[Any]) -> tuple[np.ndarray, list[str] | None]:
    """Places on an axis: numbers as they are; of anything else the rank, with its names."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.array(values, dtype=float), None
    names = list(dict.fromkeys(map(str, values)))
    short = [n if len(n) <= TEXT_LENGTH else f"{n[: TEXT_LENGTH - 1]}…" for n in names]
    return np.array([names.index(str(v)) for v in values], dtype=float), short


def is_wide(places: np.ndarray) -> bool:
    """Whether only the logarithms of numbers are seen apart: each some times the one before."""
    ordered = np.unique(places)
    if len(ordered) < 3 or ordered[0] <= 0:
        return False
    steps, factors = np.diff(ordered), np.diff(np.log(ordered))
    return np.std(factors) / np.mean(factors) < np.std(steps) / np.mean(steps)


@styled
def scatter(
    settings: Sequence[Mapping[str, Any]], losses: Sequence[float], spreads: Sequence[float]
) -> Figure:
    """Each setting that was varied against the validation loss.

    Args:
        settings: of each row, the same keys in all.
        losses: mean val/loss of each row.
        spreads: their standard deviations over seeds; 0 where there is one.
    """
    keys = list(settings[0])
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4 * columns + 0.5, 3.4 * rows))
    for place, key in enumerate(keys, 1):
        axes = figure.add_subplot(rows, columns, place)
        places, names = numbers([row[key] for row in settings])
        axes.errorbar(places, losses, spreads, fmt="o", color=BLUE, alpha=0.7, capsize=3)
        axes.set(xlabel=key, ylabel="val/loss")
        if names:
            axes.set_xticks(range(len(names)), names if len(names) <= MANY else [], rotation=20)
            axes.margins(x=0.2)
        else:
            axes.set_xscale("log" if is_wide(places) else "linear")
            if len(ticks := np.unique(places)) <= FEW:
                axes.set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
                axes.minorticks_off()
    return figure


@styled
def parallel(settings: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> Figure:
    """Each row a line through its settings to its validation loss; the best are darkest.

    Args:
        settings, losses: as for `scatter`.
    """
    columns = {key: [row[key] for row in settings] for key in settings[0]} | {"val/loss": losses}
    figure = Figure(figsize=(2 * len(columns) + 1.5, 4.2))
    axes = figure.add_subplot()
    heights = []
    for x, values in enumerate(columns.values()):
        places, names = numbers(values)
        if names is None and is_wide(places):
            places = np.log(places)
        low, span = places.min(), np.ptp(places) or 1
        heights.append((places - low) / span)
        axes.axvline(x, color=GREY, linewidth=1)
        ends = names or [f"{min(values):.4g}", f"{max(values):.4g}"]
        ends = ends if len(ends) <= MANY else []
        marks = [i / max(1, len(ends) - 1) for i in range(len(ends))]
        for mark, text in zip(marks, ends, strict=True):
            behind = dict(facecolor="white", edgecolor="none", pad=1, alpha=0.8)
            axes.text(x + 0.03, mark, text, va="center", fontsize=8, bbox=behind, zorder=3)
    norm = Normalize(min(losses), max(losses))
    for row in np.argsort(losses)[::-1]:  # the best on top
        line = [height[row] for height in heights]
        axes.plot(range(len(columns)), line, color=COLOURS(norm(losses[row])), alpha=0.8)
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_yticks([])
    axes.set_title("each choice of settings, by its mean validation loss")
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, label="val/loss")
    return figure


@styled
def importance(weights: Mapping[str, float]) -> Figure:
    """How much each setting mattered in a search, the most first; they sum to 1."""
    order = sorted(weights, key=weights.get)
    figure = Figure(figsize=(6, 0.5 * len(order) + 1.2))
    axes = figure.add_subplot()
    bars = axes.barh(order, [weights[key] for key in order], color=BLUE)
    axes.bar_label(bars, [f"{weights[key]:.2f}" for key in order], padding=3)
    axes.set(title="share of the spread that each setting explains", xlim=(0, 1.1))
    axes.grid(axis="y", visible=False)
    return figure
