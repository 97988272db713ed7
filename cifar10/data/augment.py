"""Flips, shifts, cutout and colour on whole batches."""

import functools
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cifar10.data import MEAN, STD


def pack(*parts: Tensor) -> Tensor:
    """Put the three channel bytes of each pixel, and a zero, into one int32.

    A gather then moves whole pixels, 4 times fewer and larger elements than bytes, and what it
    returns already has the channels_last order that convolutions run fastest in.

    Args:
        parts: uint8 (N, 3, H, W) each, to be put one after another.

    Returns:
        int32 (sum of all N, H, W), of 4/3 the size.
    """
    height, width = parts[0].shape[2:]
    pixels = parts[0].new_zeros(sum(map(len, parts)), height, width, 4)
    for part, place in zip(parts, pixels.split([len(part) for part in parts]), strict=True):
        place[..., :3] = part.permute(0, 2, 3, 1)
    return pixels.view(torch.int32).squeeze(-1)


def unpack(pixels: Tensor) -> Tensor:
    """See packed pixels, int32 (N, H, W), as images, uint8 (N, 3, H, W), without a copy."""
    channels = pixels.unsqueeze(-1).view(torch.uint8)  # (N, H, W, 4)
    return channels[..., :3].permute(0, 3, 1, 2)


class Draw(NamedTuple):
    """What chance decided for each of N images in one epoch."""

    flip: Tensor  # bool (N,)
    shift: Tensor  # int64 (N, 2): rows, columns
    hole: Tensor  # int64 (N, 2): the cutout's first row and column
    colour: Tensor  # float32 (N, 2): added brightness, contrast to multiply by


class Augment:
    """Random horizontal flip, shift with reflected border, cutout, brightness and contrast.

    Args:
        flip: `random` flips each image with probability 1/2; `alternating` does so in the first
            epoch and then flips every other epoch, so that two epochs show both sides (Jordan
            2024, https://arxiv.org/abs/2404.00498); `none` never does.
        shift: largest shift in pixels, each way, of both axes.
        cutout: side in pixels of the square that is filled with the mean colour (DeVries and
            Taylor 2017, https://arxiv.org/abs/1708.04552); 0 for none.
        brightness: largest change of an image's brightness, each way, in standard deviations of
            the set's pixels.
        contrast: largest change, each way, of the factor that multiplies its distance from the
            mean colour.
    """

    def __init__(
        self,
        flip: Literal["random", "alternating", "none"],
        shift: int,
        cutout: int,
        brightness: float = 0.0,
        contrast: float = 0.0,
    ):
        self.flip, self.shift, self.cutout = flip, shift, cutout
        self.brightness, self.contrast = brightness, contrast
        grey = [round(255 * mean) for mean in MEAN]
        self.grey = int(pack(torch.tensor(grey, dtype=torch.uint8).view(1, 3, 1, 1)))

    def draw(self, count: int, size: int, seed: int, epoch: int) -> Draw:
        """Decide for `count` images of `size` pixels a side, from (seed, epoch) alone."""
        chance = generator(seed, epoch)
        shift = torch.randint(-self.shift, self.shift + 1, (count, 2), generator=chance)
        # The hole's centre is anywhere in the image, so that holes are cut off by its border.
        hole = torch.randint(size, (count, 2), generator=chance) - self.cutout // 2
        if self.flip == "alternating":
            chance = generator(seed, 0)
        flip = torch.rand(count, generator=chance) < 0.5
        if self.flip == "alternating" and epoch % 2:
            flip = ~flip
        if self.flip == "none":
            flip = torch.zeros_like(flip)
        colour = 2 * torch.rand(count, 2, generator=generator(seed, epoch, 2)) - 1
        colour = colour * torch.tensor([self.brightness, self.contrast]) + torch.tensor([0, 1])
        return Draw(flip, shift, hole, colour)

    def apply(self, pixels: Tensor, chosen: Tensor, draw: Draw) -> Tensor:
        """Gather a batch, flipped and shifted in the same copy; cut the holes; change the colours.

        Args:
            pixels: the whole packed set, int32 (N, S, S).
            chosen: indices into it, int64 (B,).
            draw: the epoch's decisions for all N images.

        Returns:
            Images, uint8 (B, 3, S, S).
        """
        size = pixels.size(-1)
        line = torch.arange(size, device=pixels.device)
        shift = draw.shift[chosen]
        rows = reflect(line + shift[:, :1], size)  # (B, S)
        columns = reflect(line + shift[:, 1:], size)
        columns = torch.where(draw.flip[chosen, None], columns.flip(1), columns)
        # Whole rows first: half the time of gathering each pixel by its own index.
        whole = pixels.view(-1, size).index_select(0, (chosen[:, None] * size + rows).view(-1))
        batch = whole.view(-1, size, size).gather(2, columns[:, None, :].expand(-1, size, -1))
        if self.cutout:
            start = draw.hole[chosen]
            inside = (line >= start[..., None]) & (line < start[..., None] + self.cutout)
            batch.masked_fill_(inside[:, 0, :, None] & inside[:, 1, None, :], self.grey)
        images = unpack(batch)
        if self.brightness or self.contrast:
            images = recolour(images, *draw.colour[chosen].unbind(1))
        return images


def recolour(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Move each image's colours by `brightness` standard deviations, then apart by `contrast`.

    Args:
        images: uint8 (B, 3, S, S).
        brightness, contrast: float (B,); 0 and 1 change nothing.
    """
    brightness, contrast = brightness.view(-1, 1, 1, 1), contrast.view(-1, 1, 1, 1)
    mean, std = colours(images.device)
    # ((image - mean) / std + brightness) * contrast * std + mean, in one multiplication
    offset = (brightness * std - mean) * contrast + mean + 0.5  # to the nearest byte
    return torch.addcmul(offset, images.float(), contrast).clamp_(0, 255).to(torch.uint8)


@functools.cache  # a GPU would wait for each copy from the host
def colours(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the set's pixels in bytes, float (3, 1, 1)."""
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return mean.to(device), std.to(device)


def reflect(places: Tensor, size: int) -> Tensor:
    """Mirror coordinates that lie outside [0, size) at the border, the edge pixel not repeated."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def generator(*key: int) -> torch.Generator:
    """A random generator that depends on the whole key alone, whatever ran before.

    NumPy's SeedSequence mixes the key; its result is guaranteed not to change between versions.
    """
    from numpy.random import SeedSequence

    return torch.Generator().manual_seed(int(SeedSequence(key).generate_state(1, "uint64")[0] >> 1))
