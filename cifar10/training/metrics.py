"""Cross-entropy and top-k over a whole split."""

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

BINS = 15  # of confidence, as in Guo et al. (2017), https://arxiv.org/abs/1706.04599


class CrossEntropy(Metric):
    """Mean cross-entropy over all images seen, exact for uneven batches and many ranks."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.total += F.cross_entropy(logits.float(), labels, reduction="sum")
        self.count += len(labels)

    def compute(self) -> Tensor:
        return self.total / self.count


def metrics(prefix: str, tops: tuple[int, ...], classes: int) -> MetricCollection:
    """Cross-entropy and top-k accuracies, fractions in [0, 1] of all images alike (micro).

    With fewer than k classes, top-k is 1. Compute groups are off: torchmetrics would merge top-3
    and top-5 for good if they happened to agree on the first batch.
    """
    accuracies = {
        f"top{k}": MulticlassAccuracy(
            classes, top_k=min(k, classes), average="micro", validate_args=False
        )
        for k in tops
    }
    return MetricCollection(
        {"loss": CrossEntropy(), **accuracies}, prefix=prefix, compute_groups=False
    )


class Predictions(NamedTuple):
    """What a classifier said of some images.

    Attributes:
        logits: float (N, classes).
        labels: int64 (N,).
    """

    logits: Tensor
    labels: Tensor


def detailed_scores(answers: Predictions, classes: Sequence[str]) -> dict[str, Any]:
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


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% confidence interval of a share that was measured on `count` images.

    Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953.

    Args:
        share: in [0, 1].
        count: images, at least 1.

    Returns:
        Lowest and highest share, in [0, 1].
    """
    centre = share + z * z / (2 * count)
    margin = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    scale = 1 + z * z / count
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)
