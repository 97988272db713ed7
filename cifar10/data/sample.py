"""The bundled sample: 1,500 images of CIFAR-10 for tests and offline use.

It holds the first 100 training and the first 50 test images of each class, in official order. The
PNG has 50 images per row, sorted by class: two rows per class of training images, then one row per
class of test images. `tools/make_sample.py` draws it.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cifar10.core.errors import UserError
from cifar10.data import CLASSES, IMAGE_SIZE
from cifar10.data.prepare import Dataset

SAMPLE_FILE = Path(__file__).with_name("sample.png")
TRAIN, TEST = 100, 50  # images per class
COLUMNS = 50
# Of the RGB pixels, row by row.
SHA256 = "3492f529a4f31a0f1e69a1230124176c53171beb9cb2e0db89bbe6d94f2ad0fe"


def read_sample(path: Path = SAMPLE_FILE) -> Dataset:
    """Read the sample, or raise a UserError if the file is missing or corrupted."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); reinstall the package") from error
    if hashlib.sha256(pixels.tobytes()).hexdigest() != SHA256:
        raise UserError(f"{path}: wrong SHA-256; reinstall the package")
    grid = torch.from_numpy(pixels).view(-1, IMAGE_SIZE, COLUMNS, IMAGE_SIZE, 3)
    images = grid.permute(0, 2, 4, 1, 3).reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)
    train, test = images.split([TRAIN * len(CLASSES), TEST * len(CLASSES)])
    labels = torch.arange(len(CLASSES))
    return Dataset(train, labels.repeat_interleave(TRAIN), test, labels.repeat_interleave(TEST))
