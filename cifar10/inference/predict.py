"""What a classifier says of picture files, for people and for programs."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from cifar10.core.errors import UserError, printable
from cifar10.data import images as pictures
from cifar10.training.classifier import Classifier

BATCH = 500  # pictures that are read ahead while as many go through the network
BAR = 20  # characters of a probability of 1

Answer = tuple[str, float]  # a class and its probability


def predict_files(
    files: list[Path], classifier: Classifier, top: int, failed: list[Path]
) -> Iterator[tuple[Path, list[Answer]]]:
    """Each picture's most probable classes; files that give none are named and collected."""
    console = Console(stderr=True)
    many = len(files) > BATCH and console.is_terminal and not sys.stdout.isatty()
    with Progress(console=console, transient=True, disable=not many) as progress:
        task = progress.add_task("predicting", total=len(files))
        for batch in pictures.read_ahead(files, BATCH):
            good = [(path, read) for path, read in batch if isinstance(read, torch.Tensor)]
            for path, read in batch:
                if isinstance(read, UserError):
                    failed.append(path)
                    print(f"error: {printable(str(read))}", file=sys.stderr)
            if good:
                chances = classifier.predict(torch.stack([read for _, read in good]))
                best = chances.topk(min(top, len(classifier.classes)))
                for (path, _), highest, places in zip(good, *best, strict=True):
                    names = [classifier.classes[place] for place in places]
                    yield path, list(zip(names, highest.tolist(), strict=True))
            progress.advance(task, len(batch))


def print_bars(rows: Iterable[tuple[Path, list[Answer]]]) -> None:
    bars = sys.stdout.isatty()
    for path, classes in rows:
        print(printable(str(path)))
        width = max(10, *(len(name) for name, _ in classes))
        for name, p in classes:
            bar = "  " + "█" * round(BAR * p) if bars else ""
            print(f"  {name:<{width}} {p:7.2%}{bar}".rstrip())


def print_json(rows: Iterable[tuple[Path, list[Answer]]]) -> None:
    before = "[\n"
    for path, classes in rows:
        predictions = [{"class": name, "probability": round(p, 6)} for name, p in classes]
        row = json.dumps({"path": str(path), "predictions": predictions}, ensure_ascii=False)
        print(before + row, end="")
        before = ",\n"
    print("[]" if before == "[\n" else "\n]")


def print_csv(rows: Iterable[tuple[Path, list[Answer]]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability"])
    for path, classes in rows:
        for rank, (name, p) in enumerate(classes, 1):
            writer.writerow([path, rank, name, f"{p:.6f}"])
