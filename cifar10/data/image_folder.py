"""A folder of class folders as a data set."""

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cifar10.core.display import printable
from cifar10.core.errors import SettingError, UserError
from cifar10.core.settings import expand_user
from cifar10.data.image_cache import content_digest, load_images
from cifar10.data.images import find_images, read_ahead
from cifar10.data.module import BatchSize, Count, Fraction, InMemoryDataModule, hold_out, to_count
from cifar10.data.prepare import Dataset

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
MAX_LISTED = 10  # unreadable files listed by name
Unreadable = Literal["refuse", "skip"]


class FolderDataModule(InMemoryDataModule):
    """Serves your own images, resized to 32x32 as `cifar10 predict` does.

    `dir` has a folder for each class, or `train/` with these and optionally `val/` and `test/` with
    the same ones. Without these, `val_size` and `test_size` images are held out of train.
    `InMemoryDataModule` has the `common` arguments and those without a description here.

    Raises:
        SettingError: fewer than two classes, a class without images, or classes that differ
            between the splits.
    """

    name = "folder"

    def __init__(
        self,
        dir: str,
        test_size: Count | Fraction = 0.1,
        unreadable: Unreadable = "refuse",
        batch_size: BatchSize = 50,
        val_size: Count | Fraction = 0.1,
        **common: Any,
    ):
        if not dir:
            raise SettingError("data.dir='': must name a folder")
        self.root, self.unreadable = expand_user(dir), unreadable
        self.classes, self.files, self.all_labels, self.counts = scan(self.root)
        train, val, test = self.counts
        self.test_size = 0 if test else to_count(test_size, train)
        if not test and not 0 < self.test_size < train:
            limits = f"must be 1 to {train - 1} images, for {self.root} has no test folder"
            raise SettingError(f"data.test_size={test_size}: {limits}")
        self.total = train - self.test_size
        super().__init__(batch_size, val_size=0 if val else val_size, **common)
        self.has_validation |= val > 0

    def read_dataset(self) -> Dataset:
        images, readable = load_images(self.root, self.files)
        self.report_unreadable(readable)
        self.digest = content_digest(images[readable], self.all_labels[readable])
        parts = torch.arange(len(self.files)).split(self.counts)
        train, val, test = (part[readable[part]] for part in parts)
        for label, name in enumerate(self.classes):
            if not (self.all_labels[train] == label).any():
                raise UserError(f"{self.root}: class {name} has no readable training image")
        if self.test_size:
            halves = hold_out(self.all_labels[train], self.test_size, self.val_seed)
            train, test = (train[half] for half in halves)
        self.order = torch.cat([train, test, val])
        split = ((images[own], self.all_labels[own]) for own in (train, test, val))
        return Dataset(*chain.from_iterable(split))

    def names(self, indices: Tensor) -> list[str | int]:
        files = (self.files[index] for index in self.order[indices].tolist())
        return [str(file.relative_to(self.root)) for file in files]

    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        return channel_moments(self.images(self.train_indices))

    def report_unreadable(self, readable: Tensor) -> None:
        """List the unreadable images, if any; raise a UserError unless they are to be skipped."""
        if not (lines := unreadable_lines(self.files, readable)):
            return
        fault = f"{int((~readable).sum())} of {len(readable)} images cannot be read"
        if self.unreadable == "refuse":
            advice = f"{fault}; remove them, or set data.unreadable=skip"
            raise UserError(advice, details="".join(lines))
        for line in (f"{fault}:", *lines):
            log.warning("%s", line.rstrip())


def unreadable_lines(files: Sequence[Path], readable: Tensor) -> list[str]:
    """Why the first of the files that are not readable, bool (N,), are not, a line each."""
    missing = (~readable).nonzero()[:, 0].tolist()
    listed = [files[index] for index in missing[:MAX_LISTED]]
    errors = (result for _, result in next(read_ahead(listed, MAX_LISTED), ()))
    lines = [f"{printable(str(error))}\n" for error in errors if isinstance(error, UserError)]
    more = len(missing) - MAX_LISTED
    return [*lines, f"and {more} more\n"] if more > 0 else lines


def scan(root: Path) -> tuple[tuple[str, ...], list[Path], Tensor, list[int]]:
    """List the images of each split and class, or raise a SettingError (see `FolderDataModule`).

    torchvision's `find_classes` and `make_dataset` would take hidden folders for classes, and leave
    out unreadable folders silently.

    Returns:
        Class names; files of train, val, test; their labels, int64 (N,); the three splits' sizes.
    """
    if not root.is_dir():
        raise SettingError(f"data.dir={root}: no such folder")
    check_split_names(root)
    folders = [root / name for name in SPLITS]
    if not any(folder.is_dir() for folder in folders):
        folders = [root]
    classes = subfolders(folders[0])
    if len(classes) < 2:
        raise SettingError(
            f"data.dir={root}: {len(classes)} class folders; at least two are needed, each with "
            f"the images of one class, as in train/cat/1.jpg"
        )
    files: list[Path] = []
    labels: list[int] = []
    counts = [0, 0, 0]
    for split, folder in enumerate(folders):
        if split and not folder.is_dir():
            continue
        for name in sorted(set(subfolders(folder)) ^ set(classes)):
            fault = "is missing" if name in classes else "is not in train"
            raise SettingError(f"data.dir={root}: class {name} of {folder.name} {fault}")
        for label, name in enumerate(classes):
            images, _, errors = find_images([folder / name])
            if errors:
                raise SettingError(f"data.dir: {'; '.join(map(str, errors))}")
            files += images
            labels += [label] * len(images)
            counts[split] += len(images)
    return tuple(classes), files, torch.tensor(labels), counts


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    if not folder.is_dir():
        return []
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != ".")


def check_split_names(root: Path) -> None:
    """Reject misnamed split folders, which would be ignored or taken for classes."""
    splits = {name: SPLIT_ALIASES.get(name.lower(), name.lower()) for name in subfolders(root)}
    train = next((name for name, split in splits.items() if split == "train"), None)
    if train is None or not subfolders(root / train):
        return  # these are class folders, one of which may be called train
    for name, split in splits.items():
        if split in SPLITS and not (root / split).is_dir():
            raise SettingError(f"data.dir={root}: rename its folder {name} to {split}")


def channel_moments(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images, uint8 (N, 3, H, W), in [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([images[:, c].flatten().bincount(minlength=256) for c in range(3)])
    shares = counts.double() / counts[0].sum()  # the counts are exact for any number of images
    mean = shares @ levels
    std = (shares @ levels.square() - mean.square()).clamp(min=0).sqrt()
    return mean.tolist(), std.clamp(min=1 / 255).tolist()  # images of one colour have no deviation
