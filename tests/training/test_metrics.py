"""Metrics against direct counts."""

import pytest
import torch
from torch.nn import functional as F

from cifar10.training.metrics import metrics


def test_top_k_and_loss_equal_a_direct_count_over_uneven_batches():
    torch.manual_seed(0)
    logits = torch.randn(257, 10)
    labels = torch.randint(0, 3, (257,))  # unbalanced: macro and micro differ
    measured = metrics("val/", (1, 3, 5), 10)
    for part in (slice(0, 200), slice(200, 256), slice(256, 257)):
        measured.update(logits[part], labels[part])
    values = measured.compute()
    ranks = [
        sorted(range(10), key=row.__getitem__, reverse=True).index(label)
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    for k in (1, 3, 5):
        expected = sum(rank < k for rank in ranks) / 257
        assert values[f"val/top{k}"].item() == pytest.approx(expected)
    assert values["val/loss"].item() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert values["val/top1"] <= values["val/top3"] <= values["val/top5"]


def test_top_3_and_top_5_stay_separate_after_agreeing_on_the_first_batch():
    logits = torch.eye(10).repeat(2, 1)
    logits[10:, :4] += 2  # now labels 4 to 9 rank fifth, those before fourth or better
    labels = torch.arange(10).repeat(2)
    measured = metrics("test/", (1, 3, 5), 10)
    measured.update(logits[:10], labels[:10])
    measured.update(logits[10:], labels[10:])
    values = {key: round(value.item() * 20) for key, value in measured.compute().items()}
    assert (values["test/top1"], values["test/top3"], values["test/top5"]) == (14, 14, 20)
