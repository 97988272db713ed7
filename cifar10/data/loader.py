"""One epoch of in-memory batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar10.core.errors import SettingError
from cifar10.data.augment import Augment, Draw, generator, unpack

T = TypeVar("T")


class Loader:
    """Yields (images, labels) of one epoch, augmented, from memory, without worker processes.

    A training loader's order and augmentation are a pure function of (seed, epoch): nothing that
    ran before, and no number of ranks, changes them. Each rank takes its share of every global
    batch. An evaluation loader goes through its images once, in order, as they are.

    Yields:
        images: uint8 (n, 3, s, s), channels last in memory.
        labels: int64 (n,).

    Args:
        pixels: the packed set, int32 (N, S, S), on the device where the batches are wanted.
        labels: int64 (N,), on the same device.
        chosen: which images of the set are this loader's, int64 (M,).
        batch_size: images in a global batch; the last one of an epoch may be smaller.
        augment: what happens to training images; None makes an evaluation loader.
        crops: side in pixels of the central part that is left of augmented images, for each epoch;
            the last one is that of all later epochs. None leaves all of them.
        sizes: side s in pixels that what is larger is then shrunk to, likewise.
        transform: a function that takes and gives one image, uint8 (3, S, S); if given, it is
            applied in place of `augment`, image by image, which is slow.
        seed: of order and augmentation.
        rank, world_size: this process's place among those that share the batches.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        chosen: Tensor,
        batch_size: int,
        augment: Augment | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sizes: Sequence[int] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        crops: Sequence[int] | None = None,
    ):
        self.pixels, self.labels, self.chosen = pixels, labels, chosen
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.crops, self.sizes, self.transform = crops, sizes, transform
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0  # the batch that the next epoch begins with, once
        if augment:
            self.sampler = self  # Lightning calls set_epoch on `loader.sampler` only

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.chosen), self.batch_size)
        # While training, a last batch with fewer images than ranks is left out: a rank without any
        # would hold up the others. Evaluation leaves none out.
        needed = self.world_size if self.augment else self.rank + 1
        return full + (rest >= needed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator's body waits for the first next(), by when Lightning has called set_epoch.
        order = self.chosen
        if self.augment:
            shuffled = torch.randperm(len(order), generator=generator(self.seed, self.epoch, 1))
            order = order[shuffled]
            draw = self.augment.draw(*self.pixels.shape[:2], self.seed, self.epoch)
            draw = Draw(*(decision.to(self.pixels.device) for decision in draw))
        order = order.to(self.pixels.device)
        first, self.start = self.start, 0
        for batch in range(first, len(self)):
            start = batch * self.batch_size
            places = order[start : start + self.batch_size][self.rank :: self.world_size]
            if self.transform and self.augment:
                keys = [
                    (self.seed, self.epoch, start + self.rank + place * self.world_size, 3)
                    for place in range(len(places))
                ]
                images = transform_each(self.transform, unpack(self.pixels[places]), keys)
            elif self.augment:
                images = self.augment.apply(self.pixels, places, draw)
            else:
                images = unpack(self.pixels[places])
            if self.crops:
                images = centre(images, value_at_epoch(self.crops, self.epoch))
            if self.sizes:
                images = downscale(images, value_at_epoch(self.sizes, self.epoch))
            yield images, self.labels[places]


def value_at_epoch(values: Sequence[T], epoch: int) -> T:
    """A setting that is given epoch by epoch; the last value goes on."""
    return values[min(epoch, len(values) - 1)]


def centre(images: Tensor, size: int) -> Tensor:
    """The central `size` x `size` pixels of images (n, 3, S, S)."""
    start = (images.size(-1) - size) // 2
    part = images[..., start : start + size, start : start + size]
    return part.contiguous(memory_format=torch.channels_last)


def downscale(images: Tensor, size: int) -> Tensor:
    """Resize images, uint8 (n, 3, S, S), to `size` pixels a side, antialiased; never enlarge."""
    if images.size(-1) <= size:
        return images
    # torch has fast code for bytes on CPUs alone, and none for bytes on GPUs.
    whole = images.contiguous(memory_format=torch.channels_last)
    given = whole if images.device.type == "cpu" else whole.float()
    small = F.interpolate(given, size=(size, size), mode="bilinear", antialias=True)
    return small if small.dtype == torch.uint8 else small.add_(0.5).clamp_(0, 255).byte()


def transform_each(
    transform: Callable[[Tensor], Tensor], images: Tensor, keys: Sequence[tuple[int, ...]]
) -> Tensor:
    """Transform images, uint8 (n, 3, S, S), each by itself, with torch's chance set by its key."""
    made = []
    with torch.random.fork_rng(devices=[]):
        for image, key in zip(images.contiguous(), keys, strict=True):
            torch.default_generator.manual_seed(generator(*key).initial_seed())
            result = transform(image)
            if result.shape != image.shape or result.dtype != torch.uint8:
                dtype = str(result.dtype).removeprefix("torch.")
                raise SettingError(
                    f"data.transform: must give uint8 of shape {tuple(image.shape)} for an image; "
                    f"it gave {dtype} {tuple(result.shape)}"
                )
            made.append(result)
    return torch.stack(made)
