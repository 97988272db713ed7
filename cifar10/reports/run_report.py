"""The figures and the report page of a run."""

import base64
import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor, nn

from cifar10.core.display import printable_lines
from cifar10.core.errors import UserError, one_line
from cifar10.core.files import atomic_write
from cifar10.data.module import InMemoryDataModule
from cifar10.reports import figures
from cifar10.reports.loggers import log_figures
from cifar10.training.classifier import Classifier
from cifar10.training.metrics import Predictions, detailed_scores

log = logging.getLogger(__name__)

PAGE, FIGURES = "report.html", "figures"
GRID = 50  # images in a grid
CAPTIONS = {
    "curves": "Training curves",
    "mistakes": "Most confident errors",
    "confusion": "Confusion matrix",
    "per_class": "Accuracy per class",
    "reliability": "Calibration",
    "augmented": "Augmented training images of the first epoch",
    "samples": "Training images per class",
    "filters": "Filters of the first layer",
}


def write_report(
    folder: Path,
    result: Mapping[str, Any],
    command: str,
    classifier: Classifier,
    data: InMemoryDataModule,
    logits: Sequence[Tensor],
    loggers: Iterable[Any] = (),
    step: int = 0,
) -> Path | None:
    """Draw a run's figures, write its page, and log the figures.

    `logits` are those of the test set, float (n, classes) per batch. Returns the page; None after a
    failure, which is only logged: a finished run is not lost for a figure.
    """
    try:
        if (folder / FIGURES).is_symlink():  # in a run of a stranger, to files of the user
            raise UserError(f"{folder / FIGURES} is a symbolic link, which is not followed")
        images = save_figures(run_figures(classifier, data, result, logits), folder / FIGURES)
        with atomic_write(folder / PAGE) as file:
            file.write(render_page(result, command, images).encode(errors="backslashreplace"))
        log_figures(loggers, images, step)
    except Exception as error:
        log.warning("Warning: the report is incomplete: %s", one_line(error))
        return None
    return folder / PAGE


def run_figures(
    classifier: Classifier,
    data: InMemoryDataModule,
    result: Mapping[str, Any],
    logits: Sequence[Tensor],
) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    train = data.train_indices
    some = train[:: -(-len(train) // GRID)]
    batches = dataclasses.replace(data.train_dataloader(), indices=some, rank=0, world_size=1)
    drawn = {
        "curves": figures.training_curves(result["history"], result.get("rates", ())),
        "augmented": figures.image_grid(torch.cat([images for images, _ in batches])),
        "samples": figures.class_samples(data.images(train), data.labels[train], data.classes),
    }
    if logits:
        test = data.test_indices[: sum(map(len, logits))]
        predictions = Predictions(torch.cat(list(logits)), data.labels[test].cpu())
        scores = detailed_scores(predictions, data.classes)
        drawn |= prediction_figures(scores, predictions, data.images(test))
    layers = [layer for layer in classifier.network.modules() if isinstance(layer, nn.Conv2d)]
    if layers and layers[0].in_channels == 3:
        drawn["filters"] = figures.first_layer_filters(layers[0].weight.detach().float().cpu())
    return drawn


def prediction_figures(
    scores: Mapping[str, Any], predictions: Predictions, images: Any
) -> dict[str, Figure]:
    """The figures of `detailed_scores` for images (see `Labelled`), by file name."""
    names = list(scores["per_class"])
    probabilities = predictions.logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    correct = predicted == predictions.labels
    drawn = {
        "confusion": figures.confusion_matrix(torch.tensor(scores["confusion"]), names),
        "per_class": figures.class_accuracy(
            {name: own["recall"] for name, own in scores["per_class"].items()}
        ),
        "reliability": figures.calibration(confidence, correct, scores["calibration_error"]),
    }
    if not correct.all():
        labels = predictions.labels
        drawn["mistakes"] = figures.confident_errors(images, labels, probabilities, names)
    return drawn


def save_figures(drawn: Mapping[str, Figure], folder: Path) -> dict[str, bytes]:
    """Save figures as PNG files; returns their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for name, figure in drawn.items():
        images[name] = figures.to_png(figure)
        with atomic_write(folder / f"{name}.png") as file:
            file.write(images[name])
    return images


def render_page(result: Mapping[str, Any], command: str, images: Mapping[str, bytes]) -> str:
    """A run's result, settings and figures, PNG files by name, as one standalone HTML file."""
    text = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    template = jinja2.Template(
        text,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable_lines(value) if isinstance(value, str) else value,
    )
    shown = {
        name: (caption, base64.b64encode(images[name]).decode())
        for name, caption in CAPTIONS.items()
        if name in images
    }
    config = yaml.safe_dump(dict(result["config"]), sort_keys=False)
    return template.render(result=result, command=command, config=config, images=shown)
