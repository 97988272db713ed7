"""The LightningDataModules: merged training set, stratified split, loaders."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import lightning as L
import torch
from annotated_types import Ge, Gt, Interval, Lt
from pydantic import BeforeValidator
from torch import Tensor, nn

from cifar10.core.errors import SettingError, one_line
from cifar10.core.instantiate import instantiate
from cifar10.core.settings import default_folder, expand_user
from cifar10.data import CLASSES, IMAGE_SIZE, MEAN, STD, prepare, sample
from cifar10.data.augment import Augment, pack, unpack
from cifar10.data.checksums import CIFAR10
from cifar10.data.download import SOURCES
from cifar10.data.loader import Labelled, Loader, transform_each
from cifar10.data.mixing import Alpha, Mix
from cifar10.data.policies import Policy

REPLACED = "has no effect with data.transform, which replaces the augmentation"
# Numbers of training images, so that settings are checked before any download.
TRAIN_SIZES = {"cifar10": 50_000, "sample": sample.TRAIN * 10}

Name = Literal["cifar10", "sample"]
Fraction = Annotated[float, Gt(0), Lt(1)]
Count = Annotated[int, Ge(0)]
BatchSize = Annotated[int, Ge(1)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
# In JSON, the keys of a dictionary are text.
to_int = BeforeValidator(lambda key: int(key) if str(key).isdecimal() else key)
Epoch = Annotated[int, Ge(1), to_int]
Side = Annotated[int, Interval(ge=16, le=IMAGE_SIZE)]


class InMemoryDataModule(L.LightningDataModule, ABC):
    """Holds out a validation set and serves images from memory.

    `train` is trained on, `val` chooses the checkpoint, `test` is evaluated once, after training.

    Args:
        batch_size: images per batch, over all ranks.
        validation: `held-out` splits val from the training set; `test` validates on the test set.
        val_size: number of held-out images, or their fraction if below 1, stratified by class.
        val_seed: of the split; independent of `seed`, so that all seeds share one validation set.
        flip, shift, cutout, brightness, contrast, policy: see `cifar10.data.augment.Augment`.
        mixup, cutmix: see `cifar10.data.mixing.Mix`.
        sizes: side in pixels of training images by first epoch; see `cifar10.data.loader`.
        transform: specifications of modules that replace the augmentation; see `Loader`.
        seed: of order and augmentation.

    Raises:
        SettingError: val_size or batch_size is larger than the data set allows.
    """

    # Subclasses set these before the data is opened, so that settings are checked first.
    name: str
    total: int  # training images, including those that will be held out
    classes: Sequence[str] = CLASSES  # in label order
    digest: str  # SHA-256 that identifies the data set, once it is open

    def __init__(
        self,
        batch_size: BatchSize = 250,
        validation: Literal["held-out", "test"] = "held-out",
        val_size: Count | Fraction = 5000,
        val_seed: Seed = 0,
        flip: Literal["random", "alternating", "none"] = "alternating",
        shift: Annotated[int, Interval(ge=0, lt=IMAGE_SIZE)] = 2,
        cutout: Annotated[int, Interval(ge=0, le=IMAGE_SIZE)] = 0,
        brightness: Annotated[float, Interval(ge=0, le=1)] = 0.0,
        contrast: Annotated[float, Interval(ge=0, le=1)] = 0.0,
        policy: Policy | None = None,
        mixup: Alpha = 0.0,
        cutmix: Alpha = 0.0,
        sizes: dict[Epoch, Side] | None = None,
        transform: list[dict[str, Any]] | None = None,
        seed: Seed = 0,
    ):
        super().__init__()
        held_out = to_count(val_size, self.total) if validation == "held-out" else 0
        if held_out >= self.total:
            raise SettingError(f"data.val_size={val_size}: must be less than {self.total}")
        if batch_size > self.total - held_out:
            limit = f"{self.total - held_out}, the number of training images"
            raise SettingError(f"data.batch_size={batch_size}: must be at most {limit}")
        self.batch_size, self.seed = batch_size, seed
        self.validation, self.val_size, self.val_seed = validation, held_out, val_seed
        self.has_validation = held_out > 0 or validation == "test"
        self.augment = Augment(flip, shift, cutout, brightness, contrast, policy)
        self.mixup, self.cutmix = mixup, cutmix
        self.sizes = {int(first): side for first, side in (sizes or {}).items()}
        named = [(f"data.transform.{i}", spec) for i, spec in enumerate(transform or ())]
        transforms = [instantiate(spec, name, nn.Module) for name, spec in named]
        self.transform = nn.Sequential(*transforms) if transforms else None
        if self.transform:
            off = dict(cutout=cutout, brightness=brightness, contrast=contrast, policy=policy)
            if on := [f"data.{key}={value}" for key, value in off.items() if value]:
                raise SettingError(f"{on[0]}: {REPLACED}")
            try_transform(self.transform)
        self.pixels = torch.empty(0)  # until setup()

    @abstractmethod
    def read_dataset(self) -> prepare.Dataset:
        """Read the whole data set, or raise a UserError."""

    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of R, G and B, in [0, 1], over the training images."""
        return MEAN, STD

    def setup(self, stage: str | None = None) -> None:
        """Open the data, after downloading it if needed, or raise a UserError."""
        if len(self.pixels):
            return
        dataset = self.read_dataset()
        # One tensor for all splits, so that an index identifies an image.
        self.pixels = pack(dataset.train_images, dataset.test_images, dataset.val_images)
        self.labels = torch.cat([dataset.train_labels, dataset.test_labels, dataset.val_labels])
        train, test = len(dataset.train_labels), len(dataset.test_labels)
        self.test_indices = torch.arange(train, train + test)
        split = hold_out(dataset.train_labels, self.val_size, self.val_seed)
        self.train_indices, self.val_indices = split
        if len(dataset.val_labels):
            self.val_indices = torch.arange(train + test, len(self.labels))
        if self.validation == "test":
            self.val_indices = self.test_indices

    @property
    def val_digest(self) -> str:
        """SHA-256 of the validation images' indices: equal digests mean equal splits."""
        return hashlib.sha256(self.val_indices.numpy().astype("<i8").tobytes()).hexdigest()

    def images(self, indices: Tensor) -> Tensor:
        """Images without augmentation, uint8 (len(indices), 3, 32, 32)."""
        return unpack(self.pixels[indices])

    def names(self, indices: Tensor) -> list[str | int]:
        """Paths of images or, as here, their indices in the official training or test set."""
        return torch.where(indices < self.total, indices, indices - self.total).tolist()

    def labelled(self, split: Literal["val", "test"]) -> Labelled:
        """The images, labels and names of a split, in their order."""
        indices = self.test_indices if split == "test" else self.val_indices
        return Labelled(self.images(indices), self.labels[indices].cpu(), self.names(indices))

    def train_dataloader(self) -> Loader:
        settings = dict(augment=self.augment, sizes=self.sizes, transform=self.transform)
        if self.mixup or self.cutmix:
            settings["mix"] = Mix(self.mixup, self.cutmix, len(self.classes))
        return self.loader(self.train_indices, seed=self.seed, **settings)

    def val_dataloader(self) -> Loader | list:
        return self.loader(self.val_indices) if self.has_validation else []

    def test_dataloader(self) -> Loader:
        return self.loader(self.test_indices)

    predict_dataloader = test_dataloader

    def loader(self, indices: Tensor, **training: Any) -> Loader:
        """Load some images; `training` holds the training arguments of `Loader`."""
        if self.trainer is not None:
            # On a GPU the whole set lives there, so that a batch needs no copy from the host.
            device, processes = self.trainer.strategy.root_device, self.trainer.world_size
            self.pixels, self.labels = self.pixels.to(device), self.labels.to(device)
            training |= {"rank": self.trainer.global_rank, "world_size": processes}
            if self.batch_size < processes:
                needed = f"must be at least {processes}, one image per process"
                raise SettingError(f"data.batch_size={self.batch_size}: {needed}")
        return Loader(self.pixels, self.labels, indices, self.batch_size, **training)


