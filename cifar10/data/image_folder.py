"""A folder of class folders as a data set."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cifar10.core.errors import SettingError, UserError, printable
from cifar10.core.settings import expand_user
from cifar10.data.image_cache import content_digest, load_images
from cifar10.data.images import UnreadableImage, find_images, read_image
from cifar10.data.module import Count, Fraction, InMemoryDataModule
from cifar10.data.prepare import Dataset
from cifar10.data.split import hold_out, to_count

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
MAX_LISTED = 10  # unreadable files listed by name


class ScannedFolder(NamedTuple):
    """The images of all splits, in the order train, val, test."""

    classes: tuple[str, ...]  # names of the class folders, sorted
    files: list[Path]
    labels: Tensor  # int64 (N,)
    counts: list[int]  # number of images in train, val and test


class FolderDataModule(InMemoryDataModule):
    """Serves your own images, resized to 32x32 as `cifar10 predict` does.

    Args:
        dir: has a folder for each class, or `train/` with these and optionally `val/` and `test/`
            with the same ones. Without `val/`, `val_size` images are held out of train.
        test_size: number of images, or their fraction if below 1, held out of train if there is
            no `test/`.
        unreadable: `refuse` (stop with an error) or `skip` unreadable images.
        common: see `InMemoryDataModule`.

    Raises:
        SettingError: fewer than two classes, a class without images, or classes that differ
            between the splits.
    """

    name = "folder"

    def __init__(
        self,
        dir: str,
        test_size: Count | Fraction,
        unreadable: Literal["refuse", "skip"],
        **common: Any,
    ):
        if not dir:
            raise SettingError("data.dir='': must name a folder")
        self.root, self.unreadable = expand_user(dir), unreadable
        self.scanned = scan(self.root)
        self.classes = self.scanned.classes
        train, val, test = self.scanned.counts
        self.test_size = 0 if test else to_count(test_size, train)
        if not test and not 0 < self.test_size < train:
            raise SettingError(
                f"data.test_size={test_size}: must be 1 to {train - 1} images, for {self.root} has "
                f"no test folder"
            )
        self.total = train - self.test_size
        if val:
            common["val_size"] = 0
        super().__init__(**common)

    @property
    def has_validation(self) -> bool:
        return self.scanned.counts[1] > 0 or super().has_validation

    def read_dataset(self) -> Dataset:
        images, readable = load_images(self.root, self.scanned.files)
        self.report_unreadable(readable)
        labels, counts = self.scanned.labels, self.scanned.counts
        self.content = content_digest(images[readable], labels[readable])
        parts = zip(images.split(counts), labels.split(counts), readable.split(counts), strict=True)
        (train, train_labels), val, test = ((part[ok], own[ok]) for part, own, ok in parts)
        for label, name in enumerate(self.classes):
            if not (train_labels == label).any():
                raise UserError(f"{self.root}: class {name} has no readable training image")
        if self.test_size:
            rest, held_out = hold_out(train_labels, self.test_size, self.val_seed)
            test = train[held_out], train_labels[held_out]
            train, train_labels = train[rest], train_labels[rest]
        return Dataset(train, train_labels, *test, *val)

    @property
    def digest(self) -> str:
        """SHA-256 of all images and labels, before they are split."""
        return self.content

    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        return channel_moments(self.images(self.train_indices))

    def report_unreadable(self, readable: Tensor) -> None:
        """List the unreadable images.

        Raises:
            UserError: there are some, and they are not to be skipped.
        """
        missing = (~readable).nonzero()[:, 0].tolist()
        if not missing:
            return
        lines = [f"{len(missing)} of {len(readable)} images cannot be read:"]
        for index in missing[:MAX_LISTED]:
            try:
                read_image(self.scanned.files[index])
            except UnreadableImage as error:
                lines.append(f"  {printable(str(error))}")
        if len(missing) > MAX_LISTED:
            lines.append(f"  and {len(missing) - MAX_LISTED} more")
        if self.unreadable == "refuse":
            lines.append("Remove them, or skip them with data.unreadable=skip")
            raise UserError("\n".join(lines))
        log.warning("%s", "\n".join(lines))


def scan(root: Path) -> ScannedFolder:
    """List the images of each split and class.

    torchvision's `find_classes` and `make_dataset` would take hidden folders for classes, and leave
    out unreadable folders silently.

    Raises:
        SettingError: see `FolderDataModule`.
    """
    if not root.is_dir():
        raise SettingError(f"data.dir={root}: no such folder")
    check_split_names(root)
    folders = [root / name for name in SPLITS]
    if not any(folder.is_dir() for folder in folders):
        folders = [root]
    classes = class_names(folders[0])
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
        for name in sorted(set(class_names(folder)) ^ set(classes)):
            fault = "is missing" if name in classes else "is not in train"
            raise SettingError(f"data.dir={root}: class {name} of {folder.name} {fault}")
        for label, name in enumerate(classes):
            images, _, errors = find_images([folder / name])
            if errors:
                raise SettingError(f"data.dir: {'; '.join(map(str, errors))}")
            files += images
            labels += [label] * len(images)
            counts[split] += len(images)
    return ScannedFolder(tuple(classes), files, torch.tensor(labels), counts)


def class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != ".")


def check_split_names(root: Path) -> None:
    """Reject misnamed split folders, which would be ignored or taken for classes."""
    folders = {f.name: f for f in sorted(root.iterdir()) if f.is_dir()}
    splits = {name: SPLIT_ALIASES.get(name.lower(), name.lower()) for name in folders}
    train = next((f for name, f in folders.items() if splits[name] == "train"), None)
    if train is None or not any(f.is_dir() for f in train.iterdir()):
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
