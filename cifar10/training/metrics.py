"""Loss, top-k accuracy, calibration and confusion over a whole split."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)


class CrossEntropy(Metric):
    """Mean cross-entropy over all images, exact for uneven batches and several ranks.

    Labels are int64 (n,), or the share of each class, float (n, classes).
    """

    total: Tensor
    count: Tensor
    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        # With `bf16-true`, Lightning converts the sum to bfloat16, which rounds it to 2 digits.
        self.total = self.total.float() + F.cross_entropy(logits.float(), labels, reduction="sum")
        self.count += len(labels)

    def compute(self) -> Tensor:
        return self.total / self.count


def hard(labels: Tensor) -> Tensor:
    """Labels, int64 (n,), of those or of shares of the classes: the class with the largest."""
    return labels.argmax(1) if labels.is_floating_point() else labels


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Top-1 of a batch, float ()."""
    return (logits.argmax(1) == hard(labels)).float().mean()


class TopK(MulticlassAccuracy):
    """Top-k accuracy; of images with shares of several classes, for the class with the largest."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        super().update(logits, hard(labels))


def metrics(prefix: str, tops: tuple[int, ...], classes: int) -> MetricCollection:
    """Build cross-entropy and micro-averaged top-k accuracies, fractions in [0, 1].

    With fewer than k classes, top-k is 1. Compute groups are off: torchmetrics would merge top-3
    and top-5 for good if they agreed on the first batch.
    """
    measured: dict[str, Metric | MetricCollection] = {"loss": CrossEntropy()}
    for k in tops:
        settings: Any = dict(top_k=min(k, classes), average="micro", validate_args=False)
        measured[f"top{k}"] = TopK(classes, **settings)
    return MetricCollection(measured, prefix=prefix, compute_groups=False)


def sums(collection: MetricCollection) -> dict[str, dict[str, Tensor]]:
    """The state of metrics, summed over all ranks, by the metric's name."""
    found = {}
    for name, metric in collection.items():
        with metric.sync_context(should_unsync=True):
            found[name] = {key: getattr(metric, key).clone() for key in metric._defaults}
    return found


def restore_sums(collection: MetricCollection, saved: dict[str, dict[str, Tensor]]) -> None:
    for name, metric in collection.items():
        for key, value in saved.get(name, {}).items():
            setattr(metric, key, value.to(metric.device))


class Predictions(NamedTuple):
    """Logits and labels of some images."""

    logits: Tensor  # float (N, classes)
    labels: Tensor  # int64 (N,)


def detailed_scores(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Return `calibration_error` and `class_scores`.

    The calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599) is the mean distance
    between confidence and accuracy over 15 bins.
    """
    scored = predictions.logits.float().softmax(1), predictions.labels, len(classes)
    error = multiclass_calibration_error(*scored, n_bins=15)
    scores = class_scores(multiclass_confusion_matrix(*scored), classes)
    return {"calibration_error": round(float(error), 6)} | scores


def class_scores(confusion: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return `per_class`, `confusion` and `confusion_normalized`, as lists.

    Args:
        confusion: numbers of images, int64 (true class, predicted class); normalized, each row is
            divided by its sum.

    `per_class` has `images`, `precision`, `recall` and `f1`, in [0, 1]; they are None where they
    would divide by zero, and f1 for a class without images.
    """
    right, images, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    columns = {
        "precision": right / predicted,
        "recall": right / images,
        "f1": 2 * right / (images + predicted).where(images > 0, torch.nan),
    }
    shares = {key: [share(value) for value in column.tolist()] for key, column in columns.items()}
    per_class: dict[str, Any] = {
        name: {"images": count, **{key: column[label] for key, column in shares.items()}}
        for label, (name, count) in enumerate(zip(classes, images.tolist(), strict=True))
    }
    normalized = (confusion / images[:, None]).tolist()
    return {
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "confusion_normalized": [[share(value) for value in row] for row in normalized],
    }


def share(value: float) -> float | None:
    """A share, rounded; None where it is of nothing."""
    return None if math.isnan(value) else round(value, 6)


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% confidence interval, in [0, 1], of a share that was measured on `count` images.

    Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953.
    """
    centre = share + z * z / (2 * count)
    margin = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    scale = 1 + z * z / count
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)
