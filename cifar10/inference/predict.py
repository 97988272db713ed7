"""Classify image files and print the predictions."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from cifar10.core.display import csv_cell, printable, short
from cifar10.core.errors import SettingError, UserError
from cifar10.data.images import find_images, read_ahead
from cifar10.runs.load import load
from cifar10.training.classifier import Classifier

BATCH = 500  # images read ahead while the network classifies as many
BAR_WIDTH = 20  # characters for a probability of 1

Prediction = tuple[Path, list[tuple[str, float]]]  # an image's classes and their probabilities


def predict(paths: Sequence[str], model: str, top: int, form: str) -> bool:
    """Classify the images that paths, folders and globs name, and print the predictions.

    `form` is one of `FORMS`.

    Unreadable files are reported on stderr and skipped; returns whether there were none.
    """
    files, skipped, errors = find_images(paths)
    if not files:
        raise UserError("; ".join(map(str, errors)))
    if form == "kaggle":
        files = sorted(files, key=kaggle_id)
        if len(set(map(kaggle_id, files))) < len(files):
            raise SettingError("--kaggle: two images have the same number")
    classifier = load(model)
    for error in errors:
        print_error(error)
    failed: list[Path] = []
    FORMS[form](predict_files(files, classifier, top, failed))
    if skipped:
        kind = "file that is not an image" if skipped == 1 else "files that are not images"
        print(f"skipped {skipped:,} {kind}", file=sys.stderr)
    if failed:
        print(f"{len(failed):,} of {len(files):,} files could not be read", file=sys.stderr)
    return not (errors or failed)


def print_error(error: UserError) -> None:
    print(f"error: {printable(str(error))}", file=sys.stderr)


def predict_files(
    files: Sequence[Path], classifier: Classifier, top: int, failed: list[Path]
) -> Iterator[Prediction]:
    """Yield each image's `top` classes; unreadable files are reported and added to `failed`."""
    console, batches = Console(stderr=True), -(-len(files) // BATCH)
    hidden = batches == 1 or not console.is_terminal or sys.stdout.isatty()
    bar: dict[str, Any] = dict(total=batches, console=console, transient=True, disable=hidden)
    for batch in track(read_ahead(files, BATCH), "classifying", **bar):
        images = {}
        for path, image in batch:
            if isinstance(image, UserError):
                failed.append(path)
                print_error(image)
            else:
                images[path] = image
        if images:
            probabilities = classifier.predict(torch.stack(list(images.values())))
            best = probabilities.topk(min(top, len(classifier.classes)))
            for path, values, labels in zip(images, *best, strict=True):
                names = [classifier.classes[label] for label in labels]
                yield path, list(zip(names, values.tolist(), strict=True))


def print_text(predictions: Iterable[Prediction]) -> None:
    """Print each path and its classes; with bars on a terminal."""
    bar_width = BAR_WIDTH if sys.stdout.isatty() else 0
    for path, classes in predictions:
        print(printable(str(path)))
        shown = [(short(name), p) for name, p in classes]
        width = max(10, *(len(name) for name, _ in shown))
        for name, p in shown:
            print(f"  {name:<{width}} {p:7.2%}  {'█' * round(bar_width * p)}".rstrip())


def print_json(predictions: Iterable[Prediction]) -> None:
    """Print one JSON list, an image per line."""
    rows = []
    for path, classes in predictions:
        best = [{"class": name, "probability": round(p, 6)} for name, p in classes]
        rows.append(json.dumps({"path": str(path), "predictions": best}, ensure_ascii=False))
    text = "[" + ",\n".join(rows) + "]"
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def print_csv(predictions: Iterable[Prediction]) -> None:
    """Print CSV, a class per line."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability"])
    for path, classes in predictions:
        for rank, (name, p) in enumerate(classes, 1):
            writer.writerow([csv_cell(str(path)), rank, csv_cell(name), f"{p:.6f}"])


def print_kaggle(predictions: Iterable[Prediction]) -> None:
    """Print CSV of id and label, as https://www.kaggle.com/c/cifar-10 asks."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["id", "label"])
    writer.writerows((kaggle_id(path), csv_cell(classes[0][0])) for path, classes in predictions)


def kaggle_id(path: Path) -> int:
    """The number that an image's name consists of, so that 2.png is before 10.png."""
    if not (path.stem.isascii() and path.stem.isdecimal()):
        raise SettingError(f"{path}: --kaggle needs images named by a number, as 1.png")
    return int(path.stem)


FORMS: dict[str, Callable[[Iterable[Prediction]], None]] = {
    "text": print_text,
    "json": print_json,
    "csv": print_csv,
    "kaggle": print_kaggle,
}
