"""Draw the bundled sample from the prepared data set.

    python -m tools.make_sample data/cifar-10.bin cifar10/data/sample.png

Prints the SHA-256 of the pixels, which `cifar10.data.sample` checks.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cifar10.data import CLASSES, IMAGE_SIZE
from cifar10.data.checksums import CIFAR10
from cifar10.data.prepare import Dataset, read_prepared
from cifar10.data.sample import COLUMNS, TEST, TRAIN


def choose_images(dataset: Dataset) -> Dataset:
    """Take the first images of each class; see `cifar10.data.sample`."""

    def first(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        indices = torch.cat([(labels == c).nonzero()[:count, 0] for c in range(len(CLASSES))])
        return images[indices], labels[indices]

    return Dataset(
        *first(dataset.train_images, dataset.train_labels, TRAIN),
        *first(dataset.test_images, dataset.test_labels, TEST),
    )


def draw(sample: Dataset) -> np.ndarray:
    """Arrange the sample in one image, uint8 (960, 1600, 3)."""
    images = torch.cat([sample.train_images, sample.test_images])
    grid = images.view(-1, COLUMNS, 3, IMAGE_SIZE, IMAGE_SIZE)  # (30, 50, 3, 32, 32)
    return grid.permute(0, 3, 1, 4, 2).reshape(-1, COLUMNS * IMAGE_SIZE, 3).numpy()


def main() -> None:
    prepared, output = map(Path, sys.argv[1:])
    dataset = read_prepared(prepared, CIFAR10)
    if dataset is None:
        sys.exit(f"{prepared}: missing or damaged; prepare it with `cifar10 data fetch`")
    pixels = draw(choose_images(dataset))
    Image.fromarray(pixels).save(output, optimize=True)
    print(hashlib.sha256(pixels.tobytes()).hexdigest())


if __name__ == "__main__":
    main()
