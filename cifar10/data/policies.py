"""TrivialAugment and RandAugment, with torchvision's operations, on whole batches."""

from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from cifar10.data import IMAGE_SIZE

Policy = Literal["trivial", "randaugment"]

# Of the 31 magnitudes of an operation, the first and last, as in torchvision 0.29: slopes, pixels,
# degrees, changes of a factor, bits, or a fraction of 255. Those that start at 0 get a random sign.
NAMES = "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness"
OPERATIONS = (*NAMES.split(), "Posterize", "Solarize", "AutoContrast", "Equalize")
FAR = 150 / 331 * IMAGE_SIZE
FIRST = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 1, 0, 0)
LAST: dict[Policy | None, tuple[float, ...]] = {
    None: FIRST,
    "trivial": (0, 0.99, 0.99, 32, 32, 135, 0.99, 0.99, 0.99, 0.99, 2, 0, 0, 0),
    "randaugment": (0, 0.3, 0.3, FAR, FAR, 30, 0.9, 0.9, 0.9, 0.9, 4, 0, 0, 0),
}


def draw_operations(policy: Policy | None, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw the operations of `count` images, int64 (count, k), and float magnitudes (count, k).

    TrivialAugment (Müller and Hutter 2021, https://arxiv.org/abs/2103.10158) has k = 1 and any
    magnitude, RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719) k = 2 and one.
    """
    shape = count, {"trivial": 1, "randaugment": 2, None: 0}[policy]
    operations = torch.randint(len(OPERATIONS), shape, generator=rng)
    bins = torch.randint(31, shape, generator=rng) if policy == "trivial" else torch.full(shape, 9)
    table = torch.stack([torch.linspace(*x, 31) for x in zip(FIRST, LAST[policy], strict=True)])
    table[OPERATIONS.index("Posterize")].round_()
    negative = (torch.rand(shape, generator=rng) < 0.5) & (table[operations, 0] == 0)
    return operations, torch.where(negative, -1, 1) * table[operations, bins]


def apply_operations(
    pixels: Tensor, operations: Tensor, magnitudes: Tensor, on_cpu: Tensor
) -> Tensor:
    """Change each packed image, int32 (B, S, S), by its operation and magnitude, both (B,).

    `on_cpu` are the operations on the CPU.
    """
    counts = on_cpu.bincount(minlength=len(OPERATIONS)).tolist()
    order = operations.argsort()  # so that the images of an operation are a slice
    pixels, operations, magnitudes = pixels[order], operations[order], magnitudes[order]
    moved = slice(counts[0], sum(counts[:6]))
    pixels[moved] = warp(pixels[moved], operations[moved], magnitudes[moved])
    images = pixels.unsqueeze(-1).view(torch.uint8).split(counts)  # (n, S, S, 4)
    factors = magnitudes.view(-1, 1, 1, 1).split(counts)
    for recolour, part, factor in zip(RECOLOUR, images[6:], factors[6:], strict=True):
        part.copy_(recolour(part, factor).clamp_(0, 255))
    return torch.empty_like(pixels).index_copy_(0, order, pixels)


def warp(pixels: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Shear, translate or rotate packed images: the nearest pixel, black outside."""
    size = pixels.size(-1)
    kinds = (operations == kind for kind in range(1, 6))
    shear_x, shear_y, right, down, degrees = (magnitudes * kind for kind in kinds)
    right, down = right.trunc() * 2 / size, down.trunc() * 2 / size
    sin, cos = degrees.deg2rad().sin(), degrees.deg2rad().cos()
    # Where each pixel comes from, in [-1, 1]; shears keep the top left corner. The sums are in
    # torchvision's order: rounding decides between two pixels.
    pairs = (cos, sin + shear_y), (shear_x - sin, cos), (shear_x - right, shear_y - down)
    x_factor, y_factor, offset = (torch.stack(pair, 1)[..., None, None] for pair in pairs)
    line = (2 * torch.arange(size, device=pixels.device) + 1 - size) / size
    grid = (x_factor * line + y_factor * line[:, None] + offset).permute(0, 2, 3, 1)
    bits = pixels & 0xFFFFFF | 0x3F000000  # as floats in [0.5, 2), which no device rounds
    moved = F.grid_sample(bits.view(torch.float32)[:, None], grid, "nearest", align_corners=False)
    return moved.squeeze(1).view(torch.int32)


# Next: functions of padded bytes, uint8 (n, S, S, 4), and magnitudes, float32 (n, 1, 1, 1). Results
# are not yet limited to [0, 255].
def brightness(images: Tensor, magnitudes: Tensor) -> Tensor:
    return images * (1 + magnitudes)


def color(images: Tensor, magnitudes: Tensor) -> Tensor:
    return (images * (1 + magnitudes)).sub_(grey(images) * magnitudes)


def contrast(images: Tensor, magnitudes: Tensor) -> Tensor:
    mean = grey(images).mean((1, 2), keepdim=True)
    return (images * (1 + magnitudes)).sub_(mean * magnitudes)


def grey(images: Tensor) -> Tensor:
    red, green, blue, _ = images.split(1, -1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114).floor_()


def sharpness(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Blend with the image smoothed by 3x3 weights, 5 in the centre and 1 around; no border."""
    result = images.float()
    inside = result[:, 1:-1, 1:-1]
    rows = result[:, :-2] + result[:, 1:-1] + result[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inside
    inside.sub_((sums / 13).round_().sub_(inside).mul_(magnitudes))
    return result


def posterize(images: Tensor, magnitudes: Tensor) -> Tensor:
    return images & (255 << (8 - magnitudes.long())).to(torch.uint8)


def solarize(images: Tensor, magnitudes: Tensor) -> Tensor:
    return torch.where(images < 255 * magnitudes, images, ~images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    low, high = (f(images, (1, 2), keepdim=True).float() for f in (torch.amin, torch.amax))
    flat = low == high
    return (images - low.masked_fill(flat, 0)) / ((high - low) * (1 / 255)).masked_fill(flat, 1)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Make all levels of a channel about equally frequent, with Pillow's rounding."""
    channels = torch.arange(4 * len(images), device=images.device).view(-1, 1, 1, 4)
    index = 256 * channels + images
    counts = torch.zeros(1024 * len(images), dtype=torch.int64, device=images.device)
    counts.scatter_add_(0, index.flatten(), torch.ones_like(counts[:1]).expand(index.numel()))
    counts = counts.view(-1, 256)
    total = counts.cumsum(1)
    brightest = counts.gather(1, total.argmax(1, keepdim=True))  # images of the highest level
    step = (total[:, -1:] - brightest) // 255
    table = (total - counts + step // 2) // step.clamp(min=1)
    table = table.where(step > 0, torch.arange(256, device=images.device))
    return table.flatten().index_select(0, index.flatten()).view_as(images)


RECOLOUR = (brightness, color, contrast, sharpness, posterize, solarize, autocontrast, equalize)
