"""What a classifier gets right, and how sure it is."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from cifar10 import zoo
from cifar10.core.errors import SettingError
from cifar10.core.files import atomic_write
from cifar10.core.instantiate import instantiate
from cifar10.core.settings import compose_settings, expand_user
from cifar10.data.module import InMemoryDataModule
from cifar10.runs import result as results
from cifar10.runs.load import find_checkpoint
from cifar10.runs.resume import merge
from cifar10.training.classifier import Classifier, NonFiniteError
from cifar10.training.hardware import autocast
from cifar10.training.metrics import Predictions, detailed_scores, metrics
from cifar10.training.tta import flip_tta, six_view_tta

log = logging.getLogger(__name__)

PRECISION = "32-true"  # of a shipped model's figures


@torch.inference_mode()
def evaluate(
    classifier: Classifier, batches: Iterable, precision: str, views: bool
) -> tuple[dict[str, Any], Predictions]:
    """Score batches as a Trainer's test does, digit for digit.

    Args:
        batches: images uint8 (n, 3, 32, 32) and labels int64 (n,), as of an evaluation loader.
        precision: that the run's Trainer computed in.
        views: also score the mean logits of an image and its mirror image, and of six views (see
            `cifar10.training.tta`), each a figure of its own.

    Returns:
        `loss`, `top1`, `top3`, `top5`, with views also `mirrored` and `six_views` of the same
        kind, and what `detail` gives; then what the classifier said.
    """
    kinds = ["plain", *(["mirrored", "six_views"] if views else [])]
    count = len(classifier.classes)
    scores = {kind: metrics("", (1, 3, 5), count).to(classifier.device) for kind in kinds}
    said: list[Predictions] = []
    classifier.eval()
    for images, labels in batches:
        images, labels = images.to(classifier.device), labels.to(classifier.device)
        with autocast(classifier.device.type, precision):
            logits = classifier(images)
            scores["plain"].update(logits, labels)
            if views:
                scores["mirrored"].update(flip_tta(classifier, images, logits), labels)
                scores["six_views"].update(six_view_tta(classifier, images, logits), labels)
        said.append(Predictions(logits.float().cpu(), labels.cpu()))
    figures = {
        kind: {key: round(float(value), 6) for key, value in score.compute().items()}
        for kind, score in scores.items()
    }
    answers = Predictions(*map(torch.cat, zip(*said, strict=True)))
    if not answers.logits.isfinite().all():
        raise NonFiniteError("the network returns NaN or infinity: its weights are broken")
    plain = figures.pop("plain")
    scored = plain | figures | {"images": len(answers.labels)}
    return scored | detailed_scores(answers, classifier.classes), answers


class Origin(NamedTuple):
    """What a model was tested with: settings and digest of the data, precision."""

    data: dict[str, Any]
    precision: str
    digest: str | None


def evaluation_settings(model: str | Path, split: str = "test") -> Origin:
    """How a model was tested; a shipped one in float32, which every machine computes alike.

    Where the data is, and where it comes from, is this machine's affair, unless the run was told. A
    checkpoint without its run's result.json is taken for one of CIFAR-10.

    Raises:
        SettingError: which images were held out for validation is not known.
    """
    if str(model) in zoo.pretrained_names():
        result = zoo.model_card(str(model))["result"]
    else:
        path = find_checkpoint(model).parent / results.RESULT_FILE
        result = results.read_result(path) if path.exists() else {}
        if not result and split == "val":
            raise SettingError(f"split=val: needs {path}, which says what was held out")
        if not result:
            log.warning("%s is not there: taken for a model of CIFAR-10, precision auto", path)
    here = compose_settings()
    settings = merge(result.get("config", here), here, [], result.get("overrides", []))
    precision = result.get("precision", {}).get("value", "auto")
    if str(model) in zoo.pretrained_names():
        precision = PRECISION
    return Origin(settings["data"], precision, result.get("data", {}).get("digest"))


def open_split(
    data: dict[str, Any], split: Literal["test", "val"], digest: str | None = None
) -> tuple[InMemoryDataModule, Any]:
    """The data module of some settings, opened, and the loader of one of its splits.

    Args:
        digest: what the images must have, where it is known.

    Raises:
        SettingError: nothing was held out for validation, or the images are others.
    """
    module = instantiate(data, "data", InMemoryDataModule)
    if split == "val" and not module.has_validation:
        raise SettingError("split=val: this model was trained on all training images")
    module.setup()
    if digest not in (None, module.digest):
        raise SettingError(f"data: {data['dir']} has pictures that are not those of the run")
    return module, module.test_dataloader() if split == "test" else module.val_dataloader()


def default_output_dir(model: str | Path, split: str) -> Path:
    """Where an evaluation goes by default: beside the checkpoint, or here for a shipped model."""
    name = f"evaluation-{split}"
    if str(model) in zoo.pretrained_names():
        return Path(f"{model}-{name}")
    path = find_checkpoint(model)
    return path.parent / (
        name if expand_user(model).is_dir() else f"evaluation-{path.stem}-{split}"
    )


def write_evaluation(folder: Path, record: dict[str, Any]) -> None:
    """Put an evaluation.json into a folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "evaluation.json") as file:
        file.write(results.to_json(record).encode())
