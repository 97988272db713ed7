"""Evaluate a trained classifier on the data it was trained for."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track

from cifar10 import zoo
from cifar10.core.display import short_names
from cifar10.core.errors import SettingError
from cifar10.core.files import atomic_write
from cifar10.core.instantiate import instantiate
from cifar10.core.legacy import upgrade_config
from cifar10.core.settings import compose_settings, expand_user
from cifar10.data.module import InMemoryDataModule
from cifar10.reports.run_report import prediction_figures, save_figures
from cifar10.runs.changes import merge
from cifar10.runs.load import find_checkpoint, load
from cifar10.runs.result import RESULT_FILE, read_result, to_json
from cifar10.runs.run_dir import LATEST, latest_run
from cifar10.training.classifier import Classifier, NonFiniteError
from cifar10.training.hardware import autocast
from cifar10.training.metrics import Predictions, detailed_scores, metrics
from cifar10.training.tta import flip_tta, six_view_tta

log = logging.getLogger(__name__)

PRECISION = "32-true"  # of pretrained models' published scores; the same on every machine
# Of weights and images, where Lightning's precision does not mix types.
WEIGHTS = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
Split = Literal["test", "val"]


def evaluate_model(
    model: str | Path, split: Split, views: bool, out: Path | None
) -> tuple[dict[str, Any], Path]:
    """Evaluate a model (as for `load`); save evaluation.json and figures to `out`, by default
    beside the checkpoint, or here for a pretrained model. Returns the scores and the folder.
    """
    if model == LATEST:  # resolved once, since another run may start meanwhile
        model = latest_run()
    classifier = load(model)
    settings, precision, digest = evaluation_settings(model, split)
    if out is None and zoo.is_pretrained(model):
        out = Path(f"{model}-evaluation-{split}")
    elif out is None:
        path = expand_user(model)
        out = path / f"evaluation-{split}"
        if not path.is_dir():
            out = path.with_name(f"evaluation-{path.stem}-{split}")
        if out.is_symlink():  # in a run of a stranger, to files of the user
            raise SettingError(f"{out}: is a symbolic link; name a folder with --out")
    out.mkdir(parents=True, exist_ok=True)  # fail before the work if it cannot be written
    module, batches = open_split(settings, split, digest)
    indices = module.test_indices if split == "test" else module.val_indices
    log.info("Evaluating %s on %s %s images …", model, f"{len(indices):,}", split)
    console = Console(stderr=True)
    bar = track(batches, "", console=console, transient=True, disable=not console.is_terminal)
    scores, predictions = evaluate(classifier, bar, precision, views)
    record = {"model": str(model), "split": split, "data": module.digest, "precision": precision}
    with atomic_write(out / "evaluation.json") as file:
        file.write(to_json(record | scores).encode())
    log.info("Drawing figures …")
    save_figures(prediction_figures(scores, predictions, module.images(indices)), out)
    return scores, out


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
    shares = zip(names, scores["per_class"].values(), strict=True)
    table = [f"{'class':<{width}} {'top-1':>7}"]
    table += [f"{name:<{width}} {share:>7.2%}" for name, share in shares]
    if len(table[0]) + 6 * len(names) <= 80:
        lines.append(f"{'':{len(table[0])}} predicted as (images)")
        for i, cells in enumerate([[name[:5] for name in names], *scores["confusion"]]):
            table[i] += "".join(f" {cell:>5}" for cell in cells)
    return "\n".join([*lines, *table])


def evaluation_settings(
    model: str | Path, split: Split = "test"
) -> tuple[dict[str, Any], str, str | None]:
    """Settings of the data, precision and SHA-256 of the data that a model was tested with.

    Without its run's result.json, CIFAR-10 is assumed, unless the validation images are asked for.
    """
    result: dict[str, Any] = {}
    if zoo.is_pretrained(model):
        result = zoo.model_card(str(model))["result"] | {"precision": {"value": PRECISION}}
    elif (path := find_run(model) / RESULT_FILE).exists():
        result = read_result(path)
    elif split == "val":
        raise SettingError(f"--split val: needs {path}, which records the validation images")
    else:
        log.warning("%s is missing: assuming a CIFAR-10 model and automatic precision", path)
    current = compose_settings()
    recorded = upgrade_config(result["config"], to_resume=False) if "config" in result else current
    settings = merge(recorded, current, [], result.get("overrides", []))
    local = ("sources", "download")  # of this machine: the run may come from a stranger
    settings["data"] |= {key: current["data"][key] for key in local if key in settings["data"]}
    precision = result.get("precision", {}).get("value", "auto")
    return settings["data"], precision, result.get("data", {}).get("digest")


def find_run(model: str | Path) -> Path:
    """The folder of a model's run: its checkpoint may be elsewhere."""
    path = latest_run() if model == LATEST else expand_user(model)
    return path if path.is_dir() else find_checkpoint(model).parent


def open_split(
    data: dict[str, Any], split: Split, digest: str | None = None
) -> tuple[InMemoryDataModule, Any]:
    """Open a data module whose SHA-256 must be `digest`; return it and the loader of one split."""
    module = instantiate(data, "data", InMemoryDataModule)
    if split == "val" and not module.has_validation:
        raise SettingError("--split val: this model was trained on all training images")
    module.setup()
    if digest not in (None, module.digest):
        raise SettingError(f"data: {data['dir']} differs from the data set that the run used")
    return module, module.test_dataloader() if split == "test" else module.val_dataloader()
