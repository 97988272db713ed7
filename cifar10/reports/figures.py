"""Arrays in, matplotlib figures out, all in one style.

Colours are Okabe and Ito's (2008, https://jfly.uni-koeln.de/color/), which colour-blind readers
tell apart; lines differ in their dashes as well, so that they are readable in grey.
"""

import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
FEW = 10  # images, whose accuracy says little
MANY = 30  # classes, of which only some are shown, or without their numbers
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in this project's style, leaving matplotlib's settings as they are."""

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def png(figure: Figure) -> bytes:
    """A figure as a PNG file; its ticks are only made then, so the style holds here too."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


@styled
def curves(history: Sequence[dict[str, Any]]) -> Figure:
    """Loss, accuracies and learning rate over epochs.

    Args:
        history: for each epoch `epoch` and metrics, as in result.json; what is missing is left out.
    """
    panels = {
        "loss": {"train/loss": (ORANGE, "--"), "val/loss": (BLUE, "-")},
        "accuracy": {
            "train/top1": (ORANGE, "--"),
            "val/top1": (BLUE, "-"),
            "val/top3": (GREEN, "-."),
            "val/top5": (GREY, ":"),
        },
        "learning rate": {"train/lr": (GREY, "-")},
    }
    panels = {
        title: lines
        for title, lines in panels.items()
        if any(key in epoch for key in lines for epoch in history)
    }
    figure = Figure(figsize=(4 * max(1, len(panels)), 3.8))
    for place, (title, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), place)
        for key, (colour, dashes) in lines.items():
            points = [(epoch["epoch"], epoch[key]) for epoch in history if key in epoch]
            if points:
                marker = "o" if len(points) < 10 else None
                axes.plot(
                    *zip(*points, strict=True), dashes, color=colour, label=key, marker=marker
                )
        axes.set(title=title, xlabel="epoch")
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if title == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        if len(lines) > 1:
            below = dict(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
            axes.legend(**below)  # inside, it would lie on the lines
    return figure


@styled
def grid(
    images: Tensor,
    titles: Sequence[str] = (),
    columns: int = 10,
    rows: Sequence[str] = (),
) -> Figure:
    """Images in rows.

    Args:
        images: uint8 (N, 3, H, W).
        titles: one above each image, in few words.
        rows: one before each row.
    """
    height = -(-len(images) // columns)
    cell = (1.1, 1.45) if titles else (0.9, 0.9)
    figure = Figure(figsize=(cell[0] * columns + bool(rows), cell[1] * height))
    for place, image in enumerate(images):
        axes = figure.add_subplot(height, columns, place + 1)
        axes.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        axes.set_axis_off()
        if titles:
            axes.set_title(titles[place], fontsize=8)
        if rows and place % columns == 0:
            middle = dict(ha="right", va="center", transform=axes.transAxes)
            axes.text(-0.1, 0.5, rows[place // columns], **middle)
    return figure


def samples(images: Tensor, labels: Tensor, names: Sequence[str], each: int = 10) -> Figure:
    """The first images of each class, a row a class; of very many, the first classes.

    Args:
        images: uint8 (N, 3, H, W); labels: int64 (N,).
    """
    own = {name: (labels == c).nonzero()[:each, 0] for c, name in enumerate(names[:MANY])}
    own = {name: some for name, some in own.items() if len(some)}
    # A class with fewer images has its last one again, so that each row is one class.
    places = [some[torch.arange(each).clamp(max=len(some) - 1)] for some in own.values()]
    return grid(images[torch.cat(places)], columns=each, rows=list(own))


@styled
def confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """Which class is taken for which; each row is a class, in percent of its images.

    Args:
        counts: (classes, classes), images of each class by the class predicted.
    """
    counts = np.asarray(counts, dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(5 + 0.1 * len(names), 12)
    figure = Figure(figsize=(0.4 + side, side - 0.2))
    axes = figure.add_subplot()
    axes.grid(False)
    # Square roots, so that few mistakes are seen beside many right answers.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*shares.shape):
        if counts[row, column] and len(names) <= MANY:
            dark = shares[row, column] > 0.3
            text = f"{100 * shares[row, column]:.1f}".removesuffix(".0")
            colour = "white" if dark else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    size = None if len(names) <= MANY else 5
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true", title="confusion, % of each true class")
    return figure


@styled
def per_class(accuracies: dict[str, float]) -> Figure:
    """Accuracy of each class, the lowest first; of very many, the lowest ones."""
    order = sorted(accuracies, key=accuracies.get, reverse=True)[-MANY:]
    values = [accuracies[name] for name in order]
    figure = Figure(figsize=(6, 1 + 0.26 * len(order)))
    axes = figure.add_subplot()
    bars = axes.barh(order, values, color=BLUE)
    axes.bar_label(bars, [f"{value:.1%}" for value in values], padding=3, fontsize=9)
    axes.set(title="accuracy of each class", xlim=(0, 1.12))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", visible=False)
    return figure


@styled
def reliability(confidence: Tensor, right: Tensor, error: float, bins: int = 15) -> Figure:
    """How often the classifier is right, by how sure it was.

    Args:
        confidence: highest probability for each image, float (N,).
        right: whether the prediction was, bool (N,).
        error: the expected calibration error, for the title.
    """
    confidence, right = np.asarray(confidence, float), np.asarray(right, float)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    share = np.bincount(place, right, bins) / np.maximum(count, 1)
    figure = Figure(figsize=(5, 5))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    wide = 1 / bins
    look = dict(align="edge", color=BLUE, edgecolor="white")
    axes.bar(edges[:-1], share * (count >= FEW), wide, **look, label="accuracy")
    axes.bar(edges[:-1], share * (count < FEW), wide, **look, alpha=0.3, label=f"< {FEW} images")
    axes.plot([0, 1], [0, 1], "--", color=ORANGE, label="as sure as right")
    axes.set(title=f"calibration error {error:.2%}", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="upper left")
    below.bar(edges[:-1], count / max(1, count.sum()), wide, align="edge", color=GREY)
    below.set(xlabel="confidence", ylabel="images")
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    return figure


def mistakes(
    images: Tensor, labels: Tensor, probabilities: Tensor, names: Sequence[str], count: int = 36
) -> Figure:
    """The mistakes that the classifier was surest of: what each is, and what it was taken for.

    Args:
        images: uint8 (N, 3, H, W); labels: int64 (N,); probabilities: float (N, classes).
    """
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero()[:, 0]
    wrong = wrong[confidence[wrong].argsort(descending=True)][:count]
    titles = [
        f"{names[labels[i]]}\n→ {names[predicted[i]]} {confidence[i]:.0%}" for i in wrong.tolist()
    ]
    return grid(images[wrong], titles, 9)


def filters(weight: Tensor) -> Figure:
    """The first layer's filters, each scaled to the whole range of colours.

    Args:
        weight: float (filters, 3, h, w).
    """
    low = weight.amin((1, 2, 3), keepdim=True)
    span = (weight.amax((1, 2, 3), keepdim=True) - low).clamp(min=1e-12)
    return grid((255 * (weight - low) / span).round().byte(), columns=min(12, len(weight)))
