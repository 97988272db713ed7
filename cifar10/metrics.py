"""Cross-entropy and top-k over a whole split."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy


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
