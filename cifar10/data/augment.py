"""Augmentation of whole batches: flip, shift, policy, cutout, brightness and contrast."""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from numpy.random import SeedSequence
from torch import Tensor

from cifar10.data import MEAN, STD
from cifar10.data.policies import Policy, apply_operations, draw_operations


def pack(*parts: Tensor) -> Tensor:
    """Concatenate images, uint8 (N, 3, H, W), and pack each pixel into one int32: (N, H, W).

    A gather then moves whole pixels instead of bytes, and returns images that are channels last.
    """
    height, width = parts[0].shape[2:]
    counts = [len(part) for part in parts]
    pixels = parts[0].new_zeros(sum(counts), height, width, 4)
    for part, target in zip(parts, pixels.split(counts), strict=True):
        target[..., :3] = part.permute(0, 2, 3, 1)
    return pixels.view(torch.int32).squeeze(-1)


def unpack(pixels: Tensor) -> Tensor:
    """View packed pixels, int32 (N, H, W), as images, uint8 (N, 3, H, W), without a copy."""
    return pixels.unsqueeze(-1).view(torch.uint8)[..., :3].permute(0, 3, 1, 2)


def repack(images: Tensor) -> Tensor:
    """Pack images, uint8 (N, 3, S, S), without a copy if they come from `unpack`."""
    count, _, side, _ = images.shape
    strides = 4 * side * side, 4 * side, 4, 1
    if images.stride() != (strides[0], 1, *strides[1:3]):
        return pack(images)
    return images.as_strided((count, side, side, 4), strides).view(torch.int32).squeeze(-1)


class Draw(NamedTuple):
    """The random decisions for each of N images in one epoch."""

    flip: Tensor  # bool (N,)
    shift: Tensor  # int64 (N, 2): rows, columns
    hole: Tensor  # int64 (N, 2): the cutout's first row and column
    colour: Tensor  # float32 (N, 2): brightness to add, contrast to multiply by
    operations: Tensor  # int64 (N, k): indices of the policy's `OPERATIONS`
    magnitudes: Tensor  # float32 (N, k)
    on_cpu: Tensor  # `operations`, on the CPU: reading their counts from a GPU would stall it

    def to(self, device: torch.device) -> "Draw":
        return Draw(*(value.to(device) for value in self))._replace(on_cpu=self.on_cpu)


@dataclass
class Augment:
    """Random flip, shift with reflection padding, policy, cutout, brightness and contrast.

    They are applied in this order: as usual, cutout comes after the policy.

    Args:
        flip: `random` flips with probability 1/2; `alternating` does so in the first epoch and then
            alternates (Jordan 2024, https://arxiv.org/abs/2404.00498).
        shift: largest shift in pixels along each axis.
        cutout: side in pixels of a square filled with the mean colour (DeVries and Taylor 2017,
            https://arxiv.org/abs/1708.04552); 0 for none.
        brightness: largest change, in standard deviations of the data set's pixels.
        contrast: largest change of the factor on the distance from the mean colour.
        policy: random operations on each image; see `draw_operations`.
    """

    flip: Literal["random", "alternating", "none"]
    shift: int
    cutout: int
    brightness: float = 0.0
    contrast: float = 0.0
    policy: Policy | None = None

    def __post_init__(self) -> None:
        mean_colour = torch.tensor([round(255 * mean) for mean in MEAN], dtype=torch.uint8)
        self.mean_colour = int(pack(mean_colour.view(1, 3, 1, 1)))

    def draw(self, count: int, size: int, seed: int, epoch: int) -> Draw:
        """Draw the decisions for `count` images of side `size`, a function of (seed, epoch)."""
        rng = generator(seed, epoch)
        shift = torch.randint(-self.shift, self.shift + 1, (count, 2), generator=rng)
        # The centre of the hole is anywhere in the image, so the border may cut the hole off.
        hole = torch.randint(size, (count, 2), generator=rng) - self.cutout // 2
        if self.flip == "alternating":
            flip = (torch.rand(count, generator=generator(seed, 0)) < 0.5) ^ bool(epoch % 2)
        else:
            flip = torch.rand(count, generator=rng) < (0.5 if self.flip == "random" else 0)
        colour = 2 * torch.rand(count, 2, generator=generator(seed, epoch, 2)) - 1
        colour = colour * torch.tensor([self.brightness, self.contrast]) + torch.tensor([0, 1])
        operations = draw_operations(self.policy, count, generator(seed, epoch, 4))
        return Draw(flip, shift, hole, colour, *operations, operations[0])

    def apply(self, pixels: Tensor, indices: Tensor, on_cpu: Tensor, draw: Draw) -> Tensor:
        """Augment the `indices`, int64 (B,), of packed images (N, S, S): uint8 (B, 3, S, S).

        `on_cpu` are the same, on the CPU.
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
        for step in range(draw.operations.size(1)):
            chosen = draw.operations[indices, step], draw.magnitudes[indices, step]
            batch = apply_operations(batch, *chosen, draw.on_cpu[on_cpu, step])
        if self.cutout:
            start = draw.hole[indices]
            inside = (line >= start[..., None]) & (line < start[..., None] + self.cutout)
            batch.masked_fill_(inside[:, 0, :, None] & inside[:, 1, None, :], self.mean_colour)
        if self.brightness or self.contrast:
            return recolour(unpack(batch), draw.colour[indices])
        return unpack(batch)


def recolour(images: Tensor, colour: Tensor) -> Tensor:
    """Change images, uint8 (B, 3, S, S), by their `colour` in a `Draw`; (0, 1) is the identity."""
    brightness, contrast = colour[..., None, None, None].unbind(1)
    mean, std = colour_moments(images.device)
    # ((image - mean) / std + brightness) * contrast * std + mean, in one multiplication
    offset = (brightness * std - mean) * contrast + mean + 0.5  # to the nearest byte
    return torch.addcmul(offset, images.float(), contrast).clamp_(0, 255).to(torch.uint8)


@functools.cache  # a GPU would wait for each copy from the host
def colour_moments(device: torch.device) -> Tensor:
    """Mean and standard deviation of the data set's pixels in [0, 255], float (2, 3, 1, 1)."""
    return (255 * torch.tensor([MEAN, STD])).view(2, 3, 1, 1).to(device)


def reflect(coordinates: Tensor, size: int) -> Tensor:
    """Reflect coordinates outside [0, size) at the border, without repeating the edge pixel."""
    return (size - 1) - ((size - 1) - coordinates.abs()).abs()


def generator(*key: int) -> torch.Generator:
    """Seed a random generator by a key, mixed as NumPy guarantees it across versions."""
    return torch.Generator().manual_seed(int(SeedSequence(key).generate_state(1, "uint64")[0] >> 1))
