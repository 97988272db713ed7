"""Augmentation of whole batches: flip, shift, cutout, brightness and contrast."""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cifar10.data import MEAN, STD


def pack(*parts: Tensor) -> Tensor:
    """Pack the three channel bytes of each pixel, and a zero byte, into one int32.

    A gather then moves whole pixels instead of single bytes, and its result is already in the
    channels_last order in which convolutions are fastest.

    Args:
        parts: uint8 (N, 3, H, W) each, to be concatenated.

    Returns:
        int32 (sum of all N, H, W), which takes 4/3 of the memory.
    """
    height, width = parts[0].shape[2:]
    pixels = parts[0].new_zeros(sum(map(len, parts)), height, width, 4)
    for part, target in zip(parts, pixels.split([len(part) for part in parts]), strict=True):
        target[..., :3] = part.permute(0, 2, 3, 1)
    return pixels.view(torch.int32).squeeze(-1)


def unpack(pixels: Tensor) -> Tensor:
    """View packed pixels, int32 (N, H, W), as images, uint8 (N, 3, H, W), without a copy."""
    channels = pixels.unsqueeze(-1).view(torch.uint8)  # (N, H, W, 4)
    return channels[..., :3].permute(0, 3, 1, 2)


class Draw(NamedTuple):
    """The random decisions for each of N images in one epoch."""

    flip: Tensor  # bool (N,)
    shift: Tensor  # int64 (N, 2): rows, columns
    hole: Tensor  # int64 (N, 2): the cutout's first row and column
    colour: Tensor  # float32 (N, 2): brightness to add, contrast to multiply by


@dataclass
class Augment:
    """Random horizontal flip, shift with reflection padding, cutout, brightness and contrast.

    Args:
        flip: `random` flips each image with probability 1/2 in every epoch; `alternating` does so
            in the first epoch and then alternates, so that any two consecutive epochs show both
            orientations (Jordan 2024, https://arxiv.org/abs/2404.00498); `none` never flips.
        shift: largest shift in pixels, in both directions of both axes.
        cutout: side in pixels of a square filled with the mean colour (DeVries and Taylor 2017,
            https://arxiv.org/abs/1708.04552); 0 for none.
        brightness: largest change of brightness, up or down, in standard deviations of the data
            set's pixels.
        contrast: largest change, up or down, of the factor on the distance from the mean colour.
    """

    flip: Literal["random", "alternating", "none"]
    shift: int
    cutout: int
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        mean_colour = torch.tensor([round(255 * mean) for mean in MEAN], dtype=torch.uint8)
        self.mean_colour = int(pack(mean_colour.view(1, 3, 1, 1)))

    def draw(self, count: int, size: int, seed: int, epoch: int) -> Draw:
        """Draw the decisions for `count` images of `size` pixels a side from (seed, epoch)."""
        rng = generator(seed, epoch)
        shift = torch.randint(-self.shift, self.shift + 1, (count, 2), generator=rng)
        # The centre of the hole is anywhere in the image, so the border may cut the hole off.
        hole = torch.randint(size, (count, 2), generator=rng) - self.cutout // 2
        if self.flip == "alternating":
            rng = generator(seed, 0)
        flip = torch.rand(count, generator=rng) < 0.5
        if self.flip == "alternating" and epoch % 2:
            flip = ~flip
        if self.flip == "none":
            flip = torch.zeros_like(flip)
        colour = 2 * torch.rand(count, 2, generator=generator(seed, epoch, 2)) - 1
        colour = colour * torch.tensor([self.brightness, self.contrast]) + torch.tensor([0, 1])
        return Draw(flip, shift, hole, colour)

    def apply(self, pixels: Tensor, indices: Tensor, draw: Draw) -> Tensor:
        """Gather and augment a batch.

        Args:
            pixels: the whole packed data set, int32 (N, S, S).
            indices: of the images in it, int64 (B,).
            draw: the epoch's decisions for all N images.

        Returns:
            Images, uint8 (B, 3, S, S).
        """
        size = pixels.size(-1)
        line = torch.arange(size, device=pixels.device)
        shift = draw.shift[indices]
        rows = reflect(line + shift[:, :1], size)  # (B, S)
        columns = reflect(line + shift[:, 1:], size)
        columns = torch.where(draw.flip[indices, None], columns.flip(1), columns)
        # Gathering whole rows first takes half the time of gathering single pixels.
        moved = pixels.view(-1, size).index_select(0, (indices[:, None] * size + rows).view(-1))
        batch = moved.view(-1, size, size).gather(2, columns[:, None, :].expand(-1, size, -1))
        if self.cutout:
            start = draw.hole[indices]
            inside = (line >= start[..., None]) & (line < start[..., None] + self.cutout)
            batch.masked_fill_(inside[:, 0, :, None] & inside[:, 1, None, :], self.mean_colour)
        images = unpack(batch)
        if self.brightness or self.contrast:
            images = recolour(images, *draw.colour[indices].unbind(1))
        return images


def recolour(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Add `brightness` standard deviations, then multiply the distance from the mean colour.

    Args:
        images: uint8 (B, 3, S, S).
        brightness, contrast: float (B,); 0 and 1 are the identity.
    """
    brightness, contrast = brightness.view(-1, 1, 1, 1), contrast.view(-1, 1, 1, 1)
    mean, std = colour_moments(images.device)
    # ((image - mean) / std + brightness) * contrast * std + mean, in one multiplication
    offset = (brightness * std - mean) * contrast + mean + 0.5  # to the nearest byte
    return torch.addcmul(offset, images.float(), contrast).clamp_(0, 255).to(torch.uint8)


@functools.cache  # a GPU would wait for each copy from the host
def colour_moments(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the data set's pixels in [0, 255], float (3, 1, 1)."""
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return mean.to(device), std.to(device)


def reflect(coordinates: Tensor, size: int) -> Tensor:
    """Reflect coordinates outside [0, size) at the border, without repeating the edge pixel."""
    return (size - 1) - ((size - 1) - coordinates.abs()).abs()


def generator(*key: int) -> torch.Generator:
    """Make a random generator seeded by the whole key.

    NumPy's SeedSequence mixes the key; NumPy guarantees its result across versions.
    """
    from numpy.random import SeedSequence

    return torch.Generator().manual_seed(int(SeedSequence(key).generate_state(1, "uint64")[0] >> 1))
