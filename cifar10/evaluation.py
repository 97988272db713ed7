"""What a classifier gets right, and how sure it is."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from cifar10 import results, zoo
from cifar10.atomic import replacing
from cifar10.build import build
from cifar10.classifier import Classifier, NotFinite
from cifar10.data.module import MemoryDataModule
from cifar10.errors import SettingError
from cifar10.hardware import autocast
from cifar10.metrics import metrics
from cifar10.resume import merge
from cifar10.settings import at_home, composed
from cifar10.trained import checkpoint_of
from cifar10.views import mirrored, over_views

log = logging.getLogger(__name__)

PRECISION = "32-true"  # of a shipped model's figures
BINS = 15  # of confidence, as in Guo et al. (2017), https://arxiv.org/abs/1706.04599


class Answers(NamedTuple):
    """What a classifier said of some images.

    Attributes:
        logits: float (N, classes).
        labels: int64 (N,).
    """

    logits: Tensor
    labels: Tensor


def detail(answers: Answers, classes: Sequence[str]) -> dict[str, Any]:
    """Figures beyond top-k: accuracy of each class, calibration, confusion.

    Returns:
        `per_class`: each class's accuracy, in [0, 1]. `calibration_error`: the mean distance of
        confidence from accuracy over 15 bins, in [0, 1]. `confusion`: images of each class (rows)
        by the class that was predicted (columns).
    """
    probabilities, labels = answers.logits.float().softmax(1), answers.labels
    confusion = multiclass_confusion_matrix(probabilities, labels, len(classes))
    right = confusion.diagonal() / confusion.sum(1).clamp(min=1)
    error = multiclass_calibration_error(probabilities, labels, len(classes), n_bins=BINS)
    return {
        "per_class": {name: round(float(r), 6) for name, r in zip(classes, right, strict=True)},
        "calibration_error": round(float(error), 6),
        "confusion": confusion.tolist(),
    }


@torch.inference_mode()
def evaluate(
    classifier: Classifier, batches: Iterable, precision: str, views: bool
) -> tuple[dict[str, Any], Answers]:
    """Score batches as a Trainer's test does, digit for digit.

    Args:
        batches: images uint8 (n, 3, 32, 32) and labels int64 (n,), as of an evaluation loader.
        precision: that the run's Trainer computed in.
        views: also score the mean logits of an image and its mirror image, and of six views (see
            `cifar10.views`), each a figure of its own.

    Returns:
        `loss`, `top1`, `top3`, `top5`, with views also `mirrored` and `six_views` of the same
        kind, and what `detail` gives; then what the classifier said.
    """
    kinds = ["plain", *(["mirrored", "six_views"] if views else [])]
    count = len(classifier.classes)
    scores = {kind: metrics("", (1, 3, 5), count).to(classifier.device) for kind in kinds}
    said: list[Answers] = []
    classifier.eval()
    for images, labels in batches:
        images, labels = images.to(classifier.device), labels.to(classifier.device)
        with autocast(classifier.device.type, precision):
            logits = classifier(images)
            scores["plain"].update(logits, labels)
            if views:
                scores["mirrored"].update(mirrored(classifier, images, logits), labels)
                scores["six_views"].update(over_views(classifier, images, logits), labels)
        said.append(Answers(logits.float().cpu(), labels.cpu()))
    figures = {
        kind: {key: round(float(value), 6) for key, value in score.compute().items()}
        for kind, score in scores.items()
    }
    answers = Answers(*map(torch.cat, zip(*said, strict=True)))
    if not answers.logits.isfinite().all():
        raise NotFinite("the network gives no finite numbers: its weights are broken")
    plain = figures.pop("plain")
    scored = plain | figures | {"images": len(answers.labels)}
    return scored | detail(answers, classifier.classes), answers


class Origin(NamedTuple):
    """What a model was tested with: settings and digest of the data, precision."""

    data: dict[str, Any]
    precision: str
    digest: str | None


def origin(model: str | Path, split: str = "test") -> Origin:
    """How a model was tested; a shipped one in float32, which every machine computes alike.

    Where the data is, and where it comes from, is this machine's affair, unless the run was told. A
    checkpoint without its run's result.json is taken for one of CIFAR-10.

    Raises:
        SettingError: which images were held out for validation is not known.
    """
    if str(model) in zoo.names():
        result = zoo.card(str(model))["result"]
    else:
        path = checkpoint_of(model).parent / results.NAME
        result = results.read(path) if path.exists() else {}
        if not result and split == "val":
            raise SettingError(f"split=val: needs {path}, which says what was held out")
        if not result:
            log.warning("%s is not there: taken for a model of CIFAR-10, precision auto", path)
    here = composed()
    settings = merge(result.get("config", here), here, [], result.get("overrides", []))
    precision = result.get("precision", {}).get("value", "auto")
    if str(model) in zoo.names():
        precision = PRECISION
    return Origin(settings["data"], precision, result.get("data", {}).get("digest"))


def split_of(
    data: dict[str, Any], split: Literal["test", "val"], digest: str | None = None
) -> tuple[MemoryDataModule, Any]:
    """The data module of some settings, opened, and the loader of one of its splits.

    Args:
        digest: what the images must have, where it is known.

    Raises:
        SettingError: nothing was held out for validation, or the images are others.
    """
    module = build(data, "data", MemoryDataModule)
    if split == "val" and not module.has_validation:
        raise SettingError("split=val: this model was trained on all training images")
    module.setup()
    if digest not in (None, module.digest):
        raise SettingError(f"data: {data['dir']} has pictures that are not those of the run")
    return module, module.test_dataloader() if split == "test" else module.val_dataloader()


def place(model: str | Path, split: str) -> Path:
    """Where an evaluation goes by default: beside the checkpoint, or here for a shipped model."""
    name = f"evaluation-{split}"
    if str(model) in zoo.names():
        return Path(f"{model}-{name}")
    path = checkpoint_of(model)
    return path.parent / (name if at_home(model).is_dir() else f"evaluation-{path.stem}-{split}")


def write(folder: Path, record: dict[str, Any]) -> None:
    """Put an evaluation.json into a folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "evaluation.json") as file:
        file.write(results.dumps(record).encode())
