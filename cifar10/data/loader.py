"""One epoch of in-memory batches."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cifar10.data.augment import Augment, Draw, generator, unpack


class Loader:
    """Yields (images, labels) of one epoch, augmented, from memory, without worker processes.

    A training loader's order and augmentation are a pure function of (seed, epoch): nothing that
    ran before, and no number of ranks, changes them. Each rank takes its share of every global
    batch. An evaluation loader goes through its images once, in order, as they are.

    Yields:
        images: uint8 (n, 3, S, S), channels last in memory.
        labels: int64 (n,).

    Args:
        pixels: the packed set, int32 (N, S, S), on the device where the batches are wanted.
        labels: int64 (N,), on the same device.
        chosen: which images of the set are this loader's, int64 (M,).
        batch_size: images in a global batch; the last one of an epoch may be smaller.
        augment: what happens to training images; None makes an evaluation loader.
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
    ):
        self.pixels, self.labels, self.chosen = pixels, labels, chosen
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
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
        for batch in range(len(self)):
            start = batch * self.batch_size
            places = order[start : start + self.batch_size][self.rank :: self.world_size]
            if self.augment:
                pixels = self.augment.apply(self.pixels, places, draw)
            else:
                pixels = self.pixels[places]
            yield unpack(pixels), self.labels[places]
