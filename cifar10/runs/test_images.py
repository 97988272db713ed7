"""The test images that a run on a folder keeps, so that it can be evaluated without it."""

import json
import logging
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from cifar10.core.errors import SettingError, UserError, one_line
from cifar10.core.files import atomic_write
from cifar10.data.image_cache import content_digest
from cifar10.data.image_folder import FolderDataModule
from cifar10.data.loader import Labelled
from cifar10.data.module import InMemoryDataModule

log = logging.getLogger(__name__)

TEST_IMAGES = "test_images.safetensors"


def keep_test_images(data: InMemoryDataModule, folder: Path) -> None:
    """Save the test images of a run on a folder of images."""
    if not isinstance(data, FolderDataModule):
        return
    images, labels, names = data.labelled("test")
    tensors = {"images": images.cpu().contiguous(), "labels": labels}
    metadata = {
        "names": json.dumps(list(names)),  # escapes what is not UTF-8
        "content": content_digest(*tensors.values()),
        "data": data.digest,
    }
    try:
        with atomic_write(folder / TEST_IMAGES) as file:
            file.write(save(tensors, metadata))
    except OSError as error:  # the run itself is complete
        log.warning("Warning: %s: cannot be saved: %s", folder / TEST_IMAGES, error.strerror)


def read_test_images(folder: Path, digest: str | None) -> Labelled | None:
    """The kept test images of a run on the data set with a SHA-256; None if it keeps none.

    Raises:
        UserError: the file is damaged or of another data set.
    """
    if not os.path.lexists(path := folder / TEST_IMAGES):
        return None
    if not path.is_file():  # opening a pipe would block
        raise UserError(f"{path}: not a regular file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
        names = json.loads(metadata["names"])
        intact = content_digest(images, labels) == metadata["content"]
    except Exception as error:  # of safetensors, of its memory map, of JSON
        raise UserError(f"{path}: damaged ({one_line(error)})") from error
    if metadata.get("data") != digest:
        raise SettingError(f"{path}: of another data set than the run used")
    fits = images.shape == (labels.numel(), 3, 32, 32) and images.dtype == torch.uint8
    fits &= labels.ndim == 1 and labels.dtype == torch.int64 and len(names) == len(labels) > 0
    if not (intact and fits and all(isinstance(name, str) for name in names)):
        raise UserError(f"{path}: damaged")
    return Labelled(images, labels, names)
