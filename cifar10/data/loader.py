"""One epoch of in-memory batches."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar10.core.errors import SettingError
from cifar10.data import IMAGE_SIZE
from cifar10.data.augment import Augment, generator, unpack
from cifar10.data.mixing import Mix


class Labelled(NamedTuple):
    """Images to evaluate on, with their labels and names."""

    images: Any  # uint8 (N, 3, 32, 32): a tensor, or what reads the indexed ones
    labels: Tensor  # int64 (N,)
    names: Sequence[str | int]  # paths, or indices in the data set

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.labels), size):
            part = slice(start, start + size)
            yield self.images[part], self.labels[part]


@dataclass(eq=False)
class Loader:
    """Yields one epoch of batches from memory, without worker processes.

    The order and augmentation of a training epoch are a pure function of (seed, epoch); each rank
    takes its share of every global batch. An evaluation loader yields its images once, in order,
    unchanged.

    Yields:
        Images, uint8 (n, 3, s, s), channels last in memory, and labels, int64 (n,) or, if mixed,
        float32 (n, classes).
    """

    pixels: Tensor  # the packed data set, int32 (N, S, S), on the device where batches are needed
    labels: Tensor  # int64 (N,), on the same device
    indices: Tensor  # of the images to load, int64 (M,)
    batch_size: int  # of a global batch; the last batch of an epoch may be smaller
    augment: Augment | None = None  # None makes an evaluation loader
    seed: int = 0  # of order and augmentation
    rank: int = 0
    world_size: int = 1  # number of processes that share each batch
    sizes: Mapping[int, int] | None = None  # sides s of training images; see `side_at_epoch`
    # Replaces `augment`: maps one image, uint8 (3, S, S), to the same shape and dtype.
    transform: Callable[[Tensor], Tensor] | None = None
    mix: Mix | None = None  # of the images of a batch that this rank loads

    def __post_init__(self) -> None:
        self.epoch = self.position = 0  # position: batches of this epoch already yielded
        self.restored = {"epoch": -1, "position": 0}
        if self.augment:
            self.sampler = self  # Lightning calls set_epoch on `loader.sampler` only

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch, which Lightning saves in checkpoints."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start at a saved position, if the next epoch to load is the one it was saved in."""
        self.restored = state

    def __len__(self) -> int:
        full, rest = divmod(len(self.indices), self.batch_size)
        # In training, a rank without images would block the others, so such a batch is dropped.
        return full + (rest >= (self.world_size if self.augment else self.rank + 1))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator runs on its first next(); Lightning calls set_epoch before that.
        order = self.indices
        if self.augment:
            rng = generator(self.seed, self.epoch, 1)
            order = order[torch.randperm(len(order), generator=rng)]
            count, side = self.pixels.shape[:2]
            draw = self.augment.draw(count, side, self.seed, self.epoch).to(self.pixels.device)
        on_cpu, order = order, order.to(self.pixels.device)
        # A checkpoint of the last batch stores the full length, which must not skip an epoch.
        first = self.restored["position"] % len(self) if self.restored["epoch"] == self.epoch else 0
        for batch in range(first, len(self)):
            start = batch * self.batch_size
            share = slice(start + self.rank, start + self.batch_size, self.world_size)
            indices = order[share]
            if self.transform and self.augment:
                positions = itertools.count(start + self.rank, self.world_size)
                keys = ((self.seed, self.epoch, position, 3) for position in positions)
                images = transform_each(self.transform, unpack(self.pixels[indices]), keys)
            elif self.augment:
                images = self.augment.apply(self.pixels, indices, on_cpu[share], draw)
            else:
                images = unpack(self.pixels[indices])
            images = downscale(images, side_at_epoch(self.sizes, self.epoch))
            labels = self.labels[indices]
            if self.mix:
                images, labels = self.mix.apply(images, labels, self.seed, self.epoch, batch, 5)
            self.position = batch + 1
            yield images, labels


def side_at_epoch(sizes: Mapping[int, int] | None, epoch: int) -> int:
    """Side in pixels at an epoch, from 0; {1: 24, 13: 28} is 28 from the 13th epoch on."""
    begun = [first for first in sizes or {} if first <= epoch + 1]
    return sizes[max(begun)] if sizes and begun else IMAGE_SIZE


def downscale(images: Tensor, side: int) -> Tensor:
    """Resize images, uint8 (n, 3, S, S), to `side` pixels, antialiased; never enlarge."""
    if images.size(-1) <= side:
        return images
    large = images.contiguous(memory_format=torch.channels_last)
    large = large if large.is_cpu else large.float()  # GPUs have no code for bytes
    small = F.interpolate(large, size=(side, side), mode="bilinear", antialias=True)
    return small if small.dtype == torch.uint8 else small.add_(0.5).clamp_(0, 255).byte()


def transform_each(
    transform: Callable[[Tensor], Tensor], images: Tensor, keys: Iterator[tuple[int, ...]]
) -> Tensor:
    """Transform images, uint8 (n, 3, S, S), one by one, each with torch's seed set from its key."""
    results = []
    with torch.random.fork_rng(devices=[]):
        for image, key in zip(images.contiguous(), keys, strict=False):
            torch.default_generator.manual_seed(generator(*key).initial_seed())
            result = transform(image)
            if result.shape != image.shape or result.dtype != torch.uint8:
                got = f"{str(result.dtype).removeprefix('torch.')} {tuple(result.shape)}"
                needed = f"must return uint8 of shape {tuple(image.shape)}; got {got}"
                raise SettingError(f"data.transform: {needed}")
            results.append(result)
    return torch.stack(results)
