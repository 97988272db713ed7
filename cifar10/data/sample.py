"""The 1,500 real images that ship with the package.

The rule: of each class, in official order, the first 100 training images and the first 50 test
images. The picture holds 50 images a row, class after class, training images first: rows 0 to 19
are training images (two rows a class), rows 20 to 29 test images (one row a class).
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar10.core.errors import UserError
from cifar10.data import CLASSES
from cifar10.data.checksums import IMAGE_SIZE
from cifar10.data.prepare import Dataset

SAMPLE_FILE = Path(__file__).with_name("sample.png")
TRAIN, TEST = 100, 50  # images per class
COLUMNS = 50
# Of the picture\'s pixels, RGB, row by row.
SHA256 = "3492f529a4f31a0f1e69a1230124176c53171beb9cb2e0db89bbe6d94f2ad0fe"


def choose(dataset: Dataset) -> Dataset:
    """Apply the rule to the whole set."""

    def first(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        places = torch.cat([(labels == c).nonzero()[:count, 0] for c in range(len(CLASSES))])
        return images[places], labels[places]

    return Dataset(
        *first(dataset.train_images, dataset.train_labels, TRAIN),
        *first(dataset.test_images, dataset.test_labels, TEST),
    )


def draw(sample: Dataset) -> np.ndarray:
    """Lay the sample out as the picture's pixels, uint8 (960, 1600, 3)."""
    images = torch.cat([sample.train_images, sample.test_images])
    rows = images.view(-1, COLUMNS, 3, IMAGE_SIZE, IMAGE_SIZE).permute(
        0, 3, 1, 4, 2
    )  # (30, 32, 50, 32, 3)
    return rows.reshape(-1, COLUMNS * IMAGE_SIZE, 3).numpy()


def read_sample(path: Path = SAMPLE_FILE) -> Dataset:
    """Read the shipped picture back.

    Raises:
        UserError: it is missing or not the picture that was shipped.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            pixels = np.array(picture.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): install the package again") from error
    if hashlib.sha256(pixels.tobytes()).hexdigest() != SHA256:
        raise UserError(f"{path} is not the picture that was shipped: install the package again")
    rows = torch.from_numpy(pixels).view(-1, IMAGE_SIZE, COLUMNS, IMAGE_SIZE, 3)
    images = rows.permute(0, 2, 4, 1, 3).reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)
    labels = torch.arange(len(CLASSES))
    train = TRAIN * len(CLASSES)
    return Dataset(
        images[:train],
        labels.repeat_interleave(TRAIN),
        images[train:],
        labels.repeat_interleave(TEST),
    )


if __name__ == "__main__":  # how the picture was made
    import sys

    from PIL import Image

    from cifar10.data.checksums import CIFAR10
    from cifar10.data.prepare import read_prepared

    picture = draw(choose(read_prepared(Path(sys.argv[1]), CIFAR10)))
    Image.fromarray(picture).save(SAMPLE_FILE, optimize=True)
    print(hashlib.sha256(picture.tobytes()).hexdigest())
