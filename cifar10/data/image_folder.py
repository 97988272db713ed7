"""A folder of class folders as a data set."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cifar10.core.errors import SettingError, UserError, printable
from cifar10.core.settings import expand_user
from cifar10.data import images as pictures
from cifar10.data.image_cache import content_digest, load_images
from cifar10.data.module import Count, InMemoryDataModule, Share, hold_out, to_count
from cifar10.data.prepare import Dataset

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
SHOWN = 10  # lines about pictures that cannot be read


class ScannedFolder(NamedTuple):
    """Pictures of all splits, in the order train, val, test.

    Attributes:
        classes: the names of the class folders, sorted.
        files: every picture.
        labels: its class, int64 (N,).
        counts: pictures in train, val and test.
    """

    classes: tuple[str, ...]
    files: list[Path]
    labels: Tensor
    counts: list[int]


class FolderDataModule(InMemoryDataModule):
    """Serves pictures of one's own, shrunk to 32x32 as `cifar10 predict` does.

    Args:
        dir: has a folder for each class, or `train/` with those, and optionally `val/` and `test/`
            with the same ones. Without `val/`, `val_size` images are held out of train.
        test_size: images, or below 1 their share, taken out of train where there is no `test/`.
        unreadable: `refuse` pictures that cannot be read, or `skip` them.
        common: see `MemoryDataModule`.

    Raises:
        SettingError: the folder has fewer than two classes, an empty one, or others in val or test.
    """

    name = "folder"

    def __init__(
        self,
        dir: str,
        test_size: Count | Share,
        unreadable: Literal["refuse", "skip"],
        **common: Any,
    ):
        if not dir:
            raise SettingError("data.dir='': must name a folder")
        self.root, self.unreadable = expand_user(dir), unreadable
        self.found = scan(self.root)
        self.classes = self.found.classes
        train, val, test = self.found.counts
        self.test_size = 0 if test else to_count(test_size, train)
        if not test and not 0 < self.test_size < train:
            raise SettingError(
                f"data.test_size={test_size}: {self.root} has no test folder, so that between 1 "
                f"and {train - 1} of its {train} pictures must be taken for testing"
            )
        self.total = train - self.test_size
        if val:
            common["val_size"] = 0
        super().__init__(**common)

    @property
    def has_validation(self) -> bool:
        return self.found.counts[1] > 0 or super().has_validation

    def read(self) -> Dataset:
        images, readable = load_images(self.root, self.found.files)
        self.report_unreadable(readable)
        labels = self.found.labels
        parts = [
            (part[good], own[good])
            for part, own, good in zip(
                *(tensor.split(self.found.counts) for tensor in (images, labels, readable)),
                strict=True,
            )
        ]
        (train, train_labels), val, test = parts
        for label, name in enumerate(self.classes):
            if not (train_labels == label).any():
                raise UserError(f"{self.root}: no picture of the class {name} can be read")
        if self.test_size:
            kept, taken = hold_out(train_labels, self.test_size, self.val_seed)
            test = train[taken], train_labels[taken]
            train, train_labels = train[kept], train_labels[kept]
        self.content = content_digest(images[readable], labels[readable])
        return Dataset(train, train_labels, *test, *val)

    @property
    def digest(self) -> str:
        """Of all images and labels, before they are split."""
        return self.content

    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        return moments(self.images(self.train_indices))

    def report_unreadable(self, readable: Tensor) -> None:
        """Name the pictures that cannot be read, and refuse them unless they may be skipped."""
        missing = (~readable).nonzero()[:, 0].tolist()
        if not missing:
            return
        lines = []
        for place in missing[:SHOWN]:
            try:
                pictures.read_image(self.found.files[place])
            except pictures.UnreadableImage as error:
                lines.append(f"\n  {printable(str(error))}")
        if len(missing) > SHOWN:
            lines.append(f"\n  and {len(missing) - SHOWN} more")
        said = f"{len(missing)} of {len(readable)} pictures cannot be read:{''.join(lines)}"
        if self.unreadable == "refuse":
            raise UserError(f"{said}\nRemove them, or pass over them with data.unreadable=skip")
        log.warning("%s", said)


def scan(root: Path) -> ScannedFolder:
    """List the pictures of each split and class.

    Raises:
        SettingError: see `FolderDataModule`.
    """
    where = f"data.dir={root}"
    if not root.is_dir():
        raise SettingError(f"{where}: there is no such folder")
    refuse_misnamed(root)
    split = any((root / name).is_dir() for name in SPLITS)
    folders = {name: root / name if split else root for name in SPLITS[: 3 if split else 1]}
    folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
    named = {
        name: sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != ".")
        for name, folder in folders.items()
    }
    classes = named.get("train", [])
    if len(classes) < 2:
        raise SettingError(
            f"{where}: {'only one class' if classes else 'no class'}: train needs at least two "
            f"folders, each with the pictures of one class, as in train/cat/1.jpg"
        )
    for name in named:
        if differing := sorted(set(named[name]) ^ set(classes)):
            first = differing[0]
            fault = "lacks the class" if first in classes else "has a class that train has not,"
            raise SettingError(f"{where}: {name} {fault} {first}")
    files: list[Path] = []
    labels: list[int] = []
    counts = [0, 0, 0]
    for place, name in enumerate(SPLITS):
        for label, own in enumerate(classes if name in folders else []):
            pictured, _, faults = pictures.find_images([folders[name] / own])
            if faults:
                raise SettingError(f"data.dir: {'; '.join(map(str, faults))}")
            files += pictured
            labels += [label] * len(pictured)
            counts[place] += len(pictured)
    return ScannedFolder(tuple(classes), files, torch.tensor(labels), counts)


def refuse_misnamed(root: Path) -> None:
    """Refuse folders of splits by other names, which would be left out or taken for classes."""
    folders = {f.name: f for f in sorted(root.iterdir()) if f.is_dir()}
    meant = {name: SPLIT_ALIASES.get(name.lower(), name.lower()) for name in folders}
    train = next((f for name, f in folders.items() if meant[name] == "train"), None)
    if train is None or not any(f.is_dir() for f in train.iterdir()):
        return  # classes, of which one may be that of trains
    for name, split in meant.items():
        if split in SPLITS and not (root / split).is_dir():
            raise SettingError(f"data.dir={root}: rename its folder {name} to {split}")


def moments(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images, uint8 (N, 3, H, W), in [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = [images[:, c].flatten().bincount(minlength=256) for c in range(3)]
    shares = (
        torch.stack(counts).double() / counts[0].sum()
    )  # exact up to here, however many there are
    mean = shares @ levels
    std = (shares @ levels.square() - mean.square()).clamp(min=0).sqrt()
    return mean.tolist(), std.clamp(min=1 / 255).tolist()  # pictures of one colour have none
