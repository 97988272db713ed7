"""The stratified validation split."""

import torch
from torch import Tensor


def to_count(size: int | float, total: int) -> int:
    """Convert a number of images, or a fraction below 1, to a number of images."""
    return round(size * total) if isinstance(size, float) else size


def hold_out(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the indices of a data set into the rest and `count` held out, stratified by class.

    Args:
        labels: int64 (N,).
        count: images to hold out, 0 to N - 1.
        seed: the only source of randomness.

    Returns:
        Two ascending int64 index tensors, of N - count and of count elements.
    """
    rng = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=rng)
    # Rank of each image within its class, as a fraction of the class: the lowest fractions are the
    # same share of every class, and a remainder comes from different classes.
    fraction = torch.empty(len(labels))
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        fraction[members] = (torch.arange(len(members)) + 0.5) / len(members)
    order = torch.sort(fraction[shuffled], stable=True).indices
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[shuffled[order[:count]]] = True
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
