"""Evaluate a trained classifier on the data it was trained for, or on other images."""

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from cifar10 import zoo
from cifar10.core.display import csv_cell, short_names
from cifar10.core.errors import SettingError, UserError
from cifar10.core.files import atomic_write
from cifar10.core.settings import expand_user
from cifar10.data.labelled import CIFAR10_1, CIFAR10_C, CORRUPTIONS, SEVERITIES, read_labelled
from cifar10.inference.splits import Split, how_tested, read_split
from cifar10.reports.run_report import prediction_figures, save_figures
from cifar10.runs.load import load
from cifar10.runs.result import to_json
from cifar10.runs.run_dir import LATEST, latest_run
from cifar10.training.classifier import Classifier, NonFiniteError
from cifar10.training.hardware import autocast
from cifar10.training.metrics import Predictions, detailed_scores, metrics
from cifar10.training.tta import flip_tta, six_view_tta

log = logging.getLogger(__name__)

# Of weights and images, where Lightning's precision does not mix types.
WEIGHTS = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


def evaluate_model(
    model: str | Path,
    split: Split = "test",
    source: str | None = None,
    views: bool = False,
    out: Path | None = None,
    table: Path | None = None,
) -> tuple[dict[str, Any], Path]:
    """Evaluate a model (as for `load`); save evaluation.json and figures.

    Args:
        split: of the model's own data.
        source: evaluate on these images instead, as for `read_labelled`.
        views: see `evaluate`.
        out: folder, by default beside the checkpoint, or here for a pretrained model.
        table: a CSV file to write with the prediction of each image.

    Returns:
        The scores and the folder.
    """
    if table and table.exists():
        raise UserError(f"{table}: already exists; remove it or choose another file")
    if table:  # fail before the work
        table.parent.mkdir(parents=True, exist_ok=True)
    if model == LATEST:  # resolved once, since another run may start meanwhile
        model = latest_run()
    classifier = load(model)
    tested = how_tested(model, split)
    name = split if source is None else source
    if name not in (split, CIFAR10_C, *CIFAR10_1):
        path = expand_user(name).resolve()
        name = "-".join(["data", path.parent.name, path.name if path.is_dir() else path.stem])
    out = out or output_folder(model, name)
    if source is None:
        images, origin = read_split(tested, split)
        if not all(0 <= label < len(classifier.classes) for label in images.labels.tolist()):
            raise UserError(f"{tested.folder}: its test images have labels of no class")
    else:
        images, origin = read_labelled(source, classifier.classes), {"source": source}
    out.mkdir(parents=True, exist_ok=True)  # fail before the work if it cannot be written
    log.info("Evaluating %s on %s %s images …", model, f"{len(images.labels):,}", source or split)
    console, size = Console(stderr=True), tested.data.get("batch_size", 250)
    total, hidden = -(-len(images.labels) // size), not console.is_terminal
    look: dict[str, Any] = dict(console=console, transient=True, disable=hidden)
    bar = track(images.batches(size), "", total, **look)
    scores, predictions = evaluate(classifier, bar, tested.precision, views)
    if source == CIFAR10_C:
        scores["corruptions"] = corruption_scores(predictions)
    record = {"model": str(model)} | origin | {"precision": tested.precision}
    with atomic_write(out / "evaluation.json") as file:
        file.write(to_json(record | scores).encode())
    if table:
        write_table(table, images.names, predictions, classifier.classes)
    log.info("Drawing figures …")
    save_figures(prediction_figures(scores, predictions, images.images), out)
    return scores, out


def output_folder(model: str | Path, name: str) -> Path:
    """Where the evaluation of a model goes: into its run, or here for a pretrained model."""
    if zoo.is_pretrained(model):
        return Path(f"{model}-evaluation-{name}")
    path = expand_user(model)
    out = path / f"evaluation-{name}"
    if not path.is_dir():
        out = path.with_name(f"evaluation-{path.stem}-{name}")
    if out.is_symlink():  # in a run of a stranger, to files of the user
        raise SettingError(f"{out}: is a symbolic link; name a folder with --out")
    return out


def corruption_scores(predictions: Predictions) -> dict[str, list[float]]:
    """Top-1 for each corruption of CIFAR-10-C, from the lowest severity to the highest."""
    right = (predictions.logits.argmax(1) == predictions.labels).double()
    means = right.view(len(CORRUPTIONS), SEVERITIES, -1).mean(-1)
    rows = [[round(mean, 6) for mean in row] for row in means.tolist()]
    return dict(zip(CORRUPTIONS, rows, strict=True))


def write_table(
    path: Path, names: Sequence[str | int], predictions: Predictions, classes: Sequence[str]
) -> None:
    """Write the prediction of each image as CSV: its path or index, label and probabilities."""
    probabilities = predictions.logits.softmax(1)
    shown = list(map(csv_cell, classes))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path" if isinstance(names[0], str) else "index", "label", "prediction", *shown])
    for name, label, row in zip(names, predictions.labels.tolist(), probabilities, strict=True):
        values = (f"{value:.6f}" for value in row.tolist())
        rows.writerow([csv_cell(name), shown[label], shown[int(row.argmax())], *values])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


@torch.inference_mode()
def evaluate(
    classifier: Classifier, batches: Iterable, precision: str, views: bool
) -> tuple[dict[str, Any], Predictions]:
    """Score batches with exactly the arithmetic of `Trainer.test`.

    Args:
        batches: images uint8 (n, 3, 32, 32) and labels int64 (n,).
        views: also score flip TTA (`mirrored`) and 6-view TTA (`six_views`).

    Returns:
        `images`, `loss`, `top1`, `top3`, `top5` and `detailed_scores`; single-view predictions.
    """
    device, count = classifier.device, len(classifier.classes)
    kinds = ["single", "mirrored", "six_views"] if views else ["single"]
    scores = {kind: metrics("", (1, 3, 5), count).to(device) for kind in kinds}
    parts: list[Predictions] = []
    classifier.eval().to(WEIGHTS.get(precision, torch.float32))
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        with autocast(device.type, precision):
            logits = classifier(images)
            scores["single"].update(logits, labels)
            if views:
                scores["mirrored"].update(flip_tta(classifier, images, logits), labels)
                scores["six_views"].update(six_view_tta(classifier, images, logits), labels)
        parts.append(Predictions(logits.float().cpu(), labels.cpu()))
    predictions = Predictions(*map(torch.cat, zip(*parts, strict=True)))
    if not predictions.logits.isfinite().all():
        raise NonFiniteError("the network outputs NaN or infinity; its weights are corrupted")
    rounded: dict[str, Any] = {
        kind: {key: round(float(value), 6) for key, value in score.compute().items()}
        for kind, score in scores.items()
    }
    single = rounded.pop("single") | rounded | {"images": len(predictions.labels)}
    return single | detailed_scores(predictions, classifier.classes), predictions


def format_scores(scores: dict[str, Any]) -> str:
    """Scores as aligned lines, with the confusion matrix if it fits into 80 columns."""
    rows = [("images", f"{scores['images']:,}"), ("loss", f"{scores['loss']:.4f}")]
    rows += [(f"top-{k}", f"{scores[f'top{k}']:.2%}") for k in (1, 3, 5)]
    for key, name in (("mirrored", "flip TTA"), ("six_views", "6-view TTA")):
        if key in scores:
            rows.append((f"top-1, {name}", f"{scores[key]['top1']:.2%}"))
    rows.append(("calibration error", f"{scores['calibration_error']:.2%}"))
    lines = [*(f"{name:<18} {value:>8}" for name, value in rows), ""]
    names = short_names(list(scores["per_class"]))
    width = max(map(len, names))
    lines.append(f"{'class':<{width}} {'images':>7} {'precision':>9} {'recall':>7} {'F1':>7}")
    for name, own in zip(names, scores["per_class"].values(), strict=True):
        cells = [percent(own["precision"], 9), percent(own["recall"], 7), percent(own["f1"], 7)]
        images = f"{own['images']:,}" if own["images"] else "none"
        lines.append(f"{name:<{width}} {images:>7} {' '.join(cells)}")
    if width + 6 * len(names) <= 80:
        lines += ["", f"{'':{width}} predicted as (images)"]
        table = [[name[:5] for name in names], *scores["confusion"]]
        for name, cells in zip(["true class", *names], table, strict=True):
            lines.append(f"{name:<{width}}" + "".join(f" {cell:>5}" for cell in cells))
    if "corruptions" in scores:
        lines += ["", f"{'top-1 by severity':<18}" + "".join(f" {n:>7}" for n in "12345")]
        for name, row in scores["corruptions"].items():
            lines.append(f"{name:<18}" + "".join(f" {value:7.2%}" for value in row))
    return "\n".join(lines)


def percent(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.2%}':>{width}}"