class CIFAR10DataModule(InMemoryDataModule):
    """CIFAR-10 with its five training batches merged, or the bundled `sample` of 1,500 images.

    Args:
        name: `cifar10` or `sample`, whose batches have 50 images by default, 200 held out.
        dir: folder of the prepared data; by default `CIFAR10_DATA_DIR`, or `data/` of the project.
        sources: download URLs, tried in order; see docs/data.md.
        download: whether to use the network if the data is not on disk.
        common: the arguments of `InMemoryDataModule`.
    """

    def __init__(
        self,
        name: Name = "cifar10",
        dir: str | None = None,
        sources: tuple[str, ...] = SOURCES,
        download: bool = True,
        **common: Any,
    ):
        dir = default_folder() if dir is None else dir
        if not dir:
            raise SettingError("data.dir='': must name a folder (is CIFAR10_DATA_DIR empty?)")
        self.name, self.total = name, TRAIN_SIZES[name]
        if name == "sample":
            common = {"batch_size": 50, "val_size": 200} | common
        self.digest = sample.SHA256 if name == "sample" else CIFAR10.digest
        super().__init__(**common)
        self.dir, self.download = expand_user(dir), download
        self.sources = os.environ.get("CIFAR10_SOURCES", "").split() or sources
        for number, source in enumerate(self.sources, 1):
            if not re.match(r"(https?://|npm:)[^/]", source):  # not shown: it may have a password
                raise SettingError(f"data.sources: number {number} is no https:// or npm: address")

    def read_dataset(self) -> prepare.Dataset:
        if self.name == "sample":
            return sample.read_sample()
        return prepare.prepare_dataset(self.dir, self.sources, self.download)


def try_transform(transform: nn.Module) -> None:
    """Raise a SettingError unless a transform turns an image into an image."""
    image = torch.arange(3 * IMAGE_SIZE**2).view(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    try:
        transform_each(transform, (image % 256).byte(), iter([(0,)]))
    except SettingError:
        raise
    except Exception as error:  # of torchvision or the user's own code
        raise SettingError(f"data.transform: {type(error).__name__}: {one_line(error)}") from error


def to_count(size: int | float, total: int) -> int:
    """Convert a number of images, or a fraction below 1, to a number of images."""
    return round(size * total) if isinstance(size, float) else size


def hold_out(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the indices of labels, int64 (N,), into the rest and `count` < N, stratified by class.

    Both are int64 and ascend.
    """
    rng = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=rng)
    # Rank of each image within its class, as a fraction of the class. The lowest fractions are held
    # out: the same share of every class.
    fraction = torch.empty(len(labels))
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        fraction[members] = (torch.arange(len(members)) + 0.5) / len(members)
    order = torch.sort(fraction[shuffled], stable=True).indices
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[shuffled[order[:count]]] = True
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
