"""Figures of one run, from arrays and plain values, in one style.

The colours are Okabe and Ito's (2008, https://jfly.uni-koeln.de/color/), which colour-blind readers
can tell apart. Lines also differ in their dashes, to be readable in grey.
"""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from cifar10.core.display import short

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
FEW_IMAGES = 10  # with fewer, an accuracy means little
MAX_CLASSES = 30  # with more, only some are shown, or without their numbers
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may contain dollars
}

styled = matplotlib.rc_context(STYLE)  # a decorator; leaves matplotlib's own settings alone


@styled
def to_png(figure: Figure) -> bytes:
    """Encode a figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # of letters that the font lacks and that appear as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing|Matplotlib currently does not support")
        figure.savefig(buffer, format="png", dpi=130)  # creates the ticks, in the style as well
    return buffer.getvalue()


@styled
def training_curves(
    history: Sequence[dict[str, Any]], rates: Sequence[Sequence[float]] = ()
) -> Figure:
    """Loss and accuracy of each epoch, learning rate of each step; as in result.json, with gaps."""
    looks = {
        "train/loss": (ORANGE, "--", "train, during the epoch, augmented"),
        "val/loss": (BLUE, "-", "val, after the epoch"),
        "train/top1": (ORANGE, "--", "train top-1"),
        "val/top1": (BLUE, "-", "val top-1"),
        "val/top3": (GREEN, "-.", "val top-3"),
        "val/top5": (GREY, ":", "val top-5"),
    }
    recorded = {key for epoch in history for key in epoch}
    panels = [
        (title, [key for key in looks if key in recorded and (key[-4:] == "loss") == is_loss])
        for title, is_loss in (("Loss", True), ("Accuracy", False))
    ]
    panels = [panel for panel in panels if panel[1]]
    count = max(1, len(panels) + bool(rates))
    figure = Figure(figsize=(4 * count, 3.8))
    all_axes = list(figure.subplots(1, count, squeeze=False)[0])
    for axes, (title, keys) in zip(all_axes, panels, strict=False):
        for key in keys:
            colour, dashes, label = looks[key]
            points = [(epoch["epoch"], epoch[key]) for epoch in history if key in epoch]
            marker = "o" if len(points) < 10 else None
            axes.plot(*np.transpose(points), dashes, color=colour, label=label, marker=marker)
        axes.set(title=title)
        if title == "Accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        columns = 2 if title == "Accuracy" else 1
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)  # below
    if rates:
        all_axes[-1].plot(*np.transpose(rates), color=GREY)
        all_axes[-1].set(title="Learning rate of each step")
    for axes in all_axes:
        axes.set(xlabel="epoch", xlim=(0, history[-1]["epoch"] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


@styled
def image_grid(
    images: Tensor, titles: Sequence[str] = (), columns: int = 10, rows: Sequence[str] = ()
) -> Figure:
    """Images, uint8 (N, 3, H, W), in rows, with a title above each and a label before each row."""
    height = -(-len(images) // columns)
    cell = (1.1, 1.45) if titles else (0.9, 0.9)
    figure = Figure(figsize=(cell[0] * columns + bool(rows), cell[1] * height))
    for index, image in enumerate(images):
        axes = figure.add_subplot(height, columns, index + 1)
        axes.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        axes.set_axis_off()
        if titles:
            axes.set_title(titles[index], fontsize=8)
        if rows and index % columns == 0:
            label = rows[index // columns]
            axes.text(-0.1, 0.5, label, ha="right", va="center", transform=axes.transAxes)
    return figure


def class_samples(images: Tensor, labels: Tensor, names: Sequence[str], each: int = 10) -> Figure:
    """The first `each` images of each class, one class per row; at most `MAX_CLASSES` classes.

    Args:
        images: uint8 (N, 3, H, W); a class with too few repeats its last one.
        labels: int64 (N,).
    """
    found = [(labels == c).nonzero()[:each, 0] for c in range(len(names[:MAX_CLASSES]))]
    rows = [own[torch.arange(each).clamp(max=len(own) - 1)] for own in found if len(own)]
    shown = [short(name) for name, own in zip(names, found, strict=False) if len(own)]
    return image_grid(images[torch.cat(rows)], columns=each, rows=shown)


@styled
def confusion_matrix(counts: Tensor, names: Sequence[str]) -> Figure:
    """Confusion matrix, in percent of each true class; counts (true class, predicted class)."""
    matrix, names = np.asarray(counts, dtype=float), list(map(short, names))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(5 + 0.1 * len(names), 12)
    figure = Figure(figsize=(0.4 + side, side - 0.2))
    axes = figure.add_subplot()
    axes.grid(False)
    # The square root makes a few errors visible beside many correct predictions.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*shares.shape):
        if matrix[row, column] and len(names) <= MAX_CLASSES:
            text = f"{100 * shares[row, column]:.1f}".removesuffix(".0")
            colour = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    size = 10 if len(names) <= MAX_CLASSES else 5
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix (% of each true class)")
    return figure


@styled
def class_accuracy(accuracies: dict[str, float | None]) -> Figure:
    """Accuracy per class, the lowest at the top; the lowest `MAX_CLASSES` of many classes.

    None is the accuracy of a class without images.
    """
    measured = {name: -1 if value is None else value for name, value in accuracies.items()}
    order = sorted(measured, key=lambda name: -measured[name])[-MAX_CLASSES:]
    values = [max(0, measured[name]) for name in order]
    texts = [f"{v:.1%}" if (v := measured[name]) >= 0 else "no images" for name in order]
    figure = Figure(figsize=(6, 1 + 0.26 * len(order)))
    axes = figure.add_subplot()
    bars = axes.barh(range(len(order)), values, color=BLUE)
    axes.set_yticks(range(len(order)), list(map(short, order)))
    axes.bar_label(bars, texts, padding=3, fontsize=9)
    axes.set(title="Accuracy per class", xlim=(0, 1.12))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", visible=False)
    return figure


@styled
def calibration(confidence: Tensor, correct: Tensor, error: float, bins: int = 15) -> Figure:
    """Reliability diagram: accuracy by confidence, above the distribution of the confidence.

    Args:
        confidence, correct: of each prediction, float (N,) and bool (N,).
        error: the expected calibration error, for the title.
    """
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(np.asarray(confidence, float), edges[1:-1], right=True)
    count = np.bincount(index, minlength=bins)
    share = np.bincount(index, np.asarray(correct, float), bins) / np.maximum(count, 1)
    few = count < FEW_IMAGES
    figure = Figure(figsize=(5, 5))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    look: dict[str, Any] = dict(width=1 / bins, align="edge", color=BLUE, edgecolor="white")
    axes.bar(edges[:-1], share * ~few, **look, label="accuracy")
    axes.bar(edges[:-1], share * few, **look, alpha=0.3, label=f"< {FEW_IMAGES} images")
    axes.plot([0, 1], [0, 1], "--", color=ORANGE, label="perfect calibration")
    title = f"Calibration (expected error {error:.2%})"
    axes.set(title=title, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
    below.bar(edges[:-1], count / max(1, count.sum()), 1 / bins, align="edge", color=GREY)
    below.set(xlabel="confidence", ylabel="images")
    for axis in (axes.yaxis, below.xaxis, below.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    return figure


def confident_errors(
    images: Tensor, labels: Tensor, probabilities: Tensor, names: Sequence[str], count: int = 36
) -> Figure:
    """The most confident errors, each with its true class, predicted class and confidence.

    Takes uint8 (N, 3, H, W), int64 (N,) and float (N, classes).
    """
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero()[:, 0]
    wrong = wrong[confidence[wrong].argsort(descending=True)][:count]
    rows = zip(*(values[wrong].tolist() for values in (labels, predicted, confidence)), strict=True)
    shown = [short(name, 16) for name in names]
    titles = [f"{shown[true]}\n→ {shown[guess]} {share:.0%}" for true, guess, share in rows]
    return image_grid(images[wrong], titles, columns=9)


def first_layer_filters(weight: Tensor) -> Figure:
    """The filters of the first layer, float (N, 3, h, w), each scaled to the range of colours."""
    low = weight.amin((1, 2, 3), keepdim=True)
    span = (weight.amax((1, 2, 3), keepdim=True) - low).clamp(min=1e-12)
    pixels = (255 * (weight - low) / span).round().byte()
    return image_grid(pixels, columns=min(12, len(weight)))
